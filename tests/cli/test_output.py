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


def test_what_another_process_has_written_since_the_first_look_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "out"

    @contextmanager
    def taken(path, folder=True):
        path.write_text("its result")
        yield

    monkeypatch.setattr(output, "owned", taken)
    with pytest.raises(WSSLError, match="exists already"), output.own_file(out, overwrite=False):
        pytest.fail("it was written over")
