"""`wssl runs`, and what a run records about itself."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.interruptions import interrupt_at
from wssl_pl.cli import main, runs
from wssl_pl.cli.run_names import describe_run
from wssl_pl.errors import WSSLError
from wssl_pl.files import is_held, leased
from wssl_pl.modules import InpaintModule, PretextModule

TINY = [
    "--data.image_size=32", "--data.resize=36", "--data.batch_size=4", "--data.limit=8", "--data.num_workers=0",
    "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip
PRETEXT = ["stage=pretext", "tasks=saturation,sharpness", "weights=3,7", "--model.width=2"]


@pytest.fixture
def listed(capsys):
    """The rows of `wssl runs`, by the name of the run."""

    def run(*args):
        capsys.readouterr()
        main(["runs", *args, "--json"])
        return {Path(row["run"]).name: row for row in json.loads(capsys.readouterr().out)}

    return run


def test_default_directories_are_named_by_time_and_by_what_the_run_is(train, listed):
    train(*PRETEXT, small=TINY)
    (pretext,) = Path("runs/pretext").iterdir()
    train("stage=downstream", f"ckpt={pretext}/best.ckpt", small=TINY)
    train("stage=downstream", "ckpt=none", "freeze_layers=0", "loss=ssim", "--model.width=2", small=TINY)
    names = [path.name.split("-", 2) for path in sorted(Path("runs").glob("*/*"))]
    assert {name[2] for name in names} == {
        "saturation.3+sharpness.7", "saturation.3+sharpness.7-frozen16", "scratch-ssim"
    }  # fmt: skip
    assert all(time.strptime("-".join(name[:2]), "%Y%m%d-%H%M%S") for name in names)
    rows = {row["label"]: row for row in listed().values()}
    frozen = rows["saturation.3+sharpness.7-frozen16"]
    assert frozen["tasks"] == ["saturation", "sharpness"]
    assert frozen["weights"] == [0.3, 0.7]
    assert rows["scratch-ssim"]["tasks"] is None


def test_a_table_of_runs(train, refused, monkeypatch, capsys, listed):
    train(*PRETEXT, "--run.dir=runs/done", small=TINY)
    interrupt_at(monkeypatch, PretextModule, [2])
    with pytest.raises(SystemExit):
        train(*PRETEXT, "--run.dir=runs/stopped", small=TINY, epochs=3)

    def fails(self, batch, batch_idx):
        if self.global_step == 3:
            raise RuntimeError("out of memory")
        return original(self, batch, batch_idx)

    original = InpaintModule.training_step
    monkeypatch.setattr(InpaintModule, "training_step", fails)
    with pytest.raises(RuntimeError):
        train("stage=downstream", "ckpt=runs/done/best.ckpt", "--run.dir=runs/broken", small=TINY, epochs=3)
    rows = listed()
    assert {name: (row["state"], row["steps"]) for name, row in rows.items()} == {
        "done": ("finished", 2), "stopped": ("interrupted", 3), "broken": ("failed", 3)
    }  # fmt: skip
    assert rows["done"]["metric"] == "val/score"
    assert rows["broken"]["metric"] == "val/ssim"
    assert 0 <= rows["done"]["best"] <= 1
    capsys.readouterr()
    main(["runs"])
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4
    assert "saturation+sharpness  0.3+0.7" in shown[1]
    # A resumed run keeps the tasks of its pretext checkpoint, even if that is gone.
    monkeypatch.setattr(InpaintModule, "training_step", original)
    shutil.rmtree("runs/done")
    record = Path("runs/broken/run.json")
    whole = record.read_text()
    record.write_text('{"tasks": 5, "weights": {}}')
    assert "the run.json beside it is damaged" in refused("resume=runs/broken", small=[], epochs=3)
    record.write_text(whole)
    train("resume=runs/broken", small=[], epochs=3)
    assert listed()["broken"] | {"time": None, "best": None} == rows["broken"] | {
        "time": None, "best": None, "state": "finished", "steps": 6
    }  # fmt: skip


def test_what_else_is_found_below_a_directory(tmp_path, monkeypatch, listed):
    monkeypatch.chdir(tmp_path)
    for name, record in (
        ("damaged", '{"state": "running"}'),
        ("number", '{"state": "failed", "best": "high"}'),
        ("nested", "[" * 100_000),
        ("foreign", None),
    ):
        Path(f"runs/{name}").mkdir(parents=True)
        if record is not None:
            Path(f"runs/{name}/run.json").write_text(record)
    Path("runs/damaged/last.ckpt").write_bytes(b"cut short")
    Path("runs/foreign/best.ckpt").touch()
    Path("runs/config.yaml").write_text("of the user\n")
    damaged = dict.fromkeys(["damaged", "number", "nested"], "damaged")
    assert {name: row["state"] for name, row in listed().items()} == damaged | {"foreign": "unknown"}


def test_a_run_of_which_only_a_record_is_left_is_running_only_while_its_process_lives(tmp_path, listed):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"stage": "pretext", "state": "running", "steps": 0}')
    (folder / "metrics.csv").write_text("epoch,step,lr\n0,9,1\n0,19,1\n")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); "
         "print('held', flush=True); sys.stdin.read()", str(folder / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"held\n"
        row = listed(str(tmp_path))["run"]
        assert (row["state"], row["steps"]) == ("running", 20)
    finally:
        holder.kill()
        holder.communicate()
    assert listed(str(tmp_path))["run"]["state"] == "interrupted"


def test_a_run_that_another_host_has_started_may_be_running(tmp_path, listed, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"stage": "pretext", "state": "running", "steps": 0}')
    (folder / "metrics.csv").write_text("epoch,step,lr\n0,9,1\n")
    with leased(folder, "run.dir"):  # `flock` of another host may not be seen here
        assert listed(str(tmp_path))["run"]["state"] == "interrupted"  # of this host: its lock would be held
        monkeypatch.setattr(socket, "gethostname", lambda: "node7")
        row = listed(str(tmp_path))["run"]
        monkeypatch.undo()
    assert (row["state"], row["steps"]) == (f"running on {socket.gethostname()}?", 10)
    assert listed(str(tmp_path))["run"]["state"] == "interrupted"


def test_a_lock_ends_with_its_process_even_if_a_forked_one_survives(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from wssl_pl.files import hold, is_held; path = Path(sys.argv[1]);"
        "lock = hold(path); os.fork() or print(is_held(path), flush=True); sys.stdin.read()"
    )
    path = tmp_path / "lock"
    command = [sys.executable, "-c", code, str(path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"True\n"  # says the forked process
    assert is_held(path)
    holder.kill()
    holder.wait()
    assert not is_held(path)
    holder.stdin.close()  # which ends the forked process


def test_a_long_table_is_read_without_pytorch(tmp_path):
    for number in range(300):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "run.json").write_text('{"stage": "pretext", "tasks": ["rotation"], "state": "finished", "steps": 9}')
    code = (
        "import sys; from wssl_pl.cli import main; main(['runs', sys.argv[1]]); "
        "assert not {'torch', 'lightning'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 301


def test_no_run_and_no_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["runs", "nowhere"])
    assert "nowhere" in capsys.readouterr().err
    assert runs.runs(tmp_path) == []


@pytest.mark.parametrize("settings", [{}, {"tasks": 3}, {"tasks": ["rotation"], "weights": ["a"]}, {"tasks": [[]]}])
def test_a_pretext_checkpoint_without_its_settings_is_one_line(settings, tmp_path):
    ckpt = tmp_path / "best.ckpt"
    torch.save({"stage": "pretext", "state_dict": {}, "hyper_parameters": settings}, ckpt)
    with pytest.raises(WSSLError, match=r"best.ckpt: its settings hold no tasks"):
        describe_run("downstream", {"freeze_layers": 0, "ckpt": str(ckpt)})
