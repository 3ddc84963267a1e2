from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["stage=foo"], "stage=foo: is not a stage: there are pretext, downstream"),
        (["tasks=rotation"], "stage: is required: give stage=pretext or stage=downstream"),
        (["stage=pretext", "tasks=[rotate]"], "did you mean rotation"),
        (["stage=pretext", "tasks=[rotation,rotation]"], "given twice"),
        (["stage=pretext", "tasks=rotation,sharpness", "weights=1"], "1 given for 2 tasks"),
        (["stage=pretext", "tasks=rotation,sharpness", "weights=1,-1"], "not a positive number"),
        (["stage=pretext", "--model.levels.sharpness=[0,2]", "tasks=sharpness"], "outside [0, 1]"),
        (["stage=pretext", "--trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
        (["stage=pretext", "--data.image_size=31"], "image_size=31: stage=pretext needs at least 32 pixels"),
        (["stage=pretext", "--model.widht=3"], "did you mean model.width"),
        (["stage=pretext", "width=3"], "did you mean model.width"),
        (["stage=pretext", "--model.width=abc"], "model.width"),
        (["stage=pretext", "--model.lr=-1"], "lr=-1.0: must be a positive number"),
        (["stage=pretext", "--data.images=/no/where"], "images=/no/where: does not exist"),
        (["stage=downstream", "ckpt=none", "--data.masks=/no/where"], "masks=/no/where: does not exist"),
        (["stage=downstream"], "ckpt=none"),
        (["stage=pretext", "images=https://example.org"], "error: images=https://example.org: is an address, and no"),
        (["stage=pretext", "images=/no/where"], "error: images=/no/where: does not exist"),
        (["stage=downstream", "ckpt=/no/where.ckpt"], "does not exist"),
        (["stage=downstream", "ckpt=none", "freeze_layers=17"], "between 0 and 16"),
        (["stage=downstream", "ckpt=none", "loss=l2"], "loss=l2: must be "),
        (["stage=pretext", "resume=/no/where"], "no checkpoint"),
        (["resume=last"], "run.dir"),
        (["stage=pretext", "--config=/no/where.yaml"], "does not exist"),
        (["stage=pretext", "somewhere"], "unexpected 'somewhere'"),
        (["test"], "ckpt: is required"),
        (["test", "ckpt=/no/where.ckpt"], "does not exist"),
    ],
)
def test_one_line_and_exit_code_2(args, message, refused):
    assert message in refused(*args, small=[], epochs=None)
    assert not Path("runs").exists()


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_where_there_is_none(refused, monkeypatch, accelerator):
    monkeypatch.setattr("wssl_pl.cli.train.has_accelerator", lambda: False)
    message = refused("stage=pretext", f"--trainer.accelerator={accelerator}", small=[], epochs=None)
    assert f"trainer.accelerator={accelerator}: there is no GPU that PyTorch can use: omit it, or give" in message


def test_a_file_that_is_no_checkpoint(refused):
    Path("text.ckpt").write_text("not a checkpoint")
    torch.save({"weights": torch.ones(1)}, "other.ckpt")
    Path("empty.ckpt").touch()
    assert "is not a checkpoint" in refused("stage=downstream", "ckpt=text.ckpt")
    assert "is not a checkpoint" in refused("stage=downstream", "ckpt=empty.ckpt")
    assert "it has no stage" in refused("stage=downstream", "ckpt=other.ckpt")
    Path("weights.safetensors").touch()
    assert "holds weights alone" in refused("stage=downstream", "ckpt=weights.safetensors")
    Path("cut.ckpt").write_bytes(Path("other.ckpt").read_bytes()[:300])
    assert "is not a checkpoint" in refused("stage=downstream", "ckpt=cut.ckpt")


class Hostile:
    def __reduce__(self):
        return (Path("was_run").touch, ())


@pytest.mark.parametrize("args", [["stage=downstream", "ckpt=hostile.ckpt"], ["test", "ckpt=hostile.ckpt"],
                                  ["stage=pretext", "resume=hostile.ckpt"]])  # fmt: skip
def test_a_checkpoint_that_would_run_code_is_refused(refused, args):
    torch.save({"stage": "pretext", "state_dict": {}, "bad": Hostile()}, "hostile.ckpt")
    assert "could run code" in refused(*args, small=[], epochs=None)
    assert not Path("was_run").exists()


def test_a_checkpoint_of_the_other_stage(refused, train, pretext_ckpt):
    train("stage=downstream", "ckpt=none", "--run.dir=down")
    assert "is a downstream checkpoint" in refused("stage=downstream", "ckpt=down/best.ckpt")
    assert "is a pretext checkpoint" in refused("stage=downstream", "ckpt=none", f"resume={pretext_ckpt}", small=[])


def test_an_encoder_that_does_not_fit_names_the_keys(refused, pretext_ckpt):
    checkpoint = torch.load(pretext_ckpt, weights_only=True)
    checkpoint["state_dict"].pop("encoder.stages.0.first.conv.weight")
    checkpoint["state_dict"]["encoder.strange"] = torch.ones(1)
    torch.save(checkpoint, "changed.ckpt")
    message = refused("stage=downstream", "ckpt=changed.ckpt")
    assert "missing stages.0.first.conv.weight" in message
    assert "unexpected strange" in message
    checkpoint["state_dict"]["teacher.weight"] = torch.ones(1)
    torch.save(checkpoint, "changed.ckpt")
    assert "teacher.weight" in refused("stage=downstream", "ckpt=changed.ckpt")


def test_another_width_than_the_checkpoints(refused, pretext_ckpt):
    assert "has width=8" in refused("stage=downstream", f"ckpt={pretext_ckpt}", "--model.width=16")
    message = refused("resume=pretext/last.ckpt", "--model.width=16", small=[])
    assert "model.width=16: the resumed run has width=8: omit it, or start a new run" in message


def test_damaged_images(refused, train):
    from PIL import Image

    folder = Path("faces/train")
    folder.mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (80, 80), (20 * number, 90, 120)).save(folder / f"{number}.jpg")
    (Path("faces") / "val").mkdir()
    Image.new("RGB", (80, 80)).save("faces/val/0.jpg")
    whole = (folder / "3.jpg").read_bytes()
    (folder / "3.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "5.jpg").write_bytes(b"")
    message = refused("stage=pretext", "--data.images=faces")
    assert "3.jpg" in message
    train("stage=pretext", "--data.images=faces", "--data.on_error=skip", "--run.dir=run")
    assert '"skipped": 2' in Path("run/data.json").read_text()


def test_empty_folder(refused):
    Path("empty").mkdir()
    assert "images=empty" in refused("stage=pretext", "--data.images=empty")
