"""How a command starts."""

import gc
import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from wssl_pl import cli

ROOT = Path(__file__).parents[2]


def seconds_of(*command):
    """Processor time of a Python process, which a busy machine stretches little; and what it prints."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime, output


@pytest.mark.slow
def test_the_help_of_a_stage_takes_less_time_than_to_import_lightning_does():
    ours, theirs = [], []
    while True:
        seconds, output = seconds_of("train.py", "stage=pretext", "--help")
        assert "--model.tasks" in output
        assert "--trainer.max_epochs" in output
        ours.append(seconds)
        theirs.append(seconds_of("-c", "import lightning")[0])
        if min(ours) < min(theirs):
            break
        assert len(ours) < 3, f"{ours}, and Lightning {theirs}"  # again: other programs stretch one of them


def test_a_program_that_asks_for_help_goes_on(capsys):
    """Only the `wssl` process itself ends at once."""
    with pytest.raises(SystemExit) as end:
        cli.main(["stage=pretext", "--help"])
    assert end.value.code == 0
    assert "--model.tasks" in capsys.readouterr().out


def test_the_garbage_collector_rests_while_a_command_is_imported(monkeypatch):
    seen = []

    def note(name):
        seen.append((name, gc.isenabled()))
        return types.SimpleNamespace(train=None, runs=None)

    monkeypatch.setattr(importlib, "import_module", note)
    monkeypatch.delitem(sys.modules, "torch")
    frozen = gc.get_freeze_count()
    try:
        cli._import("train")
        assert seen == [("torch", False), ("wssl_pl.cli.train", False)]
        seen.clear()
        cli._import("runs")
        assert seen == [("wssl_pl.cli.runs", False)]
        assert gc.isenabled()
    finally:
        if not frozen:
            gc.unfreeze()


@pytest.mark.parametrize("command", sorted(cli.COMMANDS.keys() - set(cli.LIGHTNING)))
def test_the_help_of_other_commands_is_printed_without_lightning(command):
    code = "import sys; from wssl_pl.cli import run\ntry: run([*sys.argv[1].split(), '--help'])\nexcept SystemExit: "
    code += "assert not {'lightning', 'torch'} & set(sys.modules)\nelse: raise AssertionError"
    _, output = seconds_of("-c", code, command)
    assert output.startswith(f"usage: wssl {command} ")
