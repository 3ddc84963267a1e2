"""Outputs that nobody reads to their end, or that another process writes."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from wssl_pl import cli
from wssl_pl.cli import output
from wssl_pl.errors import WSSLError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 141),
        (["app", "--help"], 141),
        pytest.param(["stage=pretext", "--help"], 141, marks=pytest.mark.slow),
    ],
    ids=["short help", "a verb", "options"],
)
def test_a_pipe_that_nobody_reads_ends_the_program_in_silence(words, code):
    """As `wssl ... | head` does, whose reader ends first."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "wssl_pl", *words]
        done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == code


def test_another_broken_pipe_is_not_hidden(monkeypatch):
    def run(words):
        raise BrokenPipeError("of a worker process")

    monkeypatch.setattr(cli, "_run", run)
    with pytest.raises(BrokenPipeError, match="of a worker process"):
        cli.main([])


def test_an_output_may_be_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = Path.cwd().stat().st_ino
    with output.new_folder(Path(), overwrite=False, files=("a",)) as folder:
        (folder / "a").write_text("result")
    assert Path("a").read_text() == "result"
    assert (tmp_path / "here").stat().st_ino == before
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "a"]


def test_what_another_process_has_written_since_the_first_look_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "out"

    @contextmanager
    def taken(path, folder=True):
        path.write_text("its result")
        yield

    monkeypatch.setattr(output, "owned", taken)
    with pytest.raises(WSSLError, match="exists already"), output.own_file(out, overwrite=False):
        pytest.fail("it was written over")


def test_a_folder_takes_the_place_of_another_when_it_is_whole(tmp_path):
    out, left = tmp_path / "out", tmp_path / ".out.new"
    for path in (out, left):  # an earlier output, and what a killed command left
        path.mkdir()
        (path / "old").touch()
    with pytest.raises(StopIteration), output.replacing_folder(out) as fresh:
        next(fresh.iterdir())  # it is empty
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
    with output.replacing_folder(out) as fresh:
        (fresh / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_linked_folder_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").touch()
    (tmp_path / "out").symlink_to(tmp_path / "there")
    with output.replacing_folder(tmp_path / "out") as fresh:
        (fresh / "new").touch()
    assert (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["new"]


def test_the_contents_of_a_mounted_folder_are_replaced_when_they_are_whole(tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    (out / "old" / "file").touch()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    with pytest.raises(RuntimeError), output.replacing_folder(out) as fresh:
        raise RuntimeError
    assert [path.name for path in out.rglob("*")] == ["old", "file"]
    inode = out.stat().st_ino
    with output.new_folder(out, True, {"old", "new"}) as fresh:
        (fresh / "new").touch()
    assert [path.name for path in out.rglob("*")] == ["new"]
    assert out.stat().st_ino == inode


def test_a_command_that_fails_midway_leaves_no_part_of_a_folder(tmp_path):
    for out in (tmp_path / "new", tmp_path / "empty"):
        with pytest.raises(IsADirectoryError), output.new_folder(out, False, {"file"}) as folder:
            folder.write_text("")
        with output.new_folder(out, False, {"file"}) as folder:
            (folder / "file").touch()
        assert [path.name for path in out.iterdir()] == ["file"]
        (tmp_path / "empty").mkdir(exist_ok=True)


def test_a_planted_link_is_neither_emptied_nor_written_to(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    (tmp_path / ".out.new").symlink_to(victim)
    with pytest.raises(WSSLError, match="cannot be written: File exists"):
        output.replacing_folder(tmp_path / "out").__enter__()
    assert [path.name for path in victim.iterdir()] == ["precious"]
