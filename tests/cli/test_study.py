"""`wssl study` as a process: killed in every way, and resumed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.processes import PATIENCE_S, unused_port, wait_until
from tests.study.conftest import TINY
from wssl_pl.cli import main
from wssl_pl.cli.study import check_runs, only_arms, write_pairs
from wssl_pl.cli.study import declare as declared
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.modules.filling import FillingModule
from wssl_pl.study.definition import DEFINITIONS, read_studies, read_study
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.plan import Status, make_plan
from wssl_pl.study.sections import start_sections

ROOT = Path(__file__).parents[2]
LONG = 400  # steps of a run that shall be killed in its middle


@pytest.fixture
def declare(tmp_path):
    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(TINY | {"seeds": [0]} | changes, sort_keys=False))
        return str(path)

    return write


def begin(*words):
    command = [sys.executable, "train.py", "study", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)  # fmt: skip


def trainings(out):
    """Process ids and parents of the trainings of a study that are alive."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if f"{out}/runs/" in words and "wssl_pl" in words:
            found[int(folder.name)] = parent
    return found


def wait_for_checkpoint(out, process):
    """Waits until a training has written its first checkpoint and is still at work; gives its process and parent."""

    def at_work():
        written = any((out / "runs").glob("*/last.ckpt"))
        return written and next(iter(trainings(out).items()), None)

    return wait_until(at_work, "a checkpoint of a training", process)


def test_dry_run_prints_a_line_for_each_run_and_writes_nothing(declare, capsys, tmp_path):
    main(["study", declare(), "--dry-run", "seeds=[0,1]", f"out={tmp_path / 'out'}", "--downstream.model.lr=5e-4"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith(("stage=pretext ", "stage=downstream ")) for line in lines)
    assert all(("model.lr=0.0005" in line) == line.startswith("stage=downstream") for line in lines)
    assert {line.split(" seed=")[1][0] for line in lines} == {"0", "1"}
    assert "8 runs, " in printed.err
    assert "downstream freeze_layers=0, 4 runs, measured with 4 x 32 px" in printed.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_study_that_was_started_counts_what_is_left(declare, capsys, tmp_path):
    out = tmp_path / "out"
    folder = StudyFolder(out)
    folder.start(read_study([declare()]))
    for identity, planned in folder.plan().runs.items():
        if planned.stage == "pretext":
            folder.set_status(identity, Status("done", seconds=24.0, steps=12))
    for words in ([declare(), f"out={out}"], ["resume", str(out)]):
        main(["study", *words, "--dry-run"])
        said = capsys.readouterr().err
        assert "2.0000  pretext, 1 runs, from finished runs" in said
        assert "4 runs, 1 of them done" in said
    assert not (out / "pairs").exists(), "a dry run has started the study"


def test_a_dry_run_of_upgrad(declare, capsys):
    pytest.importorskip("torchjd")
    arm = {"pretext": {"tasks": ["rotation", "saturation"], "weighting": "upgrad"}}
    main(["study", declare(arms={"upgrad": arm}, claims=[]), "--dry-run"])
    assert "2 runs, " in capsys.readouterr().err


def test_the_search_of_a_study_can_be_switched_off(declare, capsys):
    tuned = declare(tune={"values": [1e-3, 1e-4], "steps": 4})
    main(["study", tuned, "--dry-run"])
    assert "trial=true" in capsys.readouterr().out
    main(["study", tuned, "tune=none", "--dry-run"])
    said = capsys.readouterr().out
    assert "trial=true" not in said
    assert "chosen_from" not in said
    # The same runs as without a search at all.
    main(["study", declare(tune="none"), "--dry-run"])
    assert capsys.readouterr().out == said


def test_chosen_arms_keep_the_names_of_the_others():
    study = read_study(["controls"])
    chosen = only_arms(study, ["scratch", "frozen"])
    assert list(chosen.arms) == ["scratch", "frozen"]
    assert chosen.omitted["random_frozen"] == "random encoder, frozen"
    assert chosen.omitted.keys() | chosen.arms.keys() == study.arms.keys()
    (section,), (whole,) = chosen.sections, study.sections
    assert len(section.claims) + section.omitted_claims == len(whole.claims)
    assert section.claims
    assert section.omitted_claims


def test_a_study_that_restores_is_measured_and_judged_on_damaged_inputs(declare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = read_study([declare(tune={"values": [1e-3, 1e-4]})])
    typed = {"downstream.restore": "sharpness,noise", "data.limit": 4, "data.hole_ratio": "0.2,0.6"}
    typed["downstream.undamaged"] = 0.5
    study = declared(read, {}, typed)
    assert study.sections[0].claims[0].metrics == ["psnr", "ssim"]
    assert study.tune.metric == "psnr"
    folder = StudyFolder(tmp_path / "study")
    folder.start(study)
    folder.check_same(declared(folder.study(), {}, {}))
    pairs = Pairs.open(write_pairs(folder))
    assert pairs.manifest.restore == ["sharpness", "noise"]
    assert pairs.manifest.undamaged == 0.5
    assert all(0.2 <= pair.ratio <= 0.6 for pair in pairs.pairs)
    assert read_study([declare()]).sections[0].claims[0].metrics == ["psnr_composite", "ssim_composite"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "study=nothing: is neither a YAML file"),
        (["table1"], "out: is required"),
        (["table1", "out=x", "seeds=[]"], "seeds=[]"),
        (["where", "out=x", "sections=[]"], "sections=[]: names none: omit it for all"),
        (["restore", "out=x", "--downstream.model.undamaged=half"], "model.undamaged=half"),
        (["table1", "out=x", "seeds=one"], "seeds=[one]: must be a list, each a whole number of at least 0"),
        (["table1", "out=x", "arms=[rotatoin]"], "arms=rotatoin: there is no such arm"),
        (["table1", "out=x", "--data.batchsize=4"], "batchsize"),
        (["table1", "out=x", "--model.width=0"], "model.width=0: must be at least 1"),
        (["table1", "out=x", "--run.dir=y"], "the study sets it for every run"),
        (["table1", "out=x", "tune.values=3"], "tune.values=3: must be a list, each a number"),
        (["table1", "out=x", "tune=some"], "tune=some: must be none"),
        (["table1", "out=x", "tune=none", "tune.steps=9"], "tune=none: tune.steps= is given too: give one of them"),
        (["table1", "out=x", "steps.pretex=9"], "unknown option 'steps.pretex': did you mean steps.pretext?"),
        (["table1", "out=x", "parralel=2"], "unknown option 'parralel': did you mean parallel?"),
        (["table1", "out=x", "ray.address=127.0.0.1:{port}"], "ray.address=127.0.0.1:{port}: no cluster answers there"),
        (["table1", "out=x", "ray.address=127.0.0.1:99999"], "no cluster answers there"),
        (["resume"], "takes one folder"),
        (["resume", "nowhere"], "does not exist"),
        (["resume", "nowhere", "out=x"], "out=x: is for a study that is started: omit it"),
        (["resume", "nowhere", "reuse=y"], "reuse=[y]: is for a study that is started"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_errors_come_in_one_line_before_anything_runs(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    port = str(unused_port())
    words, said = [word.replace("{port}", port) for word in words], said.replace("{port}", port)
    with pytest.raises(SystemExit) as end:
        main(["study", *words])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not Path("x").exists()


def test_what_is_typed_for_all_runs_is_stronger_than_what_the_definition_gives_a_stage(declare):
    study = read_study([declare(pretext={"lr": 1e-2}, downstream={"lr": 1e-3, "loss": "ssim"})])
    study = declared(study, {}, {"lr": 5e-4, "downstream.lr": 2e-4})
    arms = make_plan(study).final
    runs = make_plan(study).runs
    downstream = runs[arms["frozen"][0]]
    assert downstream.options["model.lr"] == 2e-4
    assert downstream.options["model.loss"] == "ssim"
    assert runs[downstream.pretext].options["model.lr"] == 5e-4


def test_a_resumed_study_takes_the_sections_that_are_asked_for(declare, capsys, tmp_path):
    sections = {"a": {"seeds": [0]}, "b": {"seeds": [3]}}
    start_sections(tmp_path / "out", read_studies([declare(sections=sections)]))
    main(["study", "resume", str(tmp_path / "out"), "sections=b", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("seed=3" in line for line in lines)
    with pytest.raises(SystemExit):
        main(["study", "resume", str(tmp_path / "out"), "sections=c"])
    assert "sections=c: was not started in" in capsys.readouterr().err


def test_without_ray_nothing_is_started(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        main(["study", "table1", "out=x"])
    assert capsys.readouterr().err == "error: a study needs Ray: pip install 'wssl-pl[study]'\n"
    assert not Path("x").exists()


def test_values_are_written_as_on_the_command_line(tmp_path, capsys):
    arm = {"tasks": ["rotation", "sharpness"], "weights": [0.3, 0.7]}
    common = TINY["common"] | {"model.lr": 0.125}
    text = yaml.safe_dump(TINY | {"arms": {"weighted": {"pretext": arm}}, "claims": [], "common": common})
    for plain, written in (("0.3", "3e-1"), ("0.7", "7e-1"), ("0.125", "1e-3")):
        assert text.count(plain) == 1
        text = text.replace(plain, written)
    path = tmp_path / "exponents.yaml"
    path.write_text(text)
    main(["study", str(path), "--dry-run", "--model.betas=0.5,0.99"])
    assert "weights=[0.3,0.7]" in capsys.readouterr().out


def test_a_task_that_is_no_name_is_one_line(declare, capsys):
    definition = declare(arms={"a": {"pretext": {"tasks": [{"rotation": 1}]}}}, claims=[])
    with pytest.raises(SystemExit) as end:
        main(["study", definition, "--dry-run"])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_one_failed_run_and_the_rest_goes_on(declare, tmp_path, capsys):
    pytest.importorskip("ray")
    arms = {
        "bad": {"pretext": "none", "downstream": {"freeze_layers": 0, "model.lr": 1.0e30}},
        "scratch": TINY["arms"]["scratch"],
    }
    out = tmp_path / "out"
    process = begin(declare(arms=arms, claims=[], seconds="unequal"), f"out={out}", "parallel=2")
    text, _ = process.communicate(timeout=2 * PATIENCE_S)
    assert process.returncode == 1, text
    assert "error: 1 runs failed, as said above" in text
    assert "1 of 2 runs done, 1 failed" in text
    folder = StudyFolder(out)
    bad, good = (folder.plan().final[arm][0] for arm in ("bad", "scratch"))
    assert folder.status(bad).state == "failed"
    assert "not finite" in folder.status(bad).reason
    assert folder.status(good).state == "done"
    assert json.loads((folder.run(good) / "evaluation" / "summary.json").read_text())["pairs"]["evaluated"] > 0
    assert "not finite" in (out / "report" / "report.md").read_text()
    with pytest.raises(SystemExit):
        main(["study", "resume", str(out), "--data.batch_size=2"])
    assert "options.common.data.batch_size: 4 -> 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_of_restoration_runs_to_its_report(declare, tmp_path):
    pytest.importorskip("ray")
    shipped = yaml.safe_load((DEFINITIONS / "restore.yaml").read_text())
    arms = {name: shipped["arms"][name] for name in ("oracle", "pretext_all")}
    steps, downstream = {"pretext": 2, "downstream": 2}, {"restore": ["saturation", "jpeg"], "freeze_layers": 0}
    file = declare(arms=arms, claims=[], steps=steps, downstream=downstream, plots=["figure3"], seconds="unequal")
    out = tmp_path / "out"
    text, _ = begin(file, f"out={out}", "parallel=2").communicate(timeout=2 * PATIENCE_S)
    assert "3 of 3 runs done, 0 failed" in text
    report = (out / "report" / "report.md").read_text()
    header = next(line for line in report.splitlines() if line.startswith("| arm |"))
    assert header.startswith("| arm | SSIM | PSNR | PSNR hole | PSNR known |")
    labels = tuple(f"| {arm['label']} |" for arm in arms.values())
    rows = [line.split(" | ") for line in report.splitlines() if line.startswith(labels)]
    assert len(rows) == 2
    assert all(float(value) > 0 for row in rows for value in row[1:5])
    assert (out / "report" / "tiny_figure3.png").is_file()
    folder = StudyFolder(out)
    evaluated = folder.result(folder.plan().final["oracle"][0])
    assert evaluated.pairs.restore == ["saturation", "jpeg"]
    assert any("is an oracle" in note for note in evaluated.notes)


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_cost_nothing_that_was_saved(declare, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    arms = {"frozen": TINY["arms"]["frozen"]}
    file = declare(arms=arms, claims=[], steps={"pretext": LONG, "downstream": LONG})
    process = begin(file, f"out={out}", "parallel=1", "--evaluate=false")
    training, worker = wait_for_checkpoint(out, process)
    os.kill(worker, signal.SIGKILL)  # Ray begins the run again in another worker
    wait_until(lambda: training not in trainings(out), "the training of a killed worker to end")

    folder = StudyFolder(out)
    (pretext, downstream) = folder.plan().runs
    wait_until(lambda: folder.status(pretext).state == "done", "the pretext run", process)
    assert folder.status(pretext).attempts >= 2
    log = (folder.run(pretext) / "log.txt").read_text()
    assert "$ wssl resume=" in log, "it began anew although there was a checkpoint"

    wait_until(lambda: trainings(out), "the downstream run", process)
    os.killpg(process.pid, signal.SIGKILL)  # the driver; Ray and the training end with it
    process.wait()
    wait_until(lambda: not trainings(out), "the training of a killed driver to end")
    assert folder.status(downstream).state != "done"

    before = (folder.run(pretext) / "log.txt").read_text()
    resumed = begin("resume", str(out), "--evaluate=false")
    text, _ = resumed.communicate(timeout=2 * PATIENCE_S)
    assert resumed.returncode == 0, text
    assert "2 of 2 runs done, 0 failed" in text
    assert (folder.run(pretext) / "log.txt").read_text() == before, "the finished pretext run was trained again"
    assert folder.curves(downstream)["val/psnr"].steps[-1] == LONG - 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_end_it_lets_what_is_running_write_a_checkpoint(declare, tmp_path, number, code):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    file = declare(arms={"scratch": TINY["arms"]["scratch"]}, claims=[], steps={"pretext": 1, "downstream": 10 * LONG})
    process = begin(file, f"out={out}", "--evaluate=false")
    wait_for_checkpoint(out, process)
    process.send_signal(number)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, text
    assert "resume with: wssl study resume" in text
    wait_until(lambda: not trainings(out), "the training to end")
    (log,) = (path.read_text() for path in (out / "runs").glob("*/log.txt"))
    assert "Interrupted: writing a checkpoint" in log
    assert "error: interrupted; resume with" in log


def test_missing_weights_are_said_before_the_first_run(declare, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    losses = {"perceptual": 0.1, "features": "alexnet"}
    arms = {"plain": {"pretext": "none"}, "sharp": {"pretext": "none", "downstream": losses}}
    with pytest.raises(SystemExit):
        main(["study", declare(arms=arms, claims=[]), f"out={tmp_path / 'out'}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "arm sharp, downstream: model.features=alexnet: no weights found in WSSL_WEIGHTS" in line
    assert not (tmp_path / "out" / "study.json").exists()


@pytest.mark.parametrize("name", sorted(path.stem for path in DEFINITIONS.glob("*.yaml")))
def test_every_run_of_a_shipped_study_has_options_that_train_takes(name, monkeypatch):
    monkeypatch.setattr(FillingModule, "feature_network", lambda self, device: None)  # weights are not here
    for study in read_studies([name]).values():
        check_runs(study, make_plan(study))
