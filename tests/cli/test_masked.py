"""Reconstruction as a pretext task, from the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wssl_pl.modules import PretextModule, read_checkpoint

TINY = ["--data.image_size=32", "--data.resize=36"]


def events(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_it_beats_filling_with_the_mean_on_the_synthetic_dataset(train):
    args = ["stage=pretext", "tasks=masked", "--model.lr=0.001", "--model.norm=batch", *TINY]
    once = ["--data.limit=128", "--data.batch_size=16", "--trainer.check_val_every_n_epoch=18"]
    train(*args, *once, "--run.dir=run", epochs=18)
    # 0 is filling with each image's mean colour.
    assert events("run").Scalars("val/r2/masked")[0].value > 0.15


def test_a_run_of_both_kinds_of_task_resumed_and_taken_over(train):
    args = ["stage=pretext", "tasks=[masked,rotation]", "weights=[3,1]", "--model.levels.masked=[0.5,0.7]", *TINY]
    train(*args, "--run.dir=whole", epochs=2)
    train(*args, "--run.dir=parts", epochs=1)
    train("resume=last", "--run.dir=parts", small=[], epochs=2)
    whole, parts = weights("whole/last.ckpt"), weights("parts/last.ckpt")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    tags = events("whole").Tags()
    assert {"val/loss/masked", "val/r2/masked", "train/r2/masked", "val/accuracy/rotation"} <= set(tags["scalars"])
    assert "val/accuracy/masked" not in tags["scalars"]
    assert {"val/images/masked", "val/confusion/rotation"} == set(tags["images"])
    assert yaml.safe_load(Path("whole/config.yaml").read_text())["model"]["levels"] == {"masked": [0.5, 0.7]}
    again = PretextModule.load_from_checkpoint("whole/best.ckpt", weights_only=True)
    assert again.tasks["masked"].levels == (0.5, 0.7)
    train("stage=downstream", "ckpt=whole/best.ckpt", "--run.dir=down", *TINY)
    taken = weights("down/last.ckpt")
    best = read_checkpoint("whole/best.ckpt")["state_dict"]
    assert all(torch.equal(taken[key], best[key]) for key in best if key.startswith("encoder."))


def test_an_autoencoder_that_fills_the_holes_of_the_datas_masks_with_upgrad(train):
    train("stage=pretext", "tasks=autoencoder,saturation", "weighting=upgrad", "--model.pretext_holes", *TINY)
    (run,) = Path("runs/pretext").iterdir()
    assert {"train/weight/autoencoder", "val/r2/autoencoder"} <= set(events(run).Tags()["scalars"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tasks=maskd"], "did you mean masked"),
        (["tasks=masked", "--model.levels.masked=[0.5,0.2]"], "smallest and the largest fraction"),
        (["tasks=autoencoder", "--model.levels.autoencoder=[0,0.5]"], "use the task masked"),
        (["tasks=autoencoder", "--model.mask_channel"], "nothing is masked"),
    ],
)
def test_one_line(args, message, refused):
    assert message in refused("stage=pretext", *args)


def test_a_finished_model_is_trained_on_and_resumed(train):
    train("stage=downstream", "ckpt=none", "freeze_layers=0", "--model.output=change", "--run.dir=first", *TINY)
    again = ["stage=downstream", "ckpt=first/best.ckpt", "--model.reuse=all", "freeze_layers=0"]
    train(*again, "--run.dir=second", *TINY, epochs=1)
    shutil.rmtree("first")
    train("resume=last", "--run.dir=second", small=[], epochs=2)
    assert read_checkpoint("second/last.ckpt")["hyper_parameters"]["output"] == "change"
    assert json.loads(Path("second/run.json").read_text())["label"] == "model-finetuned"


def test_a_decoder_kept_and_resumed_without_the_pretext_run(train):
    train("stage=pretext", "tasks=masked", "--model.decoder=true", "--run.dir=pre", *TINY)
    taken = ["stage=downstream", "ckpt=pre/last.ckpt", "--model.reuse=all", "--run.dir=down", *TINY]
    train(*taken, epochs=1)
    shutil.rmtree("pre")
    train("resume=last", "--run.dir=down", small=[], epochs=2)
    assert yaml.safe_load(Path("down/config.yaml").read_text())["model"]["reuse"] == "all"
