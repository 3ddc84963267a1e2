import errno
import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from pyarrow import parquet

from wssl_pl import InpaintModule, PretextModule
from wssl_pl.cli import main
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.evaluation.results import Result
from wssl_pl.files import owned

PAIRS = ["pairs", "images=synthetic", "masks=synthetic", "image_size=48", "resize=56", "limit=6", "out=pairs"]


def save(path, module, **hyper_parameters):
    """Write a checkpoint of a module, with other hyperparameters than its own where they are given."""
    data = {"images": "synthetic", "masks": "synthetic", "image_size": 48, "resize": 56, "limit": 2, "num_workers": 0}
    saved = {"state_dict": module.state_dict(), "stage": module.stage, "datamodule_hyper_parameters": data}
    torch.save(saved | {"hyper_parameters": dict(module.hparams) | hyper_parameters}, path)


@pytest.fixture
def pairs(train):
    main(PAIRS)
    return "pairs"


def test_every_input_on_the_same_pairs(train, pairs, capsys):
    train("stage=downstream", "ckpt=none", "--run.dir=run")
    main(["evaluate", f"pairs={pairs}", "out=model", "ckpt=run/best.ckpt", "limit=4"])
    main(["evaluate", f"--pairs={pairs}", "--out", "mean", "method=mean", "limit=4"])
    main(["evaluate", f"pairs={pairs}", "out=truth", "predictions=pairs/images", "limit=4"])
    capsys.readouterr()
    main(["evaluate", "--compare", "mean", "model", "truth", "out=comparison"])
    assert "Reference: mean" in capsys.readouterr().out
    result = json.loads(Path("comparison/comparison.json").read_text())
    assert [other["name"] for other in result["others"]] == ["run/best.ckpt", "images"]
    assert result["others"][1]["groups"]["all"]["ssim"]["won"] == 1.0
    for name in ("per_image.parquet", "summary.json", "report.md", "report.html"):
        assert (Path("model") / name).stat().st_size > 0


def test_test_is_the_evaluator_on_the_pairs_of_the_test_split(train):
    train("stage=downstream", "ckpt=none", "--run.dir=run", "--data.hole_ratio=[0.2,0.4]")
    main(["test", "ckpt=run/best.ckpt", "--accelerator=cpu", "--out=by_test"])
    main(["pairs", "images=synthetic", "masks=synthetic", "--data.image_size=64", "--data.resize=72", "--data.limit=16",
          "hole_ratio=0.2,0.4", "out=pairs"])  # fmt: skip
    main(["evaluate", "pairs=pairs", "ckpt=run/best.ckpt", "--accelerator=cpu", "out=by_evaluate"])
    by_test, by_evaluate = (parquet.read_table(f"{folder}/per_image.parquet") for folder in ("by_test", "by_evaluate"))
    assert by_test.equals(by_evaluate)
    summary = json.loads(Path("by_test/summary.json").read_text())
    assert (
        json.loads(Path("by_test/metrics.json").read_text())["test/ssim"] == summary["metrics"]["all"]["ssim"]["mean"]
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pairs"], "out: is required"),
        (["pairs", "out=new", "split=foo"], "split=foo: must be train, val or test"),
        (["pairs", "out=new", "image=x"], "unknown option 'image'"),
        (["pairs", "out=new", "images=/no/where"], "images=/no/where: does not exist"),
        (["evaluate", "pairs=pairs", "out=new", "method=mean", "ckpt=x"], "got ckpt and method"),
        (["evaluate", "method=mean"], "pairs: is required"),
        (["evaluate", "method=mean", "pairs=pairs"], "out: is required"),
        (["evaluate", "method=mean", "pairs=/no/where", "out=new"], "not a finished pairs folder"),
        (["evaluate", "method=lama", "pairs=pairs", "out=new"], "method=lama: is not one of"),
        (["evaluate", "predictions=/no/where", "pairs=pairs", "out=new"], "predictions=/no/where: is not a folder"),
        (["evaluate", "ckpt=/no/where.ckpt", "pairs=pairs", "out=new"], "does not exist"),
        (["evaluate", "method=mean", "pairs=pairs", "out=new", "limit=0"], "limit=0"),
        (["evaluate", "method=mean", "pairs=pairs", "out=new", "best_of=2"], "best_of=2: needs ckpt="),
        (["evaluate", "pairs=pairs", "out=new", "best_of=2", "nearest_of=2"], "best_of=2: needs ckpt="),
        (["evaluate", "method=mean", "pairs=pairs", "out=new", "batch_size=0"], "batch_size=0"),
        (["evaluate", "method=mean", "pairs=pairs", "out=new", "accelerator=x"], "accelerator=x: must be auto, cpu"),
        (["evaluate", "method=mean", "pairs=pairs", "out=new", "lpips_weights=x.pth"], "lpips_weights=x.pth: does not"),
        (["pairs", "out=new", "restore=rotation"], "restore=[rotation]: rotation does not damage an image"),
        (["pairs", "out=new", "restore=saturation,masked"], "masked does not damage an image by degrees"),
        (["pairs", "out=new", "restore=no.Where"], "no.Where"),
        (["evaluate", "method=mean", "pairs=pairs", "out=pairs"], "is the folder of the pairs"),
        (["evaluate", "predictions=other", "pairs=pairs", "out=other"], "is the folder of the pairs or of the"),
        (["evaluate", "method=mean", "pairs=pairs", "out=new", "range=-1-1"], "range=-1-1: is for models"),
        (["evaluate", "method=mean", "pairs=pairs", "out=new", "precision=bf16-mixed"], "bf16-mixed: is for models"),
        (["evaluate", "method=mean", "pairs=pairs", "out=new", "allow_missing=true"], "is for predictions="),
        (["pairs", "by=name", "out=new", "images=pairs/images", "masks=pairs/masks", "split=val"], "split=val: is not"),
        (["pairs", "by=name", "out=new", "images=pairs/images", "masks=pairs/masks", "dilate=4"], "dilate=4: is not"),
        (["evaluate", "method=mean", "pairs=pairs", "out=pairs/pairs.csv/new"], "cannot be written: Not a directory"),
        (["evaluate", "ckpt=shape.ckpt", "pairs=pairs", "out=new"], "ckpt=shape.ckpt: does not fit the network: other"),
        (["test", "ckpt=shape.ckpt", "limit=2"], "ckpt=shape.ckpt: does not fit the network: other shapes"),
        (["test", "ckpt=pretext.ckpt", "limit=2"], "ckpt=pretext.ckpt: does not fit the network: other shapes"),
        (["evaluate", "--compare", "one"], "two or more"),
        (["evaluate", "--compare", "one", "two"], "result=one: is not a finished result"),
        (["evaluate", "--compare", "one", "two", "limit=3"], "unknown option 'limit'"),
        (["evaluate", "--compare", "one", "two", "reference=last"], "reference=last: must be first or best"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(pairs, refused, args, message):
    for name, make in (("shape", InpaintModule), ("pretext", partial(PretextModule, ["rotation"]))):
        if f"ckpt={name}.ckpt" in args:
            save(f"{name}.ckpt", make(width=4), width=2)
    assert message in refused(*args, small=[], epochs=None)
    assert not Path("new/summary.json").exists()


@pytest.mark.parametrize("stage", ["pretext", "downstream"])
def test_the_tensors_of_a_checkpoint_are_read_once(train, monkeypatch, stage):
    save("model.ckpt", PretextModule(["rotation"], width=2) if stage == "pretext" else InpaintModule(width=2))
    load, read = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, mmap=False, **kwargs: (
        read.append(mmap), load(*args, mmap=mmap, **kwargs))[1])  # fmt: skip
    main(["test", "ckpt=model.ckpt", "--accelerator=cpu"])
    assert read.count(False) == 1


def test_an_output_that_another_process_writes_is_refused_at_once(train, refused, monkeypatch):
    monkeypatch.setattr(Pairs, "open", None)  # before any work
    Path("pairs").mkdir()
    for command, folder in ((["evaluate", "method=mean", "pairs=pairs", "out=new"], True), (PAIRS, False),
                            (["evaluate", "--compare", "one", "two", "out=new"], True)):  # fmt: skip
        out = Path(command[-1].removeprefix("out="))
        with owned(out, folder=folder):
            assert f"{command[-1]}: is being written by another process" in refused(*command, small=[], epochs=None)


def test_one_process_runs_wssl_test(refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "wssl test is one process: several share the pairs" in refused("test", "ckpt=x", small=[], epochs=None)


def test_a_full_disk_is_one_line(pairs, refused, monkeypatch):
    def full(self, folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "per_image.parquet"))

    monkeypatch.setattr(Result, "save", full)
    line = refused("evaluate", "method=mean", "pairs=pairs", "out=new", small=[], epochs=None)
    assert "out=new: cannot be written: No space left on device: make room" in line


def test_what_cannot_be_read_or_written_is_one_line(pairs, refused, read_only):
    closed = Path("closed")
    for name in ("images", "masks"):
        (closed / name).mkdir(parents=True)
    closed.chmod(0)
    measure = ["evaluate", "method=mean", "pairs=pairs"]
    for args, message in (
        (["evaluate", "method=mean", "pairs=closed", "out=new"], "pairs=closed: cannot be read: "),
        (["evaluate", "pairs=pairs", "predictions=closed", "out=new"], "predictions=closed: cannot read closed: "),
        (["evaluate", "pairs=pairs", "predictions=closed/x", "out=new"], "predictions=closed/x: cannot be read: "),
        (["evaluate", "pairs=pairs", "ckpt=closed/x.ckpt", "out=new"], "ckpt=closed/x.ckpt: cannot be read: Permiss"),
        (["evaluate", "--compare", "closed", "closed"], "result=closed/per_image.parquet: cannot be read: "),
        (["test", "ckpt=closed/x.ckpt"], "ckpt=closed/x.ckpt: cannot be read: Permission denied"),
        ([*measure, "out=closed"], "out=closed: cannot be written: Permission denied"),
        ([*measure, "out=closed/new"], "out=closed/new: cannot be written: Permission denied"),
        ([*measure, "out=read-only/new"], "out=read-only/new: cannot be written: Permission denied"),
        ([*PAIRS[:-1], "out=read-only"], "out=read-only: cannot be written: Permission denied"),
        ([*PAIRS[:-1], "out=read-only/new"], "out=read-only/new: cannot be written: Permission denied"),
    ):
        line = refused(*args, small=[], epochs=None)
        assert message in line
        assert "Permission denied" in line
    closed.chmod(0o700)


def test_pairs_are_not_overwritten(pairs, refused):
    assert "out=pairs: README.md exists already: name another, or add --overwrite" in refused(
        *PAIRS, small=[], epochs=None
    )


def test_a_users_pairs_by_name(train, capsys):
    for folder, colour in (("images", (9, 90, 200)), ("masks", 0), ("results", (9, 90, 180))):
        Path("mine", folder).mkdir(parents=True)
        for name in ("left.png", "right.png"):
            image = Image.new("L" if folder == "masks" else "RGB", (20, 12), colour)
            if folder == "masks":
                image.paste(255, (6, 0, 20, 12))  # the rest is black: the hole
            image.save(Path("mine", folder, name))
    main(["pairs", "images=mine/images", "masks=mine/masks", "by=name", "out=named"])
    main(["evaluate", "pairs=named", "predictions=mine/results", "out=measured", "--accelerator=cpu"])
    assert "L1 hole" in capsys.readouterr().out
    assert parquet.read_table("measured/per_image.parquet")["image"].unique().to_pylist() == ["left", "right"]
    assert sorted(path.name for path in Path("mine").rglob("*.*")) == ["left.png"] * 3 + ["right.png"] * 3


def test_pairs_of_one_folder_by_patterns(train, refused, capsys):
    """As MADF publishes its examples."""
    Path("mine").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (20, 12), (9, 90, 200)).save(f"mine/{name}.png")
        mask = Image.new("L", (20, 12))
        mask.paste(255, (0, 0, 6, 12))
        mask.save(f"mine/{name}_mask.png")
    main(["pairs", "images=mine/*.png", "masks=mine/*_mask.png", "by=name", "hole=white", "out=named"])
    assert "2 pairs in named" in capsys.readouterr().out
    assert "images=mine/*.png" in refused("stage=pretext", "images=mine/*.png", small=[])


def test_an_overwritten_result_leaves_nothing_of_the_one_before(pairs):
    main(["evaluate", "pairs=pairs", "method=mean", "out=new", "--accelerator=cpu"])
    Path("new/metrics.json").write_text('{"ckpt": "old"}')
    Path("new/mine.txt").touch()
    main(["evaluate", "pairs=pairs", "method=telea", "out=new", "--overwrite", "--accelerator=cpu"])
    assert not Path("new/metrics.json").exists()
    assert Path("new/mine.txt").exists()
    assert json.loads(Path("new/summary.json").read_text())["method"]["name"] == "telea"
