import io
import logging
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.data.fakes import face, image_tree
from tests.data.test_splits import EXPECTED, ORIGINALS, SPLIT_OF
from wssl_pl.data.cache import duplicates
from wssl_pl.data.prepare import prepare
from wssl_pl.data.splits import MAPPING_FILE, PARTITION_FILE, find_layout, first_number, split_images
from wssl_pl.errors import DataError, WSSLError


def numbered(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        face(number).save(folder / name)
    return folder


def celeba_lists(folder: Path) -> None:
    lines = [f"{i} {name - 1} {name:06d}.jpg" for i, name in enumerate(ORIGINALS)]
    (folder / MAPPING_FILE).write_text("\n".join(["idx orig_idx orig_file", *lines]))
    (folder / PARTITION_FILE).write_text("\n".join(f"{name:06d}.jpg {part}" for name, part in SPLIT_OF.items()))


def test_celebamask_hq_takes_its_photographs_and_not_its_label_pictures(tmp_path: Path) -> None:
    numbered(tmp_path / "CelebA-HQ-img", [f"{i}.jpg" for i in range(6)])
    numbered(tmp_path / "CelebAMask-HQ-mask-anno" / "0", [f"0000{i}_hair.png" for i in range(4)])
    celeba_lists(tmp_path)
    layout = find_layout(tmp_path)
    assert (layout.name, layout.folder) == ("CelebAMask-HQ", tmp_path / "CelebA-HQ-img")
    report = prepare(tmp_path, tmp_path / "out", size=32, workers=0)
    assert [entry.split for entry in sorted(report.cache.entries, key=lambda e: int(Path(e.source).stem))] == EXPECTED
    assert report.cache.split_rule == "celeba"
    assert report.cache.layout == "CelebAMask-HQ"


def test_data256x256_counts_from_one(tmp_path: Path) -> None:
    numbered(tmp_path / "data256x256", [f"{i:05d}.jpg" for i in range(1, 7)])
    celeba_lists(tmp_path)
    report = prepare(tmp_path, tmp_path / "out", size=32, workers=0)
    assert report.cache.layout == "data256x256"
    assert [entry.split for entry in sorted(report.cache.entries, key=lambda e: e.source)] == EXPECTED


@pytest.mark.parametrize("above", ["", "celeba_hq"])
def test_stargan_v2_with_males_and_females(tmp_path: Path, above: str) -> None:
    root = image_tree(tmp_path / above, {f"{s}/{g}": 2 for s in ("train", "val") for g in ("male", "female")})
    layout = find_layout(tmp_path)
    assert layout.name.startswith("celeba_hq (train and val, male and female)")
    paths = sorted(root.rglob("*.png"))
    split, rule = split_images(layout.folder, paths)
    assert rule == "folders"
    assert [len(split[name]) for name in ("train", "val", "test")] == [4, 4, 0]


def test_celeba_hq_256_and_other_trees(tmp_path: Path) -> None:
    numbered(tmp_path / "a" / "celeba_hq_256", ["00000.jpg"])
    numbered(tmp_path / "b", ["x.jpg"])
    assert find_layout(tmp_path / "a").name == "celeba_hq_256"
    assert find_layout(tmp_path / "a" / "celeba_hq_256").name == "celeba_hq_256"
    assert find_layout(tmp_path / "b").name == "tree of images"


@pytest.mark.parametrize(
    ("names", "first"),
    [(["0", "1"], 0), (["00001", "00002"], 1), (["00000", "00001"], 0), (["1", "2", "5"], 0), (["1", "30000"], 1)],
)
def test_first_number(names: list[str], first: int) -> None:
    assert first_number([int(name) for name in names], names, 30000) == first


def test_the_layout_and_the_split_go_to_the_log_and_the_run(
    make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbered(tmp_path / "CelebA-HQ-img", [f"{i}.jpg" for i in range(6)])
    celeba_lists(tmp_path)
    module = make(images=str(tmp_path), batch_size=2)
    with caplog.at_level(logging.INFO):
        module.setup("fit")
    assert "CelebAMask-HQ, split by celeba" in caplog.text
    described = module.describe()["images"]
    assert (described["layout"], described["split"], described["train"]) == ("CelebAMask-HQ", "celeba", 3)


def lists(folder: Path, **names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, lines in names.items():
        (folder / f"{name}_shuffled.flist").write_text("\n".join(lines) + "\n")
    return folder


def test_file_lists_by_name_leave_out_what_they_do_not_name(tmp_path: Path) -> None:
    root = numbered(tmp_path / "images", [f"{i}.jpg" for i in range(6)])
    folder = lists(tmp_path / "lists", train=["3.jpg", "0.jpg"], val=["1.jpg"], visual_test=["4.jpg"])
    split, rule = split_images(root, sorted(root.iterdir()), str(folder))
    assert rule == f"lists in {folder}"
    assert {name: [path.name for path in paths] for name, paths in split.items()} == {
        "train": ["0.jpg", "3.jpg"],
        "val": ["1.jpg"],
        "test": ["4.jpg"],
    }


@pytest.mark.parametrize("padded", [True, False])
def test_lists_counted_from_zero_fit_images_counted_from_one(tmp_path: Path, padded: bool) -> None:
    # LaMa's script renames 00001.jpg to 0.jpg before it uses its lists; people's files are not renamed.
    names = [f"{i:05d}.jpg" if padded else f"{i}.jpg" for i in range(1, 7)]
    root = numbered(tmp_path / "images", names)
    folder = lists(tmp_path / "lists", train=["0.jpg", "5.jpg", "2.jpg", "1.jpg"], val=["3.jpg", "4.jpg"])
    split, _ = split_images(root, sorted(root.iterdir()), str(folder))
    assert [path.name for path in split["train"]] == [names[0], names[1], names[2], names[5]]
    assert [path.name for path in split["val"]] == [names[3], names[4]]


@pytest.mark.parametrize("first", [0, 1])
def test_names_that_all_exist_are_taken_as_they_are(tmp_path: Path, first: int, caplog) -> None:
    names = [f"{number}.png" for number in range(first, first + 10)]
    root, omitted = numbered(tmp_path / "images", names), {names[0], names[7]}
    kept = [name for name in names if name not in omitted]
    folder = lists(tmp_path / "lists", train=kept[:5], val=kept[5:])
    split, _ = split_images(root, sorted(root.iterdir()), str(folder))
    assert {name: {path.name for path in paths} for name, paths in split.items()} == {
        "train": set(kept[:5]), "val": set(kept[5:]), "test": set(),
    }  # fmt: skip
    assert not caplog.messages


def test_lines_without_an_image_are_counted_and_a_mark_at_the_beginning_is_none_of_the_name(tmp_path: Path, caplog):
    root = numbered(tmp_path / "images", ["a.jpg", "b.jpg"])
    folder = lists(tmp_path / "lists", train=["a.jpg", "c.jpg"], val=["b.jpg"])
    (folder / "train.txt").write_text("\ufeffa.jpg\r\nc.jpg\r\n", encoding="utf-8")
    for path in folder.glob("train*.flist"):
        path.unlink()
    split, _ = split_images(root, sorted(root.iterdir()), str(folder))
    assert [path.name for path in split["train"]] == ["a.jpg"]
    assert "1 of 3 lines name no image of" in caplog.text


@pytest.mark.parametrize(
    ("names", "said"), [(["1.jpg", "2.jpg"], []), (["1.jpg", "9.jpg"], ["1 of 2 lines name no image"])]
)
def test_one_name_of_several_images_counts_once(tmp_path: Path, caplog, names: list[str], said: list[str]) -> None:
    for folder in ("a", "b"):
        numbered(tmp_path / "images" / folder, ["1.jpg", "2.jpg"])
    split, _ = split_images(
        tmp_path / "images", sorted((tmp_path / "images").rglob("*.jpg")), str(lists(tmp_path / "lists", train=names))
    )
    assert len(split["train"]) == 2 * (2 - len(said))
    assert [message for message in said if message in caplog.text] == said
    assert bool(caplog.messages) == bool(said)


def test_one_number_of_several_images_is_no_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        numbered(tmp_path / "images" / name, ["1.jpg", "2.jpg"])
    folder = lists(tmp_path / "lists", train=["a/1.png", "a/2.png"], visual_test=["b/1.png", "b/2.png"])
    with pytest.raises(WSSLError, match="its lists give several images one number"):
        split_images(tmp_path / "images", sorted((tmp_path / "images").rglob("*.jpg")), str(folder))


def test_the_partition_is_found_above_a_link_and_counts_from_0(tmp_path: Path) -> None:
    names = [f"{number:05d}.jpg" for number in range(1, 6)]  # a part, without 0
    numbered(tmp_path / "elsewhere" / "photos", names)
    (tmp_path / "set").mkdir()
    celeba_lists(tmp_path / "set")
    root = tmp_path / "set" / "celeba_hq_256"
    root.symlink_to(tmp_path / "elsewhere" / "photos")
    split, rule = split_images(root, sorted(root.iterdir()))
    assert rule == "celeba"
    found = {int(path.stem): part for part, paths in split.items() for path in paths}
    assert found == {number: EXPECTED[number] for number in range(1, 6)}


def test_lists_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    root = numbered(tmp_path / "images", ["a.jpg"])
    paths = list(root.iterdir())
    for folder, message in [
        (tmp_path / "nowhere", "is neither auto, folders, celeba, hash nor a folder"),
        (root, "holds no train, val or test list"),
        (lists(tmp_path / "twice", train=["a.jpg"], val=["a.jpg"]), "1 lines name an image that another line names"),
        (lists(tmp_path / "others", train=["b.jpg"]), "name none of the 1 images"),
    ]:
        with pytest.raises(WSSLError, match=message):
            split_images(root, paths, str(folder))


@pytest.mark.parametrize("names", [["train-00000-of-00001", "validation-00000-of-00001"], ["train-00000-of-00001"]])
def test_parquet_of_hugging_face(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    encoded = []
    for number in range(20):
        buffer = io.BytesIO()
        face(number).save(buffer, "png")
        encoded.append(buffer.getvalue())
    for name in names:
        rows = [{"bytes": content, "path": "/etc/passwd"} for content in encoded] + [{"bytes": None, "path": "x.png"}]
        table = pyarrow.table({"image": rows, "label": [0] * 21})
        parquet.write_table(table, tmp_path / "hub" / "data" / f"{name}.parquet", row_group_size=6)
    report = prepare(tmp_path / "hub", tmp_path / "out", size=48, workers=0)
    assert report.cache.layout == "Hugging Face Parquet"
    assert [item.reason for item in report.cache.skipped] == [report.cache.skipped[0].reason] * len(names)
    assert report.cache.skipped[0].reason == "has no bytes in row 20"
    if len(names) == 2:
        assert report.cache.sizes() == {"train": 20, "val": 20}
        assert duplicates(report.cache.entries) == {"train and val": 20}
    array = np.load(report.cache.array_path)
    for entry in report.cache.entries:
        number = int(entry.source.rpartition("#")[2])
        np.testing.assert_array_equal(array[entry.row], np.asarray(face(number)))
    assert str(prepare(tmp_path / "hub", tmp_path / "out", size=48, workers=0).differences) == "nothing new"


@pytest.mark.parametrize("names", [["train/0", "test/0"], ["train-0", "test-0"]])
def test_parquet_in_folders_or_without_a_part_for_validation(tmp_path: Path, names: list[str], caplog) -> None:
    by_name = "-" in names[0]
    for first, name in enumerate([*names, "extra"] if by_name else names):
        rows = []
        for number in range(20 * first, 20 * first + 20):
            buffer = io.BytesIO()
            face(number).save(buffer, "png")
            rows.append({"bytes": buffer.getvalue(), "path": None})
        path = tmp_path / "hub" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.table({"image": rows}), path)
    cache = prepare(tmp_path / "hub", tmp_path / "out", size=32, workers=0).cache
    assert "5% of train for val" in cache.split_rule
    assert {entry.split for entry in cache.entries if entry.source.startswith("test")} == {"test"}
    assert cache.sizes()["test"] == 20
    assert cache.sizes()["train"] + cache.sizes()["val"] == 20
    assert cache.sizes()["val"] > 0
    said = "1 Parquet files have no split in their name: they are omitted (extra.parquet)"
    assert (said in caplog.text) == by_name


def test_parquet_has_to_be_prepared(make, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match=r"images=.*: holds Parquet files: run `wssl prepare images="):
        make(images=str(tmp_path))
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        prepare(tmp_path, tmp_path / "out", workers=0)


def test_a_table_without_images_is_named_with_a_remedy(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"metric": ["psnr"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: has no column of images .*: move it to another folder$"):
        prepare(tmp_path, tmp_path / "out", 32, workers=0)
