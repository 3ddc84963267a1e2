"""The page `docs/add_a_task.md` says what is so: its code runs, and its commands with it."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from wssl_pl.cli import main
from wssl_pl.modules import PretextModule
from wssl_pl.tasks import TASKS, PretextTask

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add_a_task.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)
TASK, TEST = (code for language, code in BLOCKS if language == "python")
(SHELL,) = (code for language, code in BLOCKS if not language)
SMALL = [
    "--data.image_size=32", "--data.resize=36", "--data.batch_size=4", "--data.limit=8", "--data.num_workers=0",
    "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip


@pytest.fixture
def brightness(tmp_path, monkeypatch):
    """The page's program in an empty folder; the task is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(TASKS)
    path = Path("brightness.py")
    path.write_text(TASK)
    yield path
    TASKS.clear()
    TASKS.update(before)
    sys.modules.pop("brightness", None)


def test_the_example_is_as_short_as_it_says():
    assert len([line for line in TASK.splitlines() if line.strip()]) <= 20


def test_the_commands_of_the_page_run(brightness, monkeypatch):
    for number, command in enumerate(SHELL.splitlines()):
        _, program, *words = shlex.split(command)
        if program == "train.py":
            (found,) = Path().glob("runs/pretext/0/best.ckpt")
            main([*(word.replace("<run>", "0") for word in words), *SMALL])
            assert found.exists()
            continue
        monkeypatch.setattr(
            sys, "argv", [program, *words, *SMALL, "--model.width=4", f"--run.dir=runs/pretext/{number}"]
        )
        runpy.run_path(program, run_name="__main__")
        assert "brightness" in TASKS
    first, second = (
        PretextModule.load_from_checkpoint(f"runs/pretext/{n}/best.ckpt", weights_only=True) for n in (0, 1)
    )
    assert list(first.tasks) == ["rotation", "brightness"]
    assert first.weighting.weights == {"brightness": 0.3, "rotation": 0.7}
    assert second.tasks["brightness"].levels == (0.2, 0.6, 1.0)


def test_the_test_of_the_page_passes_and_can_fail(brightness):
    names = {}
    exec(TEST, names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test()
    names["Brightness"].forward = lambda self, images, labels: images
    with pytest.raises(AssertionError):
        test()


def test_the_table_names_everything_that_is_asked_of_a_task():
    asked = {name for name in vars(PretextTask) if not name.startswith("_")} - {"default_levels"}
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    assert {
        name for name in asked if f"{name}(" not in table and f"`{name}`" not in table and name != "numbers"
    } == set()
    assert "`numbers`" in table


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)#]+)\)", PAGE))
def test_what_the_page_links_to_is_there(path):
    assert (ROOT / "docs" / path).resolve().exists()
