import contextlib
import errno
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.data.fakes import face, image_tree, mask_tree
from wssl_pl.cli import main


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_tree(tmp_path / "faces", {"train": 12, "val": 4, "test": 3}, size=80)
    mask_tree(tmp_path / "holes", {"train": [0.4, 0.35, 0.7], "test": [0.4]})


def test_prepare_check_and_train_from_it(capsys, train):
    Path("faces/train/bad.png").write_text("hello")
    main(["prepare", "images=faces", "out=cache", "size=72", "workers=0"])
    out = capsys.readouterr().out
    assert "19 images of 72 px (train 12, val 4, test 3) from tree of images, split by folders" in out
    assert "Skipped 1 files" in out
    main(["prepare", "--check", "out=cache"])
    assert "all 19 images are as they were written" in capsys.readouterr().out
    main(["prepare", "faces", "cache", "--size", "72", "--workers=0"])
    assert "nothing new" in capsys.readouterr().out
    train("stage=downstream", "ckpt=none", "--data.images=cache", "--data.masks=holes", "--run.dir=run")
    described = json.loads(Path("run/data.json").read_text())
    assert described["images"]["layout"] == "cache of tree of images"
    assert described["images"]["split"] == "folders"
    assert described["masks"]["hole"] == "black"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["prepare"], "out: is required: name the cache's folder"),
        (["prepare", "out=x"], "images: is required: name a folder of images"),
        (["prepare", "images=nowhere", "out=x"], "images=nowhere: does not exist"),
        (["prepare", "images=faces", "out=x", "sise=3"], "did you mean size?"),
        (["prepare", "images=faces", "out=x", "size=big"], "size=big: must be a whole number of at least 1"),
        (["prepare", "images=faces", "out=x", "check=maybe"], "check=maybe: must be true or false"),
        (["prepare", "faces", "x", "y"], "unexpected 'y'"),
        (["prepare", "--check", "out=faces"], "out=faces: is neither a cache nor shards"),
        (["prepare", "--check", "out=nowhere"], "out=nowhere: does not exist"),
        (["prepare", "images=faces", "out=x", "chunk_size=4"], "chunk_size=4: is for shards: add format=shards"),
        (
            ["prepare", "images=faces", "out=x", "size=64", "format=shards", "encoding=file"],
            "size=64: encoding=file stores the files as they are",
        ),
        (["pairs", "by=name", "out=x", "images=faces", "masks=faces", "limit=2"], "limit=2: is not for by=name"),
        (["masks"], "unknown command 'masks': did you mean wssl masks"),
        (["masks", "stat"], "unknown command 'masks stat': did you mean wssl masks stats?"),
        (["masks", "stats"], "masks: is required: folder of masks"),
        (["masks", "stats", "nowhere"], "masks=nowhere: does not exist"),
        (["masks", "stats", "holes", "size=0"], "size=0"),
        (["masks", "make", "out=m"], "count: is required"),
        (["masks", "make", "out=holes", "count=4"], "out=holes: test exists already: name another, or add --overwrite"),
        (["masks", "make", "out=faces", "count=4", "--overwrite"], "out=faces: is not empty: it holds val"),
        (["masks", "make", "out=m", "count=4", "drawings=nowhere"], "drawings=nowhere: does not exist"),
        (["show"], "unknown command 'show': did you mean wssl show data?"),
        (["show", "data", "split=holdout"], "split=holdout: must be train, val or test"),
        (["show", "data", "--data.image=x"], "did you mean images?"),
        (["show", "data", "count=0"], "count=0"),
    ],
)
def test_one_line_and_exit_code_2(args, message, refused):
    assert message in refused(*args, small=[], epochs=None)


def test_masks_stats_for_both_polarities_and_a_picture(capsys):
    Image.new("L", (8, 8), 100).save("holes/train/grey.png")
    Path("holes/train/bad.png").write_bytes(b"")
    main(["masks", "stats", "holes", "out=plots/r.png"])
    out = capsys.readouterr().out
    assert "hole=black" in out
    assert "hole=white" in out
    assert "30-50 %" in out
    assert "1 of 6 masks are not black and white alone" in out
    assert "bad.png is empty" in out
    with Image.open("plots/r.png") as picture:
        assert picture.width > 400


def test_masks_make(capsys):
    main(["masks", "make", "out=drawn", "count=6"])
    assert "5 masks in train, 1 in test; black is the hole" in capsys.readouterr().out
    assert Path("drawn/test/00000_test.png").is_file()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_show_data(split):
    sizes = ["--data.image_size=64", "--data.resize=72", "--data.batch_size=2", "--data.num_workers=0"]
    main(["show", "data", f"split={split}", "count=3", "--data.images=faces", "--data.masks=holes", *sizes])
    with Image.open("show_data.png") as picture:
        assert picture.width > 400


@pytest.mark.parametrize(
    "line",
    [
        "prepare faces {}/cache workers=0",
        "masks make out={}/masks count=2",
        "masks stats holes out={}/r.png",
        "masks stats holes out={}/new/r.png",
        "show data out={}/r.png data.images=faces data.masks=holes",
    ],
)
def test_a_read_only_folder_is_one_line_before_the_work(line, read_only, refused, monkeypatch):
    for work in ("mask_stats.scan_masks", "mask_maker.draw_mask", "prepare.decode_image", "show.first_batch"):
        monkeypatch.setattr(f"wssl_pl.data.{work}", lambda *_: pytest.fail("work was begun"))
    message = refused(*line.format(read_only).split(), small=[], epochs=None)
    assert "out=" in message
    assert "Permission denied" in message


def test_a_full_disk_is_one_line(refused, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("old.png").write_text("old")
    monkeypatch.setattr(Image.Image, "save", full)
    assert "out=m: cannot be written: No space" in refused("masks", "make", "out=m", "count=2", small=[], epochs=None)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    for line in ("masks stats holes out=old.png", "show data out=old.png data.images=faces data.masks=holes"):
        assert "out=old.png: cannot be written: No space" in refused(
            *line.split(), "--overwrite", small=[], epochs=None
        )
    assert Path("old.png").read_text() == "old"


def test_a_name_without_an_image_format(refused):
    assert "out=r.foo: names no image format" in refused("masks", "stats", "holes", "out=r.foo", small=[], epochs=None)


def test_closed_folders_and_files_are_called_so(permissions_count, refused, capsys):
    Path("faces/train/1.png").chmod(0)
    assert "1.png: cannot be read: Permission denied (1 of 12" in refused("stage=pretext", "--data.images=faces")
    main(["prepare", "faces", "cache", "size=64", "workers=0"])
    assert "'train/1.png': cannot be read: Permission denied" in capsys.readouterr().out
    for folder in ("faces/train", "faces"):
        Path(folder).chmod(0)
        try:
            for line in (["stage=pretext", "--data.images=faces"], ["prepare", "faces", "other"]):
                message = refused(*line, small=[], epochs=None)
                assert message.startswith("error: ")
                assert "images=faces: cannot " in message
                assert "Permission denied" in message
        finally:
            Path(folder).chmod(0o755)


@pytest.mark.parametrize("verb", [["prepare"], ["masks", "stats"], ["masks", "make"], ["show", "data"]])
def test_help(verb, capsys):
    with contextlib.suppress(SystemExit):
        main([*verb, "--help"])
    assert "out" in capsys.readouterr().out


def test_a_cache_of_another_size_is_one_line(refused, train):
    face(0, 80).save("faces/train/99.png")
    main(["prepare", "faces", "cache", "size=64", "workers=0"])
    message = refused("stage=pretext", "--data.images=cache")
    assert "resize=72: the cache cache has 64 px: set resize=64" in message
