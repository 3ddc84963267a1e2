"""Who may train in a run's directory, and what becomes of a run that was killed before its first `last.ckpt`."""

import json
import os
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from tests.cli.checkpoints import same, weights
from tests.cli.test_run_table import PRETEXT, TINY
from wssl_pl.cli.run_files import choose_directory, find_resumed, new_directory, set_aside, with_absolute_paths
from wssl_pl.errors import WSSLError
from wssl_pl.files import owned


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def kinds(folder):
    return {path.name.split(".tfevents.")[0] for path in Path(folder).iterdir()}


def test_a_run_killed_before_its_first_checkpoint_is_started_again(train, refused):
    train(*PRETEXT, "--run.dir=whole", small=TINY)
    Path("whole").rename("run")
    Path("run/last.ckpt").unlink()  # it was killed after its first best.ckpt
    record = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps(record | {"state": "running"}))
    Path("run/notes.txt").write_text("of the user")
    left = contents("run")
    refused(*PRETEXT, "--run.dir=run", "--data.images=nowhere", small=TINY)
    assert contents("run") == left  # as long as no new run starts
    train(*PRETEXT, "--run.dir=run", small=TINY)
    train(*PRETEXT, "--run.dir=whole", small=TINY)
    assert kinds("run") == kinds("whole") | {"killed", "notes.txt"}
    assert contents("run/killed") | {"notes.txt": b"of the user"} == left
    assert same(weights("run/last.ckpt"), weights("whole/last.ckpt"))


@pytest.fixture
def folder(tmp_path):
    """Make the folder of a run without training: `folder(state, *names_of_files)`."""

    def make(state, *names):
        for name in names:
            (tmp_path / name).touch()
        (tmp_path / "run.json").write_text(json.dumps({"state": state}))
        return tmp_path

    return make


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
@pytest.mark.parametrize("resume", [None, "auto", "other/last.ckpt"])
def test_a_run_that_cannot_be_resumed_gives_way_to_any_command(folder, state, resume):
    path = folder(state, "config.yaml", "best.ckpt", ".last.ckpt.1.tmp")
    resumed = Path(resume) if resume == "other/last.ckpt" else None
    assert choose_directory("pretext", str(path), resumed, resume) == path


@pytest.mark.parametrize(
    ("state", "names", "remedy"),
    [
        (
            "finished",
            ["config.yaml"],
            "already: name a new directory$",
        ),
        ("finished", ["best.ckpt"], "already: name a new directory$"),
        ("running", ["last.ckpt"], "already: resume it with resume=last"),
        (None, ["config.yaml"], "already: name a new directory$"),
    ],
)
def test_other_runs_are_kept_and_the_advice_works(folder, state, names, remedy):
    path = folder(state, *names)
    with pytest.raises(WSSLError, match=remedy):
        choose_directory("pretext", str(path), None)
    with pytest.raises(WSSLError, match="holds another run"):
        choose_directory("pretext", str(path), Path("other/last.ckpt"))


def test_nothing_is_lost_by_several_kills(folder):
    for number in range(3):
        path = folder("failed", "best.ckpt")
        (path / "best.ckpt").write_text(str(number))
        set_aside(path)
    set_aside(path)  # there is nothing left
    assert [(path / name / "best.ckpt").read_text() for name in ("killed", "killed-2", "killed-3")] == ["0", "1", "2"]
    (path / "config.yaml").write_text("of the user")
    set_aside(path)  # no run has been here
    assert kinds(path) == {"killed", "killed-2", "killed-3", "config.yaml"}


def test_clocks_of_hosts_may_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, time in (("last.ckpt", 0), ("best.ckpt", 4e9), ("epoch.ckpt", 4e9)):  # in 1970 and in 2096
        Path(name).touch()
        os.utime(name, (time, time))
    for resume in ("auto", "last", "."):
        assert find_resumed(resume, ".") == Path("last.ckpt")
    # The other processes make no directory of a name by their own clock.
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    assert not new_directory("pretext").exists()
    assert not Path("runs").exists()


def test_one_process_trains_in_a_directory(train, refused):
    train(*PRETEXT, "--run.dir=run", small=TINY)
    before = contents("run")
    with owned(Path("run")), owned(Path("new")):
        for args in (["resume=run"], ["resume=last", "--run.dir=run"], [*PRETEXT, "--run.dir=new"]):
            assert "is being written by another process" in refused(*args, small=TINY, epochs=2)
        assert contents("run").keys() - before.keys() == {".lock", ".owner.lock"}
    assert contents("run") == before
    assert not Path("new").exists()


@pytest.mark.parametrize(("args", "message"), [
    (["--run.dir=file/run"], "run.dir=file/run: cannot be written: Not a directory"),
    (["--run.dir=file"], "run.dir=file: cannot be written: File exists"),
    ([], "cannot be made: Not a directory: name another"),
    (["resume=last", "--run.dir=empty"], "there is no checkpoint empty/last.ckpt: start the run by resume=auto"),
])  # fmt: skip
def test_a_directory_that_cannot_be_used_is_one_line_before_the_data_are_read(refused, monkeypatch, args, message):
    Path("file").touch()
    Path("runs").touch()
    monkeypatch.setattr("wssl_pl.data.datamodule.resolve", lambda *args: pytest.fail("data were looked for"))
    assert message in refused(*PRETEXT, *args, small=TINY)


def test_the_configuration_of_a_run_keeps_the_address_of_a_bucket():
    config = Namespace({"data.images": "s3://bucket/x", "data.masks": "m", "data.split_rule": "auto"})
    stored, replaced = with_absolute_paths(config, "s3://bucket/x", "m")
    assert stored["data.images"] == "s3://bucket/x"
    assert replaced == {"data.masks": "m"}


@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk_is_one_line_whatever_is_written(refused, monkeypatch, after):
    calls = []

    def full(path, content):
        calls.append(path)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        path.write_text(json.dumps(content))

    monkeypatch.setattr("wssl_pl.cli.run_files.write_json", full)
    monkeypatch.setattr("wssl_pl.callbacks.loggers.RunCSVLogger.save", lambda self: full(Path("run/metrics.csv"), {}))
    message = refused(*PRETEXT, "--run.dir=run", small=TINY)
    assert message == "error: cannot write to run (No space left on device); make room and start again"
    assert not Path("run").exists()
