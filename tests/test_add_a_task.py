"""The page `docs/add_a_task.md` says what is so: its code runs, and its commands with it."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from tests.study.conftest import TINY
from wssl_pl.cli import main
from wssl_pl.modules import PretextModule
from wssl_pl.tasks import PretextTask

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
    path = Path("brightness.py")
    path.write_text(TASK)
    yield path
    sys.modules.pop("brightness", None)


def test_the_example_is_as_short_as_it_says():
    assert len([line for line in TASK.splitlines() if line.strip()]) <= 20


def test_the_commands_of_the_page_run(brightness):
    for number, command in enumerate(SHELL.splitlines()):
        program, verb, *words = shlex.split(command)
        assert (program, verb) == ("wssl", "train")
        own = ["--model.width=4", f"--run.dir=runs/pretext/{number}"] if "stage=pretext" in words else []
        main([*(word.replace("<run>", "0") for word in words), *SMALL, *own])
    first, second = (
        PretextModule.load_from_checkpoint(f"runs/pretext/{n}/best.ckpt", weights_only=True) for n in (0, 1)
    )
    assert list(first.tasks) == ["rotation", "brightness"]
    assert first.weighting.weights == {"brightness": 0.3, "rotation": 0.7}
    assert second.tasks["brightness"].levels == (0.2, 0.6, 1.0)


def test_a_model_with_the_task_is_tested_and_exported(brightness, capsys):
    own = ["tasks=brightness.Brightness", "--model.width=4", *SMALL]
    main(["train", "stage=pretext", "--run.dir=pretext", *own])
    main(
        ["train", "stage=downstream", "ckpt=none", "freeze_layers=0", "--model.task_loss=0.1", "--run.dir=joint", *own]
    )
    commands = [
        ["test", "ckpt=pretext/best.ckpt", "accelerator=cpu"],
        ["test", "ckpt=joint/best.ckpt", "accelerator=cpu", "lpips_weights=none", "inception_weights=none"],
        ["export", "safetensors", "ckpt=joint/best.ckpt", "out=joint.safetensors"],
        ["export", "onnx", "ckpt=joint/best.ckpt", "out=joint.onnx"],
    ]
    for command in commands:
        sys.modules.pop("brightness", None)  # as in a new process
        main([*command, "tasks=brightness.Brightness"])
    sys.modules.pop("brightness", None)
    assert "type tasks=brightness.Brightness on the command line" in refused(capsys, *commands[0], small=[])


def refused(capsys, *args, small=(*SMALL, "--model.width=4")):
    with pytest.raises(SystemExit) as stopped:
        main([*args, *small])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def test_a_resumed_run_imports_no_task_that_is_not_typed(brightness, capsys):
    typed = "tasks=brightness.Brightness"
    main(["stage=pretext", typed, *SMALL, "--model.width=4", "--run.dir=run"])
    sys.modules.pop("brightness")
    brightness.write_text(f"open('ran', 'w')\n{TASK}")
    assert "type tasks=brightness.Brightness" in refused(capsys, "resume=run/last.ckpt")
    assert not Path("ran").exists()
    main(["resume=run/last.ckpt", typed, *SMALL, "--trainer.max_epochs=2"])
    assert Path("ran").exists()


@pytest.mark.parametrize("written", ["nested", "dotted", "group", "environment"])
def test_a_class_path_in_a_configuration_that_the_user_names_is_imported(brightness, monkeypatch, written):
    tasks = "tasks: [brightness.Brightness, rotation]"
    Path("model.yaml").write_text(tasks)
    model = {"dotted": f"model.{tasks}", "group": "model: model.yaml"}.get(written, f"model: {{{tasks}}}")
    Path("own.yaml").write_text(f"stage: pretext\n{model}\n")
    words = ["--config=own.yaml"]
    if written == "environment":
        monkeypatch.setenv("WSSL_CONFIG", "own.yaml")
        words = []
    main([*words, *SMALL, "--model.width=4", "--run.dir=run"])
    assert list(PretextModule.load_from_checkpoint("run/best.ckpt", weights_only=True).tasks) == [
        "rotation",
        "brightness",
    ]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nowhere.Task", "cannot import nowhere"), ("brightness.Missing", "no subclass"), ("pathlib.Path", "no subclass")],
)
def test_a_class_path_that_is_no_task_is_refused_in_one_line(brightness, capsys, path, reason):
    assert reason in refused(capsys, "stage=pretext", f"tasks={path}")


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


@pytest.mark.slow
def test_a_study_trains_with_the_task_in_its_workers(brightness, capsys):
    arms = {"own": {"pretext": {"tasks": ["brightness.Brightness"]}}}
    study = TINY | {"seeds": [0], "arms": arms, "claims": []}
    Path("own.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    main(["study", "own.yaml", "out=study", "--evaluate=false"])
    assert "2 of 2 runs done" in capsys.readouterr().out
