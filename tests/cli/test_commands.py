"""The one parser of all commands."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from jsonargparse.typing import NonNegativeInt

import wssl_pl
from wssl_pl.cli import COMMANDS, main, run
from wssl_pl.cli.arguments import call
from wssl_pl.cli.runs import find_runs
from wssl_pl.errors import WSSLError


def test_the_version(capsys):
    run(["--version"])
    assert capsys.readouterr().out == f"wssl {wssl_pl.__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["inpant", "photo.png"], "unknown command 'inpant': did you mean wssl inpaint?"),
        (["qqqq"], "unknown command 'qqqq': there are train, runs, "),
        (["pretext", "tasks=rotation"], "unknown command 'pretext': did you mean wssl stage=pretext?"),
        (["export", "onxx"], "did you mean wssl export onnx?"),
        (["--config=bad.yaml"], "config=bad.yaml: line 2: not YAML: "),
        (["--config=keys.yaml"], "config=keys.yaml: line 3: unknown option 'model.widht': did you mean model.width?"),
        (["runs", "--config=runs.yaml"], "config=runs.yaml: line 1: unknown option 'jsn': did you mean json?"),
        (["stage=pretext", "--model.width=0"], "model.width=0: must be"),
        (["stage=pretext", "tasks=rotation,rotation"], "tasks="),
        (["stage=pretext", "tasks=[rotation"], "tasks=[rotation: must be a list, [a,b] or a,b"),
        (["stage=pretext", "--model.levels.rotation=3"], "model.levels.rotation=3: must be a list, each a number"),
        (["stage=pretext", "--run.dir=s3://bucket/run"], "run.dir=s3://bucket/run: is an address, and no path: name a"),
        (["prepare", "images=bad.yaml", "out=s3://bucket/x"], "out=s3://bucket/x: is an address, and no path"),
        (["inpaint", "https://example.org/photo.png"], "photo=https://example.org/photo.png: is an address"),
    ],
)
def test_errors_name_the_nearest_key_and_the_option_as_it_is_known(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("stage: pretext\nmodel: ]\n")
    Path("keys.yaml").write_text("stage: pretext\nmodel:\n  widht: 3\n")
    Path("runs.yaml").write_text("jsn: true\n")
    with pytest.raises(WSSLError) as caught:
        run(args)
    assert message in str(caught.value)


def test_options_come_from_a_file_and_from_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs.yaml").write_text("json: true\n")
    assert run(["runs", "config=runs.yaml"]) == []
    assert capsys.readouterr().out == "[]\n"
    monkeypatch.setenv("WSSL_JSON", "true")
    run(["runs"])
    assert capsys.readouterr().out == "[]\n"


def test_an_empty_variable_for_the_configuration_file_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WSSL_CONFIG", "")
    with pytest.raises(SystemExit):
        main(["stage=pretext"])
    assert capsys.readouterr().err == "error: WSSL_CONFIG: is empty: name a configuration file, or unset it\n"


def test_the_help_of_a_command_makes_nothing_and_begins_with_usage_and_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS.keys() - {"train"}:
        with pytest.raises(SystemExit) as end:
            run([*command.split(), "--help"])
        assert not end.value.code
        text = capsys.readouterr().out
        assert text.startswith(f"usage: wssl {command} ")
        assert text.index("Example:") < text.index("config=FILE")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("args", "start", "part"), [
    (["train", "--help"], "usage: wssl stage=STAGE ", "Options: wssl stage=STAGE --help, of pretext, downstream, "),
    (["evaluate", "--compare", "--help"], "usage: wssl evaluate ", "rank_by="),
    (["app", "port=abc", "-h"], "usage: wssl app ", "port="),
])  # fmt: skip
def test_help_comes_before_what_is_missing_or_wrong(capsys, args, start, part):
    with pytest.raises(SystemExit) as end:
        run(args)
    assert not end.value.code
    text = capsys.readouterr().out
    assert text.startswith(start)
    assert part in text


def test_our_own_options_come_before_lightnings_and_fit_two_screens(capsys):
    with pytest.raises(SystemExit):
        run(["stage=pretext", "--help"])
    own = capsys.readouterr().out.partition("Lightning's Trainer:")[0]
    assert "tasks=, --model.tasks" in own
    assert "--trainer." not in own.partition("Options:")[2]
    assert len(own.splitlines()) <= 100
    assert max(map(len, own.splitlines())) <= 105


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options of two commands.

    Args:
        seed: of the draws
    """

    seed: NonNegativeInt = 3


def test_the_fields_of_a_dataclass_are_options(capsys):
    def command(*, out: str, shared: Shared) -> tuple[str, Shared]:
        """Do it."""
        return out, shared

    assert call(command, "do", ["out=here"]) == ("here", Shared())
    assert call(command, "do", ["out=here", "seed=5"]) == ("here", Shared(seed=5))
    with pytest.raises(WSSLError, match="seed=-1: must be a whole number of at least 0"):
        call(command, "do", ["out=here", "seed=-1"])
    with pytest.raises(WSSLError, match="the checkpoint has seed=x: must be a whole number"):
        call(command, "do", ["out=here"], {"seed": "x", "of_another_version": 1})
    with pytest.raises(SystemExit):
        call(command, "do", ["--help"])
    assert "seed= of the draws (default: 3)" in " ".join(capsys.readouterr().out.split())


def test_an_error_of_the_disk_that_no_command_expects_is_one_line(tmp_path, monkeypatch, capsys):
    def failing(root):
        raise OSError(5, "Input/output error", "file")

    monkeypatch.setattr("wssl_pl.cli.runs.find_runs", failing)
    with pytest.raises(SystemExit) as stopped:
        main(["runs", str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: file: Input/output error\n"


def test_runs_that_a_study_took_over_from_another_are_listed(tmp_path):
    run = tmp_path / "first" / "runs" / "a"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"stage": "pretext"}')
    other = tmp_path / "second" / "runs"
    other.mkdir(parents=True)
    (other / "a").symlink_to(run)
    (other / "circle").symlink_to(tmp_path)
    assert list(find_runs(tmp_path / "second")) == [other / "a"]
    assert sorted(find_runs(tmp_path)) == [run, other / "a"]


def test_the_help_of_a_stage_has_its_own_number_of_epochs(capsys):
    for stage, epochs in (("pretext", 40), ("downstream", 20)):
        with pytest.raises(SystemExit):
            main([f"stage={stage}", "--help"])
        assert f"(default: {epochs}, or no limit with max_steps)" in " ".join(capsys.readouterr().out.split())
