"""What is typed on resume takes effect or is refused, and the best checkpoint survives."""

import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.cli.checkpoints import same, weights
from tests.cli.conftest import SMALL
from tests.cli.interruptions import interrupt_at
from tests.cli.test_run_table import PRETEXT, TINY
from tests.processes import run_both_ranks
from wssl_pl.callbacks.checkpoints import RandomState
from wssl_pl.cli import main
from wssl_pl.modules import InpaintModule, PretextModule, read_checkpoint

ROOT = Path(__file__).parents[2]
SCRATCH = ["stage=downstream", "ckpt=none", "freeze_layers=0"]


@pytest.fixture
def rates(monkeypatch):
    """The learning rates of every optimiser step, by parameter group."""
    found = []
    original = InpaintModule.optimizer_step

    def recorded(self, epoch, batch_idx, optimizer, *args, **kwargs):
        found.append([group["lr"] for group in optimizer.optimizer.param_groups])
        return original(self, epoch, batch_idx, optimizer, *args, **kwargs)

    monkeypatch.setattr(InpaintModule, "optimizer_step", recorded)
    return found


def test_a_typed_learning_rate_takes_effect_on_resume_and_is_recorded(train, rates):
    train(*SCRATCH, "--model.lr=1e-3", "--run.dir=run")
    train("resume=run/last.ckpt", "--model.lr=1e-6", small=[], epochs=2)
    assert rates == [[1e-3]] * 4 + [[1e-6]] * 4
    assert read_checkpoint("run/last.ckpt")["hyper_parameters"]["lr"] == 1e-6
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["lr"] == 1e-6


def test_a_typed_rate_of_the_encoder_takes_effect_on_resume(train, rates):
    train(*SCRATCH, "--model.lr=1e-3", "--run.dir=run")
    train("resume=run/last.ckpt", "--model.encoder_lr=1e-5", small=[], epochs=2)
    assert rates == [[1e-3]] * 4 + [[1e-5, 1e-3]] * 4
    train("resume=run/last.ckpt", "--model.encoder_lr=1e-4", small=[], epochs=3)
    assert rates[8:] == [[1e-4, 1e-3]] * 4


def test_a_cosine_that_ended_resumes_at_a_constant_rate(train, rates):
    train(*SCRATCH, "--model.lr=1e-3", "--model.lr_schedule=cosine", "--run.dir=run")
    train("resume=run/last.ckpt", "--model.lr_schedule=constant", small=[], epochs=2)
    assert rates[4:] == [[1e-3]] * 4


def test_a_typed_rate_scales_the_rest_of_a_cosine(train, rates):
    args = [*SCRATCH, "--model.lr_schedule=cosine"]
    train(*args, "--model.lr=1e-3", "--run.dir=whole", epochs=2)
    expected = [[rate * 0.1] for (rate,) in rates[4:]]
    rates.clear()
    train(*args, "--model.lr=1e-3", "--run.dir=parts", epochs=1)
    rates.clear()
    train("resume=parts/last.ckpt", "--model.lr=1e-4", small=[], epochs=2)
    assert torch.tensor(rates).flatten().tolist() == pytest.approx(torch.tensor(expected).flatten().tolist())


def test_without_a_typed_setting_the_rate_in_the_checkpoint_stays(train, rates):
    train(*SCRATCH, "--model.lr=1e-3", "--run.dir=run")
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] = 5e-4  # as a callback may have left it
    torch.save(checkpoint, "run/last.ckpt")
    train("resume=run/last.ckpt", small=[], epochs=2)
    assert rates[4:] == [[5e-4]] * 4


def test_typed_loss_and_weights_take_effect_on_resume(train):
    train(*SCRATCH, "--run.dir=run")
    train("resume=run/last.ckpt", "loss=ssim", small=[], epochs=2)
    assert InpaintModule.load_from_checkpoint("run/last.ckpt", weights_only=True).loss.alpha == 0.0
    train("stage=pretext", "tasks=rotation,sharpness", "--run.dir=pretext")
    train("resume=pretext/last.ckpt", "weights=0.1,0.9", small=[], epochs=2)
    module = PretextModule.load_from_checkpoint("pretext/last.ckpt", weights_only=True)
    assert module.weighting.weights == pytest.approx({"rotation": 0.1, "sharpness": 0.9})


@pytest.mark.parametrize("typed", ["freeze_layers=16", "--model.width=4", "--model.norm=batch", "ckpt=other.ckpt"])
def test_what_cannot_take_effect_on_resume_is_refused(train, refused, typed):
    train(*SCRATCH, "--run.dir=run")
    before = weights("run/last.ckpt")
    message = refused("resume=run/last.ckpt", typed, small=[], epochs=2)
    assert typed.lstrip("-").split("=")[0].removeprefix("model.") in message or "does not fit the network" in message
    assert same(before, weights("run/last.ckpt"))
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["freeze_layers"] == 0


@pytest.mark.slow
def test_resume_auto_starts_resumes_and_ends_with_one_command(train, monkeypatch, capsys):
    train("stage=pretext", "tasks=rotation", "--run.dir=whole", epochs=2)
    command = ["stage=pretext", "tasks=rotation", "resume=auto", "--run.dir=run"]
    left = interrupt_at(monkeypatch, PretextModule, [1, 5])
    while left:
        with pytest.raises(SystemExit):
            train(*command, epochs=2)
    train(*command, epochs=2)
    assert same(weights("whole/last.ckpt"), weights("run/last.ckpt"))
    capsys.readouterr()
    train(*command, epochs=2)  # once more after its end: nothing is trained
    assert "after 8 steps" in capsys.readouterr().out
    assert same(weights("whole/last.ckpt"), weights("run/last.ckpt"))


def test_resume_auto_starts_again_where_nothing_can_be_resumed(train):
    train("stage=pretext", "tasks=rotation", "--run.dir=whole")
    shutil.copytree("whole", "run")
    Path("run/last.ckpt").unlink()  # killed between the first best.ckpt and the first last.ckpt
    train("stage=pretext", "tasks=rotation", "resume=auto", "--run.dir=run")
    assert same(weights("whole/last.ckpt"), weights("run/last.ckpt"))


def test_resume_auto_takes_the_pretext_checkpoint_of_the_command_line(train, pretext_ckpt):
    command = ["stage=downstream", f"ckpt={pretext_ckpt}", "resume=auto", "--run.dir=run"]
    train(*command, epochs=1)
    train(*command, epochs=2)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 1


def test_a_checkpoint_that_cannot_be_restored_is_one_line(train, refused):
    train(*PRETEXT, "--run.dir=run", small=TINY)
    whole = torch.load("run/last.ckpt", weights_only=True)
    for damage in (
        {"loops": {"fit_loop": 1}},
        {"pytorch-lightning_version": "x"},
        {"state_dict": {"a": 1}},
        {"optimizer_states": [1]},
    ):
        torch.save(whole | damage, "run/last.ckpt")
        before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
        assert "resume=run/last.ckpt: " in refused("resume=run/last.ckpt", small=[], epochs=2)
        assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_checkpoint_without_its_run_says_what_is_missing(refused, pretext_ckpt):
    Path("alone.ckpt").write_bytes(Path(pretext_ckpt).read_bytes())
    message = refused("resume=alone.ckpt", small=[], epochs=None)
    assert "resume=alone.ckpt: there is no config.yaml beside it: resume the directory of the run, or give" in message


def test_resume_auto_needs_a_run_directory(refused):
    assert "run.dir" in refused("stage=pretext", "resume=auto")


def test_a_downstream_run_resumes_after_its_pretext_checkpoint_is_gone(train, pretext_ckpt):
    train("stage=downstream", f"ckpt={pretext_ckpt}", "--run.dir=run")
    Path(pretext_ckpt).unlink()
    train("resume=run/last.ckpt", small=[], epochs=2)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 1
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["ckpt"].endswith(pretext_ckpt)


def test_the_features_of_the_pretext_checkpoint_are_found_again_on_resume(train, pretext_ckpt, monkeypatch):
    typed = [f"ckpt={pretext_ckpt}", "--model.features=pretext", "--model.perceptual=0.1"]
    train("stage=downstream", *typed, "--run.dir=run")
    features = f"pretext:{Path(pretext_ckpt).absolute()}"
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["features"] == features
    run = Path("run").absolute()
    monkeypatch.chdir(Path("pretext"))
    train(f"resume={run}/last.ckpt", "--model.features=pretext", small=[], epochs=2)
    assert read_checkpoint(run / "last.ckpt")["hyper_parameters"]["features"] == features


def spoil(monkeypatch):
    """Make every validation from now on worse than any before."""
    original = InpaintModule.forward
    monkeypatch.setattr(InpaintModule, "forward", lambda self, *args: 0.0 * original(self, *args))


@pytest.mark.parametrize("how", ["moved", "other"])
def test_a_worse_epoch_does_not_replace_the_best_checkpoint_of_a_run_in_another_place(train, monkeypatch, how):
    train(*SCRATCH, "--run.dir=run", epochs=2)
    best = weights("run/best.ckpt")
    spoil(monkeypatch)
    if how == "moved":
        Path("elsewhere").mkdir()
        shutil.move("run", "elsewhere/run")
        train("resume=elsewhere/run/last.ckpt", small=[], epochs=3)
        assert same(best, weights("elsewhere/run/best.ckpt"))
    else:
        train("resume=run/last.ckpt", "--run.dir=other", small=[], epochs=3)
        assert same(best, weights("other/best.ckpt"))
        assert same(best, weights("run/best.ckpt"))
        assert read_checkpoint("other/last.ckpt")["epoch"] == 2


@pytest.mark.slow
def test_without_its_best_checkpoint_a_run_keeps_the_best_from_now_on(train, monkeypatch):
    train(*SCRATCH, "--run.dir=run")
    Path("run/best.ckpt").unlink()
    spoil(monkeypatch)
    train("resume=run/last.ckpt", small=[], epochs=2)
    assert read_checkpoint("run/best.ckpt")["epoch"] == 1


def test_of_equal_accuracies_the_lower_loss_is_the_best(train, monkeypatch):
    # The accuracy of one validation image is 0 or 1 here: it ties for ever, and the loss decides.
    losses = iter([1.0, 0.5, 0.8])

    def tied(self):
        self.log_dict({"val/score": torch.tensor(0.25), "val/loss": torch.tensor(next(losses))})

    monkeypatch.setattr(PretextModule, "on_validation_epoch_end", tied)
    train("stage=pretext", "tasks=rotation", "--run.dir=run", epochs=3)
    assert read_checkpoint("run/best.ckpt")["epoch"] == 1


def test_the_monitor_is_an_option(train, monkeypatch, capsys):
    values = iter([9.0, 1.0, 0.5, 0.8])  # the first one is the check before the training

    def logged(self):
        self.log_dict({"val/ssim": torch.tensor(0.5), "val/loss": torch.tensor(next(values))})
        self.val_metrics.reset()

    monkeypatch.setattr(InpaintModule, "on_validation_epoch_end", logged)
    train(*SCRATCH, "--run.dir=run", "--run.monitor=val/loss", epochs=3)
    assert read_checkpoint("run/best.ckpt")["epoch"] == 1
    assert "Best checkpoint by val/loss" in capsys.readouterr().out


def test_a_monitor_that_is_not_logged_is_refused_before_the_training(refused, monkeypatch):
    monkeypatch.setattr(InpaintModule, "training_step", lambda *args: pytest.fail("trained"))
    message = refused(*SCRATCH, "--run.monitor=val/lpips")
    assert "val/lpips" in message
    assert "val/ssim" in message


def test_16_mixed_on_a_cpu_is_recorded_as_what_it_becomes(train, capsys):
    train("stage=pretext", "tasks=rotation", "--run.dir=run", "--trainer.precision=16-mixed")
    assert "Precision bf16-mixed: 16-mixed is not available on a CPU" in capsys.readouterr().out
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"


@pytest.mark.slow
def test_torchrun_does_not_overwrite_a_run(tmp_path):
    command = ["stage=pretext", "tasks=rotation", *SMALL, "--trainer.max_epochs=1", "--trainer.devices=2",
               "--trainer.strategy=ddp", "--run.dir=run"]  # fmt: skip
    code, said = run_both_ranks(ROOT / "train.py", *command, folder=tmp_path, torchrun=True)
    assert code == 0, said[-2000:]
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    code, said = run_both_ranks(ROOT / "train.py", *command, "--seed_everything=2", folder=tmp_path, torchrun=True)
    assert code == 2
    assert "holds a run already" in said
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_directory_from_the_environment_is_refused_like_a_typed_one(train, refused, monkeypatch):
    train("stage=pretext", "tasks=rotation", "--run.dir=run")
    monkeypatch.setenv("WSSL_RUN__DIR", "run")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "holds a run already" in refused("stage=pretext", "tasks=rotation")


def test_main_is_quiet_about_an_error_that_another_process_reports(monkeypatch, capsys):
    from wssl_pl.cli import train as command
    from wssl_pl.errors import Terminated

    def ended(args):
        raise Terminated("")

    monkeypatch.setattr(command, "train", ended)
    with pytest.raises(SystemExit) as stopped:
        main(["stage=pretext"])
    assert stopped.value.code == 143
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("typed", ["--data.batch_size=2", "--data.batch_size=6", "--trainer.accumulate_grad_batches=2"])
def test_a_cosine_ends_at_the_last_step_whatever_the_epochs_have_become(train, rates, typed):
    """Lightning counts all epochs by the steps of the present ones."""
    train(*SCRATCH, "--model.lr=1e-3", "--model.lr_schedule=cosine", "--run.dir=run", epochs=2)
    before = len(rates)
    train("resume=run", typed, small=[], epochs=4)
    after = [rate for (rate,) in rates[before:]]
    assert 0 < after[-1] < 0.3 * after[0] < 1e-3
    assert after == sorted(after, reverse=True)


def test_another_monitor_on_resume_starts_with_no_best(train, monkeypatch):
    train(*SCRATCH, "--run.monitor=val/psnr", "--run.dir=run")
    before = Path("run/best.ckpt").stat().st_mtime_ns
    train("resume=run", "--run.monitor=val/ssim", small=[], epochs=2)
    assert 0 < json.loads(Path("run/run.json").read_text())["best"] < 1  # no PSNR
    assert Path("run/best.ckpt").stat().st_mtime_ns > before


def test_resume_auto_takes_the_shipped_model_again(train, refused):
    line = [*SCRATCH[:1], "freeze_layers=0", "ckpt=shipped", "--model.reuse=all", "--run.dir=run", "resume=auto"]
    small = [word for word in SMALL if "width" not in word]
    for epochs in (1, 2):
        train(*line, small=small, epochs=epochs)
        assert read_checkpoint("run/last.ckpt")["epoch"] == epochs - 1


def test_resume_auto_adds_to_a_list_once(train):
    line = [
        "stage=pretext",
        "--model.width=2",
        "tasks=rotation",
        "--model.tasks+=noise",
        "--run.dir=run",
        "resume=auto",
    ]
    line += ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    for epochs in (1, 2):
        train(*line, small=TINY, epochs=epochs)
    assert read_checkpoint("run/last.ckpt")["hyper_parameters"]["tasks"] == ["rotation", "noise"]


def test_resume_in_a_file_or_the_environment_is_refused(train, refused, monkeypatch):
    train(*PRETEXT, "--run.dir=run", small=TINY)
    Path("c.yaml").write_text("run: {dir: run, resume: auto}")
    assert "resume=auto: is in a file or the environment" in refused(*PRETEXT, "config=c.yaml", small=TINY)
    monkeypatch.setenv("WSSL_RUN__RESUME", "auto")
    assert "resume=auto: is in a file or the environment" in refused(*PRETEXT, "--run.dir=run", small=TINY)


def test_steps_alone_are_made_whatever_the_default_of_epochs_is(train):
    few = [*SCRATCH, "--trainer.limit_train_batches=1", "--trainer.check_val_every_n_epoch=100"]
    for epochs, steps in ((None, 23), (2, 2)):
        train(*few, "--trainer.max_steps=23", f"--run.dir={steps}", epochs=epochs)
        assert json.loads(Path(f"{steps}/run.json").read_text())["steps"] == steps


def test_a_resume_that_fails_before_its_first_step_leaves_the_run_as_it_was(train, refused):
    train(*PRETEXT, "--run.dir=run", "--model.lr=1e-3", small=TINY)
    bad = Path("bad")
    bad.mkdir()
    for number in range(12):
        content = io.BytesIO()
        Image.effect_noise((60, 60), 50).convert("RGB").save(content, "PNG")
        damaged = bytearray(content.getvalue())
        damaged[len(damaged) // 2 : len(damaged) // 2 + 400] = bytes(400)
        (bad / f"{number}.png").write_bytes(damaged)
    before = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.suffix in (".yaml", ".json")}
    refused("resume=run", "images=bad", "--model.lr=1e-2", small=[], epochs=2)
    after = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.suffix in (".yaml", ".json")}
    assert after == before


def test_a_run_that_was_resumed_once_finds_its_data_after_a_move(train, tmp_path, monkeypatch):
    Path("project").mkdir()
    monkeypatch.chdir("project")
    Path("faces").mkdir()
    for number in range(12):
        Image.effect_noise((60, 60), 50 + number).convert("RGB").save(f"faces/{number}.png")
    train(*PRETEXT, "images=faces", "--run.dir=run", small=TINY)
    train("resume=run", small=[], epochs=2)
    monkeypatch.chdir("..")
    Path("project").rename("moved")
    monkeypatch.chdir("moved")
    train("resume=run", small=[], epochs=3)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 2


def test_a_validation_interval_beyond_the_epoch_is_one_line(refused):
    said = refused(*PRETEXT, "--trainer.val_check_interval=5000", small=TINY)
    assert said.startswith("error: trainer.val_check_interval=5000: ")


def test_an_additional_callback_in_a_configuration_file_is_added_once(train):
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/score", "mode": "max"}}
    Path("own.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks+": [stopping]}, "run": {"dir": "run"}}))
    for epochs in (1, 2):
        train(*PRETEXT, "--config=own.yaml", "resume=auto", small=TINY, epochs=epochs)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 1
    assert len(yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["callbacks"]) == 1


@pytest.mark.parametrize("written", ["nested", "dotted", "typed group", "group", "environment"])
def test_what_files_add_and_the_run_directory_are_known_wherever_they_are(train, monkeypatch, written):
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/score", "mode": "max"}}
    trainer, run = {"callbacks+": [stopping]}, {"dir": "run"}
    dotted = {f"trainer.{name}": value for name, value in trainer.items()} | {"run.dir": "run"}
    Path("trainer.yaml").write_text(yaml.safe_dump(trainer))
    groups = {"trainer": "trainer.yaml", "run": run}
    content = {"dotted": dotted, "group": groups}.get(written, {"trainer": trainer, "run": run})
    Path("own.yaml").write_text(yaml.safe_dump(content))
    words = ["--trainer=trainer.yaml", "--run.dir=run"] if written == "typed group" else ["--config=own.yaml"]
    if written == "environment":
        monkeypatch.setenv("WSSL_CONFIG", "own.yaml")
        words = []
    for epochs in (1, 2):
        train(*PRETEXT, *words, "resume=auto", small=TINY, epochs=epochs)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 1
    assert len(yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["callbacks"]) == 1


def test_a_callback_of_one_s_own_in_a_file_is_trusted_on_resume(train, monkeypatch):
    Path("mine.py").write_text("from lightning.pytorch.callbacks import Callback\nclass Mine(Callback): pass\n")
    monkeypatch.syspath_prepend(".")
    Path("own.yaml").write_text("trainer: {callbacks+: [{class_path: mine.Mine}]}")
    for epochs in (1, 2):
        train(*PRETEXT, "--config=own.yaml", "--run.dir=run", "resume=auto", small=TINY, epochs=epochs)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 1


def test_a_cache_that_lists_have_divided_is_found_on_resume(train):
    Path("faces").mkdir()
    Path("lists").mkdir()
    for number in range(12):
        Image.effect_noise((60, 60), 50 + number).convert("RGB").save(f"faces/{number}.png")
    Path("lists/train.txt").write_text("".join(f"{number}.png\n" for number in range(10)))
    Path("lists/val.txt").write_text("10.png\n11.png\n")
    main(["prepare", "images=faces", "out=cache", "split_rule=lists", "size=36"])
    train(*PRETEXT, "images=cache", "--data.split_rule=./lists", "--run.dir=run", small=TINY)
    train("resume=run", small=[], epochs=2)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 1


def test_the_directory_of_a_configuration_file_is_stronger_than_the_variable_on_resume_too(train, monkeypatch):
    for name, rate in (("one", "1e-2"), ("two", "1e-3")):
        train(*SCRATCH, f"--model.lr={rate}", f"--run.dir={name}")
    Path("dir.yaml").write_text("run: {dir: two}")
    monkeypatch.setenv("WSSL_RUN__DIR", "one")
    train("resume=last", "--config=dir.yaml", small=[], epochs=2)
    assert yaml.safe_load(Path("two/config.yaml").read_text())["model"]["lr"] == 1e-3


def test_a_path_of_a_moved_run_does_not_win_over_a_later_configuration(train, monkeypatch):
    Path("project").mkdir()
    for folder in ("project/faces", "others"):
        Path(folder).mkdir()
        for number in range(12):
            Image.effect_noise((60, 60), 50 + number).convert("RGB").save(f"{folder}/{number}.png")
    Path("others.yaml").write_text(yaml.safe_dump({"data": {"images": str(Path("others").absolute())}}))
    monkeypatch.chdir("project")
    train(*PRETEXT, "images=faces", "--run.dir=run", small=TINY)
    monkeypatch.chdir("..")
    Path("project").rename("moved")
    monkeypatch.chdir("moved")
    train("--config=run/config.yaml", "--run.dir=again", small=[])
    assert Path(yaml.safe_load(Path("again/config.yaml").read_text())["data"]["images"]).name == "faces"
    train("--config=run/config.yaml", "--config=../others.yaml", "--run.dir=other", small=[])
    assert Path(yaml.safe_load(Path("other/config.yaml").read_text())["data"]["images"]).name == "others"


def test_a_run_that_a_callback_has_ended_is_over_for_auto(train, capsys):
    line = [*PRETEXT, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    line += ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=10", "--run.dir=run", "resume=auto"]
    train(*line, small=TINY, epochs=9)
    steps = read_checkpoint("run/last.ckpt")["global_step"]
    capsys.readouterr()
    train(*line, small=TINY, epochs=9)
    assert "Nothing was trained: the run in run has ended" in capsys.readouterr().out
    assert read_checkpoint("run/last.ckpt")["global_step"] == steps
    train(*line, "--model.lr=1e-3", small=TINY, epochs=9)  # what is typed takes effect
    longer = read_checkpoint("run/last.ckpt")["global_step"]
    assert longer > steps
    Path("run/config.yaml").unlink()
    train(*line, small=TINY, epochs=9)
    steps = read_checkpoint("run/last.ckpt")["global_step"]
    assert steps > longer
    train(*line, small=TINY, epochs=10)  # another limit
    assert read_checkpoint("run/last.ckpt")["global_step"] > steps


def test_a_metric_that_a_callback_waits_for_in_vain_is_one_line(refused):
    early = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/nope"]
    said = refused(*PRETEXT, *early, "--run.dir=run", small=TINY)
    assert said.startswith("error: trainer: Early stopping conditioned on metric `val/nope` which is not available")


def test_heads_and_weights_of_a_resumed_run_keep_their_meaning(train, refused):
    train(*PRETEXT, "--run.dir=run", small=TINY)
    said = refused("resume=run", "tasks=sharpness,saturation", small=[], epochs=2)
    assert "in the resumed run the weights [3.0, 7.0] are those of saturation, sharpness: give the tasks in" in said
    said = refused("resume=run", "--model.levels.saturation=[1,0.667,0.333,0]", small=[], epochs=2)
    assert "the head of saturation in the resumed run has" in said
    train("resume=run", "tasks=sharpness,saturation", "weights=7,3", small=[], epochs=2)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 1


def test_tasks_of_one_s_own_keep_their_order(train, refused, monkeypatch):
    own = "from wssl_pl.tasks import Contrast\nclass A(Contrast):\n name = 'a'\nclass B(Contrast):\n name = 'b'\n"
    Path("order.py").write_text(own)
    monkeypatch.syspath_prepend(".")
    line = ["stage=pretext", "--model.width=2", "--model.weighting=uncertainty", "--run.dir=run"]
    train(*line, "tasks=order.A,order.B", small=TINY)
    said = refused("resume=run", "tasks=order.B,order.A", small=[], epochs=2)
    assert "the resumed run has them in the order a, b: give them so" in said
    train("resume=run", "tasks=order.A,order.B", small=[], epochs=2)


def test_nothing_left_to_train_is_said(train, capsys):
    train(*PRETEXT, "--trainer.max_steps=1", "--run.dir=run", small=TINY, epochs=None)
    capsys.readouterr()
    train("resume=run", "--trainer.max_epochs=5", small=[], epochs=None)
    printed = capsys.readouterr().out
    assert "Nothing was trained: the resumed run has trained its 1 steps; raise" in printed


@pytest.mark.parametrize("written", ["nested", "dotted", "group"])
def test_epochs_limit_a_run_of_given_steps_wherever_they_are_given(train, capsys, written):
    limits = {"max_epochs": 1, "max_steps": 50}
    Path("limits.yaml").write_text(yaml.safe_dump(limits))
    options = {f"trainer.{name}": value for name, value in limits.items()}
    Path("own.yaml").write_text(yaml.safe_dump({"trainer": limits} if written == "nested" else options))
    word = "--trainer=limits.yaml" if written == "group" else "--config=own.yaml"
    train(*PRETEXT, word, "--run.dir=run", small=TINY, epochs=None)
    assert read_checkpoint("run/last.ckpt")["epoch"] == 0
    train(*PRETEXT, "--trainer.max_steps=3", "--run.dir=steps", small=TINY, epochs=None)
    assert read_checkpoint("steps/last.ckpt")["global_step"] == 3


def test_metrics_of_an_earlier_step_are_marked(train, capsys):
    train(*PRETEXT, "--trainer.max_steps=3", "--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null",
          small=TINY, epochs=None)  # fmt: skip
    assert "(of step 2)" in capsys.readouterr().out
    train(*PRETEXT, small=TINY)
    assert "(of step" not in capsys.readouterr().out


def test_the_states_of_all_generators_are_restored():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    saved = RandomState().state_dict()
    first = draw()
    assert draw() != first
    RandomState().load_state_dict(saved)
    assert draw() == first
