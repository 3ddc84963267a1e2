import csv
import errno
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from small_data import sample_data

from tests.data.fakes import mask_tree, save_with_xmp
from wssl_pl.errors import DataError, WSSLError
from wssl_pl.evaluation.evaluate import Settings, evaluate
from wssl_pl.evaluation.pairs import Pairs, assign_masks, write_named_pairs, write_pairs
from wssl_pl.evaluation.predictions import Predictions
from wssl_pl.metrics.bins import bin_of


@pytest.mark.parametrize(
    ("ratio", "name"),
    [(0.0, "0-10"), (0.1, "0-10"), (0.1001, "10-20"), (0.3, "20-30"), (3 * 0.1, "20-30"), (0.5, "40-50"),
     (0.6, "50-60"), (0.61, "60-100"), (1.0, "60-100")],
)  # fmt: skip
def test_bins_hold_their_upper_bound(ratio, name):
    assert bin_of(ratio) == name


def test_folder_is_what_its_list_says(pairs):
    rows = list(csv.DictReader((pairs.folder / "pairs.csv").open()))
    assert len(rows) == 8
    for row in rows:
        mask = np.asarray(Image.open(pairs.folder / row["mask"]))
        assert set(np.unique(mask)) == {0, 255}
        assert float(row["ratio"]) == pytest.approx((mask == 255).mean(), abs=1e-6)
        assert row["bin"] == bin_of(float(row["ratio"]))
        for kind in ("image", "mask"):
            digest = hashlib.sha256((pairs.folder / row[kind]).read_bytes()).hexdigest()
            assert row[f"{kind}_sha256"] == digest
    assert "white (255) is the hole" in (pairs.folder / "README.md").read_text()


def test_images_are_the_data_modules_test_images(pairs):
    datamodule = sample_data()
    datamodule.setup("test")
    batch = datamodule.on_after_batch_transfer(next(iter(datamodule.test_dataloader())), 0)
    image, mask = pairs.read(pairs.pairs)
    assert np.array_equal(image.numpy(), batch["image"].mul(255).round().byte().numpy())
    assert mask.shape == (8, 1, 48, 48)
    assert mask.float().mean(dim=(1, 2, 3)).numpy() == pytest.approx([pair.ratio for pair in pairs.pairs], abs=1e-6)


def test_made_twice_it_is_the_same_and_another_seed_is_not(pairs, tmp_path):
    again = write_pairs(sample_data(), "test", tmp_path / "again", batch_size=3)
    assert (again.folder / "pairs.csv").read_bytes() == (pairs.folder / "pairs.csv").read_bytes()
    assert again.manifest.hash == pairs.manifest.hash
    other = write_pairs(sample_data(pair_seed=1), "test", tmp_path / "other")
    assert other.manifest.hash != pairs.manifest.hash


def test_bins_get_the_same_number_of_images_and_masks_are_not_repeated_early():
    ratios = np.concatenate([np.linspace(0.31, 0.39, 50), np.linspace(0.41, 0.49, 7), [0.0, 1.0]])
    chosen = assign_masks(ratios, 40, seed=0)
    assert Counter(bin_of(ratio) for ratio in ratios[chosen]) == {"30-40": 20, "40-50": 20}
    assert len(set(chosen[::2])) == 20
    assert len(set(chosen[1::2][:7])) == 7
    with pytest.raises(DataError, match="all hole or no hole"):
        assign_masks(np.array([0.0, 1.0]), 3, seed=0)


def test_a_mask_that_is_alone_in_its_bin_does_not_get_a_third_of_the_pairs():
    ratios = np.concatenate([[0.3], np.linspace(0.31, 0.39, 60), np.linspace(0.41, 0.49, 60)])
    for count in (60, 300, 1000):
        chosen = assign_masks(ratios, count, seed=0)
        uses = np.bincount(chosen, minlength=len(ratios))
        assert 1 <= uses[0] < 4 * max(1.0, count / len(ratios)) + 1
        of_bin = Counter(bin_of(ratio) for ratio in ratios[chosen])
        assert abs(of_bin["30-40"] - of_bin["40-50"]) <= 1
        # Any beginning is as balanced as the whole.
        start = Counter(bin_of(ratio) for ratio in ratios[chosen[: count // 2]])
        assert abs(start["30-40"] - start["40-50"]) <= 1


def test_bins_with_enough_masks_take_plain_turns():
    ratios = np.array([0.25] * 10 + [0.35] * 10 + [0.45] * 10)
    bins = [bin_of(ratio) for ratio in ratios[assign_masks(ratios, 31, seed=0)]]
    assert bins == (["20-30", "30-40", "40-50"] * 11)[:31]


@pytest.mark.parametrize(("ratios", "level"), [([0.4] * 2, "INFO"), ([0.4], "WARNING")])
def test_repeated_masks_are_counted(tmp_path, caplog, ratios, level):
    masks = mask_tree(tmp_path / "masks", {"train": [0.4], "test": ratios})
    with caplog.at_level("INFO"):
        made = write_pairs(sample_data(masks=str(masks)), "test", tmp_path / "pairs")
    (record,) = [record for record in caplog.records if "images share" in record.message]
    most = 8 // len(ratios)
    assert f"8 images share {len(ratios)} masks, one of them {most} times" in record.message
    assert record.levelname == level
    assert made.manifest.masks == {"used": len(ratios), "most": most}


def test_a_changed_folder_is_refused(pairs):
    image = pairs.folder / "images" / "00003.png"
    pixels = np.asarray(Image.open(image)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(image)
    with pytest.raises(WSSLError, match=r"was changed \(hash\): images/00003.png: write the pairs again"):
        Pairs.open(pairs.folder)
    image.unlink()
    with pytest.raises(WSSLError, match=r"00003.png \(missing\)"):
        Pairs.open(pairs.folder)


def test_a_changed_list_is_refused(pairs):
    path = pairs.folder / "pairs.csv"
    path.write_text(path.read_text().replace("30-40", "20-30"))
    with pytest.raises(WSSLError, match=r"pairs.csv was changed"):
        Pairs.open(pairs.folder)


def forge(pairs, change):
    """Change the list of a pairs folder, and make its hash fit."""
    path = pairs.folder / "pairs.csv"
    path.write_text(change(path.read_text()))
    manifest = json.loads((pairs.folder / "manifest.json").read_text())
    manifest["pairs_csv_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (pairs.folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["relative", "absolute", "link"])
def test_files_outside_of_the_folder_are_refused(pairs, tmp_path, kind):
    inside, outside = pairs.folder / "images" / "00003.png", tmp_path / "outside.png"
    inside.rename(outside)
    if kind == "link":
        inside.symlink_to(outside)
        named = "images/00003.png"
    else:
        named = {"relative": "../outside.png", "absolute": str(outside)}[kind]
        forge(pairs, lambda text: text.replace("images/00003.png", named))
    with pytest.raises(
        WSSLError, match=f"^pairs=.*: was changed .hash.: {re.escape(named)} .outside of the folder.: w"
    ):
        Pairs.open(pairs.folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text + "00008,images/00008.png\n", "cannot be read: CSV parse error: Expected 8 columns, got 2"),
        (lambda text: text.splitlines()[0] + "\n", "it has no pairs"),
        (lambda text: text.replace("ratio", "size"), "cannot be read: "),
        (lambda text: text.replace(",0.", ",zero.", 1), "cannot be read: "),
        (lambda text: text.replace("images/00003.png", "images/\0.png"), "cannot be read: "),
        (lambda text: "", "cannot be read: "),
        (lambda text: re.sub("[0-9a-f]{64}", "0" * 64, text), "was changed .hash.: images/00000.png"),
    ],
)
def test_a_forged_list_is_one_line(pairs, change, reason):
    forge(pairs, change)
    with pytest.raises(WSSLError, match=rf"^pairs=[^\n]*: {reason}[^\n]*$|^pairs=[^\n]*: {reason}[^\n]*: write"):
        Pairs.open(pairs.folder)


NAN = '{"hash": "a", "pairs_csv_sha256": "a", "count": 1, "size": 1, "data": {"limit": NaN}}'


@pytest.mark.parametrize("text", ['{"hash": 5}', "[]", "[" * 100_000, '{"hash": "a", "size": "large"}', NAN])
def test_a_forged_manifest_is_one_line(pairs, text):
    (pairs.folder / "manifest.json").write_text(text)
    with pytest.raises(WSSLError, match=r"^pairs=.*manifest.json: cannot be read [^\n]*: write the pairs again"):
        Pairs.open(pairs.folder)


def test_a_forged_size_is_one_line(pairs):
    Image.new("L", (3, 3)).save(pairs.folder / "images" / "00001.png")  # after the folder was checked
    with pytest.raises(WSSLError, match=r"^pairs=[^\n]*: cannot be read: [^\n]*$"):
        pairs.read(pairs.pairs)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(WSSLError, match=r"^out=.*: cannot be written: No space left on device: make room$"):
        write_pairs(sample_data(limit=1), "test", tmp_path / "new")


def test_folders_that_are_none(pairs, tmp_path):
    with pytest.raises(WSSLError, match="not a finished pairs folder"):
        Pairs.open(tmp_path)
    (pairs.folder / "manifest.json").write_text("{")
    with pytest.raises(WSSLError, match=r"manifest.json: cannot be read"):
        Pairs.open(pairs.folder)
    with pytest.raises(WSSLError, match="is not empty"):
        write_pairs(sample_data(), "test", pairs.folder)
    with pytest.raises(WSSLError, match="split=foo"):
        write_pairs(sample_data(), "foo", tmp_path / "new")


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_splits(split, tmp_path):
    made = write_pairs(sample_data(limit=3), split, tmp_path / "pairs")
    assert len(made) == 3
    assert json.loads((tmp_path / "pairs" / "manifest.json").read_text())["split"] == split


def picture(path, size=(20, 12), colour=(200, 100, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def hole_mask(path, size=(20, 12), hole=255):
    mask = np.full(size[::-1], 255 - hole, np.uint8)
    mask[:, :5] = hole
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


@pytest.fixture
def published(tmp_path):
    """Images, masks (black = hole) and results in three folders, as MI-GAN publishes its examples."""
    folder = tmp_path / "published"
    for number, name in enumerate(["1.jpg", "2.png", "10.png"]):
        size = (20, 12) if number < 2 else (16, 16)
        stem = name.split(".")[0]
        picture(folder / "images" / name, size)
        hole_mask(folder / "masks" / f"{stem}.png", size, hole=0)
        picture(folder / "results" / "gan" / f"{stem}.png", size, (100, 100, 50))
    return folder


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_pairs_by_name_keep_names_sizes_and_holes(published, tmp_path):
    before = files_of(published)
    made = write_named_pairs(published / "images", published / "masks", tmp_path / "pairs")
    assert [pair.name for pair in made.pairs] == ["1", "2", "10"]
    assert [pair.source for pair in made.pairs] == ["1.jpg", "2.png", "10.png"]
    assert {pair.name: made.size_of(pair) for pair in made.pairs} == {"1": (20, 12), "2": (20, 12), "10": (16, 16)}
    assert [pair.ratio for pair in made.pairs] == [0.25, 0.25, 0.3125]
    image, mask = made.read(made.pairs[1:2])
    assert image[0, :, 0, 0].tolist() == [200, 100, 50]
    assert mask[0, 0, 0].tolist() == [1] * 5 + [0] * 15
    assert "They differ in size" in (made.folder / "README.md").read_text()
    other = write_named_pairs(published / "images", published / "masks", tmp_path / "other", hole="white")
    assert other.pairs[1].ratio == 0.75
    assert other.manifest.hash != made.manifest.hash
    assert files_of(published) == before


@pytest.mark.parametrize("turned", ["images", "masks"])
def test_an_orientation_in_xmp_turns_neither_images_nor_masks(published, tmp_path, turned):
    expected = write_named_pairs(published / "images", published / "masks", tmp_path / "expected").manifest.hash
    path = published / turned / "10.png"
    save_with_xmp(Image.open(path).copy(), path, 3)
    assert write_named_pairs(published / "images", published / "masks", tmp_path / "pairs").manifest.hash == expected


def test_names_of_files_may_hold_anything(tmp_path):
    names = ['a, "b"', "line\nbreak", " space ", "é", "NA"]
    for name in names:
        picture(tmp_path / "images" / f"{name}.png")
        hole_mask(tmp_path / "masks" / f"{name}.png")
    made = write_named_pairs(tmp_path / "images", tmp_path / "masks", tmp_path / "pairs", "white")
    assert sorted(pair.name for pair in made.pairs) == sorted(names)
    assert [pair.image for pair in made.pairs] == [f"images/{pair.name}.png" for pair in made.pairs]


def test_results_beside_a_users_pairs_are_measured(published, tmp_path):
    made = write_named_pairs(published / "images", published / "masks", tmp_path / "pairs")
    names = [pair.name for pair in made.pairs]
    table = evaluate(made, Predictions(published / "results" / "gan", names, names), Settings(batch_size=2)).table
    assert list(table.images) == names
    # Only red differs, by 100 of 255.
    assert table.column("l1_hole")[1:] == pytest.approx([100 / 255 / 3] * 2, abs=1e-5)


def test_images_masks_and_results_in_one_folder(tmp_path, caplog):
    """As MADF publishes its examples: case1.png, case1_mask.png, case1_output.png."""
    folder = tmp_path / "examples"
    for name in ("case1", "case2"):
        picture(folder / f"{name}.png")
        hole_mask(folder / f"{name}_mask.png")
        picture(folder / f"{name}_output.png", colour=(100, 100, 50))
    picture(folder / "case3.png")
    made = write_named_pairs(folder / "*.png", folder / "*_mask.png", tmp_path / "pairs", hole="white")
    names = [pair.name for pair in made.pairs]
    assert names == ["case1", "case2"]
    assert "3 have no mask and are in no pair: case1_output, case2_output, case3" in caplog.text
    table = evaluate(made, Predictions(folder / "*_output.png", names, names)).table
    assert table.column("l1") == pytest.approx([100 / 255 / 3] * 2, abs=1e-5)


def test_names_in_another_form_of_unicode_are_the_same(tmp_path):
    """As archives have them that were made on macOS."""
    picture(tmp_path / "images" / (unicodedata.normalize("NFD", "é") + ".png"))
    hole_mask(tmp_path / "masks" / (unicodedata.normalize("NFC", "é") + ".png"))
    picture(tmp_path / "results" / (unicodedata.normalize("NFD", "é") + ".png"))
    made = write_named_pairs(tmp_path / "images", tmp_path / "masks", tmp_path / "pairs", hole="white")
    names = [pair.name for pair in made.pairs]
    assert len(evaluate(made, Predictions(tmp_path / "results", names, names)).table.images) == 1


def test_a_name_that_is_not_utf_8_is_named(tmp_path):
    picture(tmp_path / "images" / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(DataError, match="is not UTF-8: rename the file"):
        write_named_pairs(tmp_path / "images", tmp_path / "images", tmp_path / "pairs")


def test_pairs_that_do_not_match_are_listed(published, tmp_path):
    images, masks = published / "images", published / "masks"
    cases = [
        (lambda: (masks / "2.png").unlink(), "1 images have no mask: 2"),
        (lambda: hole_mask(masks / "7.png"), "1 masks have no image: 7"),
        (lambda: hole_mask(masks / "2.png", (12, 20)), "is 12 x 20 px, its image 20 x 12 px"),
        (lambda: (images / "2.png").write_bytes(b"not an image"), "cannot be read"),
        (lambda: picture(images / "1.png"), "names twice: 1"),
    ]
    for number, (spoil, message) in enumerate(cases):
        spoil()
        with pytest.raises(DataError, match=message):
            write_named_pairs(images, masks, tmp_path / f"{number}")
        hole_mask(masks / "2.png", hole=0)
        (masks / "7.png").unlink(missing_ok=True)
    picture(tmp_path / "others" / "face.png")
    with pytest.raises(DataError, match="no mask has the name of an image"):
        write_named_pairs(tmp_path / "others", masks, tmp_path / "new")


def test_an_unfinished_folder_with_images_and_masks_names_the_command_for_a_new_folder(published):
    before = files_of(published)
    with pytest.raises(DataError, match="is not a finished pairs folder") as caught:
        Pairs.open(published)
    assert f"wssl pairs images={published}/images masks={published}/masks by=name out=NEW_FOLDER" in str(caught.value)
    assert files_of(published) == before
