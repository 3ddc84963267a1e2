"""Small runs in this process, on the synthetic dataset."""

import pytest

from wssl_pl.cli import main

SMALL = [
    "--data.image_size=64",
    "--data.resize=72",
    "--data.batch_size=4",
    "--data.limit=16",
    "--data.num_workers=0",
    "--model.width=8",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.log_every_n_steps=1",
]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs `train.py` with small settings in an empty folder: `train("stage=pretext", ...)`."""
    monkeypatch.chdir(tmp_path)

    def run(*args, small=SMALL, epochs=1):
        typed = [f"--trainer.max_epochs={epochs}"] if epochs is not None else []
        main([*small, *typed, *args])

    return run


@pytest.fixture
def refused(train, capsys):
    """Runs `train.py` and returns its error, which has to be one line with exit code 2."""

    def run(*args, **kwargs):
        with pytest.raises(SystemExit) as stopped:
            train(*args, **kwargs)
        assert stopped.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.fixture
def pretext_ckpt(train):
    """The checkpoint of a small pretext run."""
    train("stage=pretext", "tasks=saturation,sharpness", "--run.dir=pretext")
    return "pretext/best.ckpt"
