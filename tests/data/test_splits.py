from pathlib import Path

import pytest

from wssl_pl.data.splits import MAPPING_FILE, PARTITION_FILE, celeba_hq_partition, hashed_fractions, split_images
from wssl_pl.errors import DataError

# CelebA-HQ 0..5 are CelebA's 000003, 000004, 000001, 000006, 000002, 000005: `orig_idx` is one less than the name says.
ORIGINALS = [3, 4, 1, 6, 2, 5]
SPLIT_OF = {1: 0, 2: 0, 3: 1, 4: 2, 5: 2, 6: 0}
EXPECTED = ["val", "test", "train", "train", "train", "test"]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    lines = [f"{i} {name - 1} {name:06d}.jpg" for i, name in enumerate(ORIGINALS)]
    (tmp_path / MAPPING_FILE).write_text("\n".join(["idx orig_idx orig_file", *lines]))
    (tmp_path / PARTITION_FILE).write_text("\n".join(f"{name:06d}.jpg {part}" for name, part in SPLIT_OF.items()))
    return tmp_path


def test_partition_joins_by_file_name_not_by_the_zero_based_index(lists: Path) -> None:
    assert celeba_hq_partition(lists / MAPPING_FILE, lists / PARTITION_FILE) == EXPECTED


def test_partition_without_the_file_column_counts_from_zero(lists: Path) -> None:
    text = "\n".join(f"{i} {name - 1}" for i, name in enumerate(ORIGINALS))
    (lists / MAPPING_FILE).write_text("idx orig_idx\n" + text)
    assert celeba_hq_partition(lists / MAPPING_FILE, lists / PARTITION_FILE) == EXPECTED


@pytest.mark.parametrize(("first", "digits"), [(0, 1), (1, 5)])
def test_images_are_found_by_number_counted_from_zero_or_one(lists: Path, first: int, digits: int) -> None:
    root = lists / "CelebA-HQ-img"
    files = [root / f"{number + first:0{digits}d}.jpg" for number in range(6)]
    split, layout = split_images(root, files)
    assert layout == "celeba"
    found = {path: name for name, paths in split.items() for path in paths}
    assert [found[path] for path in files] == EXPECTED


def test_an_image_without_an_entry_is_an_error(lists: Path) -> None:
    with pytest.raises(DataError, match=r"7\.jpg: has no entry"):
        split_images(lists, [lists / "0.jpg", lists / "7.jpg"])


def test_a_partition_that_is_cut_short_is_an_error(lists: Path) -> None:
    (lists / PARTITION_FILE).write_text("000001.jpg 0\n")
    with pytest.raises(DataError, match=r"no line for 000003\.jpg"):
        split_images(lists, [lists / "0.jpg"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (PARTITION_FILE, "000001.jpg\n"),
        (PARTITION_FILE, "000001.jpg 7\n"),
        (MAPPING_FILE, "0\n"),
        (MAPPING_FILE, "1 0\n"),
    ],
)
def test_a_damaged_list_is_an_error(lists: Path, name: str, content: str) -> None:
    (lists / name).write_text(content)
    with pytest.raises(
        DataError, match=f"{MAPPING_FILE} or {PARTITION_FILE} cannot be read: .*: download the files again"
    ):
        split_images(lists, [lists / "0.jpg"])


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_folders_come_first(lists: Path, name: str) -> None:
    files = [lists / "train" / "a" / "1.jpg", lists / name / "2.jpg", lists / "stray.jpg"]
    split, layout = split_images(lists, files)
    assert layout == "folders"
    assert split == {"train": [files[0]], "val": [files[1]], "test": []}


def test_hash_split_is_stable_and_about_90_5_5(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(4000)]
    split, layout = split_images(tmp_path, files)
    assert layout == "hash"
    assert len(split["train"]) == pytest.approx(3600, abs=60)
    assert len(split["val"]) == pytest.approx(200, abs=45)
    assert sum(map(len, split.values())) == 4000
    elsewhere, _ = split_images(tmp_path / "x", [tmp_path / "x" / file.name for file in files[::-1]])
    assert {p.name for p in elsewhere["val"]} == {p.name for p in split["val"]}
    both = hashed_fractions(tmp_path, [tmp_path / "1.jpg", tmp_path / "1.PNG"])
    assert [*both.values()] == [pytest.approx(0.42002406436877493)] * 2


def test_the_suffix_does_not_count_for_the_hash(tmp_path: Path) -> None:
    files = [tmp_path / f"{number:05d}{suffix}" for number in range(300) for suffix in (".jpg", ".png", ".WEBP")]
    split, _ = split_images(tmp_path, files, "hash")
    for found in split.values():
        assert len({path.stem for path in found}) * 3 == len(found)
    # Rows of a Parquet file differ in what follows the suffix.
    rows = hashed_fractions(tmp_path, [tmp_path / f"train.parquet#{number}" for number in range(100)])
    assert len(set(rows.values())) == 100


def test_names_that_recur_in_folders_are_divided_by_their_paths(tmp_path: Path) -> None:
    views = [tmp_path / str(person) / f"{view}.png" for person in range(500) for view in ("front", "left", "right")]
    single = [tmp_path / "0" / "1.jpg", tmp_path / "more" / "7.jpg"]
    split, rule = split_images(tmp_path, [*views, *single], "hash")
    assert rule == "hash, paths of recurring names"
    assert len(split["val"]) == pytest.approx(75, abs=30)
    assert {path.stem for path in split["val"]} >= {"front", "left", "right"}
    names = hashed_fractions(tmp_path, [*views, *single])
    assert {path: names[path] for path in single} == hashed_fractions(tmp_path, single)  # as without the others
    moved = hashed_fractions(tmp_path / "x", [tmp_path / "x" / path.relative_to(tmp_path) for path in views])
    assert [*moved.values()] == [names[path] for path in views]
    train, rule = split_images(
        tmp_path / "set", [tmp_path / "set" / "train" / path.relative_to(tmp_path) for path in views]
    )
    assert rule == "folders, 5% of train for val"
    assert {path.stem for path in train["val"]} >= {"front", "left", "right"}


def test_without_a_val_folder_a_fixed_part_of_train_is_taken(tmp_path: Path) -> None:
    files = [tmp_path / "train" / f"{number}.jpg" for number in range(1000)] + [tmp_path / "test" / "0.jpg"]
    split, rule = split_images(tmp_path, files)
    assert rule == "folders, 5% of train for val"
    assert split["test"] == files[-1:]
    assert len(split["val"]) == pytest.approx(50, abs=20)
    assert sorted(split["train"] + split["val"]) == sorted(files[:-1])
    fewer, _ = split_images(tmp_path, files[:500])
    assert fewer["val"] == [path for path in split["val"] if path in files[:500]]


def test_a_small_train_folder_gives_one_image_for_val(tmp_path: Path) -> None:
    files = [tmp_path / "train" / f"{number}.jpg" for number in range(3)]
    split, _ = split_images(tmp_path, files, "folders")
    assert (len(split["train"]), len(split["val"])) == (2, 1)


def test_the_hash_divides_by_its_fractions(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(2000)]
    split, rule = split_images(tmp_path, paths, "hash")
    assert rule == "hash"
    bounds = {"train": (0.0, 0.9), "val": (0.9, 0.95), "test": (0.95, 1.0)}
    fractions = hashed_fractions(tmp_path, paths)
    for name, (low, high) in bounds.items():
        assert split[name] == [path for path in paths if low <= fractions[path] < high]
        assert len(split[name]) == pytest.approx(2000 * (high - low), abs=40)
