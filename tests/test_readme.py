"""The commands of the README run, at reduced sizes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wssl_pl.cli import main

ROOT = Path(__file__).parents[1]
SMALL = [
    "--data.image_size=32", "--data.resize=36", "--data.batch_size=4", "--data.limit=8", "--data.num_workers=0",
    "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip


def commands():
    """The `python train.py ...` lines of the README's code blocks, in order, as argument lists."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith("python train.py")]


def test_the_readme_shows_both_stages_and_the_test():
    shown = commands()
    assert any("stage=pretext" in words for words in shown)
    assert any("stage=downstream" in words for words in shown)
    assert any("test" in words for words in shown)


def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in commands():
        for number, word in enumerate(words):
            if "<run>" in word:
                key, _, pattern = word.partition("=")
                (found,) = Path().glob(pattern.replace("<run>", "*"))
                words[number] = f"{key}={found}"
        if words[0] == "test":
            main([*words, "--accelerator=cpu"])
        elif words[0].startswith("stage="):
            width = ["--model.width=4"] if words[0] == "stage=pretext" else []
            main([*words, *SMALL, *width])
    assert "test/psnr_composite" in capsys.readouterr().out


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)#]+)\)", (ROOT / "README.md").read_text()))
def test_what_the_readme_links_to_is_there(path):
    assert (ROOT / path).exists()


def test_the_figures_of_the_readme_are_those_of_the_result_files():
    command = [sys.executable, str(ROOT / "benchmarks" / "readme_table.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
