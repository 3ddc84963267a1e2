"""What becomes of the output when nobody reads it to its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wssl_pl import cli

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
