"""Runs whose training is played by a script, so that its ends can be chosen."""

import errno
import json
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.study.fakes import write_evaluation
from wssl_pl.cli import main
from wssl_pl.errors import DiskFull, TrainingStopped, WSSLError, write_error
from wssl_pl.files import write_json
from wssl_pl.study import cost
from wssl_pl.study import execute as module
from wssl_pl.study.definition import Tuning, read_study
from wssl_pl.study.execute import Unfinished, choose, execute
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.plan import Status
from wssl_pl.study.results import read_results
from wssl_pl.study.summary import summarise


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Lets the commands of a run be played by Python code.

    The code finds its words in `words`, the run's folder in `folder` and the number of its call in `attempt`, and
    writes `last.ckpt` with `save(steps)`, by default with all steps of the run.
    """
    for steps in (4, 7, 10, 22):
        torch.save({"global_step": steps}, tmp_path / f"{steps}.ckpt")

    def use(code):
        script = tmp_path / "training.py"
        known = """
            import json, os, pathlib, shutil, signal, sys
            here = pathlib.Path(__file__).parent
            words = dict(w.split('=', 1) for w in sys.argv[1:] if '=' in w)
            folder = pathlib.Path(words.get('run.dir') or pathlib.Path(words.get('resume', here)).parent)
            calls = here / 'calls'
            calls.open('a').write(' '.join(sys.argv[1:]) + '\\n')
            attempt = len(calls.read_text().splitlines())
            def fail(message, disk_full=False):
                error = {'message': message, 'disk_full': disk_full}
                pathlib.Path(os.environ['WSSL_ERROR_FILE']).write_text(json.dumps(error))
                sys.exit(2)
            def save(steps=words.get('trainer.max_steps', 10)):
                shutil.copy(here / f'{steps}.ckpt', folder / 'last.ckpt')
        """
        script.write_text(textwrap.dedent(known) + textwrap.dedent(code))
        monkeypatch.setattr(module, "COMMAND", [sys.executable, str(script)])
        return tmp_path / "calls"

    return use


def first(study, arm="frozen"):
    plan = study.plan()
    return plan, plan.runs[plan.final[arm][0]]


def go(study, run, pairs=None):
    return execute(study, study.plan(), run, study.path, pairs)


def test_a_run_that_ends_well_is_done_and_not_trained_again(study, play):
    calls = play("save()")
    _, run = first(study)
    status = go(study, run)
    assert (status.state, status.steps, status.attempts) == ("done", 10, 1)
    assert go(study, run) == status
    (call,) = calls.read_text().splitlines()
    assert f"ckpt={study.run(run.pretext)}/best.ckpt" in call
    assert "seed_everything=0" in call


def test_scratch_takes_no_checkpoint(study, play):
    calls = play("save()")
    go(study, first(study, "scratch")[1])
    assert "ckpt=none" in calls.read_text()


def test_a_classical_method_is_measured_and_not_trained(declare, tmp_path, play):
    folder = StudyFolder(tmp_path / "classical")
    arms = {"telea": {"pretext": "none", "method": "telea"}, "plain": {"pretext": "none"}}
    folder.start(read_study([declare(arms=arms, claims=[])]))
    calls = play("")
    plan, run = first(folder, "telea")
    assert go(folder, run, tmp_path / "pairs").state == "done"
    (call,) = calls.read_text().splitlines()
    assert call.startswith(f"evaluate pairs={tmp_path / 'pairs'} method=telea out=")
    write_evaluation(folder.run(run.id) / "evaluation", np.linspace(20, 22, 4))
    assert folder.is_done(run, measured=True)
    arm = summarise(read_results(folder.path)).arms["telea"]
    assert (arm.convergence.state, arm.minutes["downstream"]) == ("converged", 0.0)
    assert arm.runs == {0: run.id, 1: run.id}
    costs = cost.measure_costs(plan, 1, {cost.kind(plan, plan.runs[plan.final["plain"][0]]): 0.1})
    assert list(costs.values()) == [cost.Cost(0.1, "from finished runs")]
    assert cost.expected_seconds(plan, {name: one.seconds for name, one in costs.items()}, 1, {
        name: Status() for name in plan.runs
    }) == pytest.approx(2 * 10 * 0.1)  # fmt: skip


def test_a_training_that_fails_is_marked_with_its_own_words(study, play):
    play("fail('the loss is not finite at step 3')")
    _, run = first(study)
    status = go(study, run)
    assert (status.state, status.reason) == ("failed", "the loss is not finite at step 3")
    assert study.status(run.id) == status


def test_a_killed_training_goes_on_from_its_checkpoint(study, play):
    calls = play(
        """
        if attempt == 1:
            save(4)
            os.kill(os.getpid(), signal.SIGKILL)
        save()
        """
    )
    _, run = first(study)
    status = go(study, run)
    assert (status.state, status.attempts) == ("done", 2)
    assert calls.read_text().splitlines()[1].startswith(f"resume={study.run(run.id)}/last.ckpt")


def test_killed_before_its_first_checkpoint_it_begins_anew(study, play):
    calls = play(
        """
        if attempt == 1:
            pathlib.Path(words['run.dir'], 'config.yaml').touch()
            pathlib.Path(words['run.dir'], 'best.ckpt').touch()  # a validation before the end of the first epoch
            os.kill(os.getpid(), signal.SIGKILL)
        assert not pathlib.Path(words['run.dir'], 'config.yaml').exists()
        assert not pathlib.Path(words['run.dir'], 'best.ckpt').exists()
        save()
        """
    )
    assert go(study, first(study)[1]).state == "done"
    assert "stage=downstream" in calls.read_text().splitlines()[1]


def test_killed_again_and_again_it_is_left_for_later(study, play):
    play("os.kill(os.getpid(), signal.SIGKILL)")
    _, run = first(study)
    with pytest.raises(Unfinished, match="killed 3 times"):
        go(study, run)
    assert study.status(run.id).state == "running"  # which a resumed study takes for not done


@pytest.mark.parametrize("end", ["sys.exit(130)", "sys.exit(143)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_training_that_was_told_to_end_is_left_for_later_and_resumed(study, play, end):
    calls = play(f"if attempt == 1:\n    save(4)\n    {end}\nsave()")
    _, run = first(study)
    with pytest.raises(Unfinished, match="interrupted after 4 of 10 steps"):
        go(study, run)
    assert (study.status(run.id).state, study.status(run.id).steps) == ("running", 4)
    assert go(study, run).state == "done"
    assert calls.read_text().splitlines()[1].startswith(f"resume={study.run(run.id)}/last.ckpt")


def test_the_time_of_an_interrupted_training_counts(study, play):
    play("if attempt == 1:\n    save(4)\n    sys.exit(130)\nsave()")
    _, run = first(study)
    with pytest.raises(Unfinished):
        go(study, run)
    before = study.status(run.id)
    assert 0 < before.seconds < before.wall_seconds
    assert before.cpu_seconds > 0
    status = go(study, run)
    assert status.seconds > before.seconds
    assert status.wall_seconds > before.wall_seconds


def test_ctrl_c_keeps_the_time_too(study, play):
    play("os.kill(os.getppid(), signal.SIGINT)\nsignal.pause()")
    _, run = first(study)
    with pytest.raises(KeyboardInterrupt):
        go(study, run)
    status = study.status(run.id)
    assert (status.state, status.attempts) == ("running", 1)
    assert 0 < status.seconds < status.wall_seconds


def test_the_time_is_kept_while_it_trains(study, play, monkeypatch):
    """A worker that is killed says nothing at its end."""
    monkeypatch.setattr(module, "KEEP_S", 0.0)
    play(
        """
        import time
        status, end = folder / 'status.json', time.monotonic() + 60
        while not json.loads(status.read_text())['seconds'] and time.monotonic() < end:
            pass
        fail(f"seconds={json.loads(status.read_text())['seconds'] > 0}")
        """
    )
    assert go(study, first(study)[1]).reason == "seconds=True"


def test_an_imported_pretext_run_is_trained_again_and_keeps_its_curves_until_then(study, play):
    plan, run = first(study)
    pretext = plan.runs[run.pretext]
    study.set_status(pretext.id, Status("done", seconds=100.0, steps=pretext.steps))
    write_json(study.run(pretext.id) / "curve.json", {"val/score": [[11, 0.5]]})
    play("sys.exit(130) if attempt == 1 else None\nsave(22)\n(folder / 'best.ckpt').touch()")
    with pytest.raises(Unfinished):
        go(study, pretext)
    assert study.curves(pretext.id)["val/score"].values == (0.5,)
    before = study.status(pretext.id)
    assert (before.state, before.attempts) == ("running", 1)
    status = go(study, pretext)
    assert (status.state, status.steps, status.attempts) == ("done", 22, 2)
    assert before.seconds < status.seconds < 100.0
    (study.run(pretext.id) / "metrics.csv").write_text("step,val/score\n11,0.75\n")
    assert study.curves(pretext.id)["val/score"].values == (0.75,)


def test_an_imported_run_without_a_result_is_trained_again(study, play, tmp_path):
    _, run = first(study, "scratch")
    study.set_status(run.id, Status("done", seconds=100.0, steps=run.steps))
    write_json(study.run(run.id) / "curve.json", {"val/psnr": [[9, 20.0]]})
    write_evaluation(tmp_path / "evaluation", np.array([20.0, 21.0]))
    calls = play(MEASURES)
    assert go(study, run).state == "done"  # nothing is measured
    assert not calls.exists()
    assert go(study, run, pairs=tmp_path / "pairs").state == "done"
    assert [call.split("=")[0].split()[0] for call in calls.read_text().splitlines()] == ["stage", "evaluate"]


def test_a_run_that_is_trained_again_is_measured_again(declare, tmp_path, play):
    """It has its result, and lacks that on the pairs from elsewhere: both have to be of the same model."""
    folder = StudyFolder(tmp_path / "study")
    folder.start(read_study([declare(out_of_domain="elsewhere")]))
    _, run = first(folder, "scratch")
    folder.set_status(run.id, Status("done", steps=run.steps))
    write_json(folder.run(run.id) / "curve.json", {"val/psnr": [[9, 20.0]]})
    write_evaluation(folder.run(run.id) / "evaluation", np.array([10.0, 11.0]))
    write_evaluation(tmp_path / "evaluation", np.array([20.0, 21.0]))
    play(MEASURES)
    assert go(folder, run, pairs=tmp_path / "pairs").state == "done"
    assert folder.result(run.id).table.column("psnr_composite").tolist() == [20.0, 21.0]


def test_exit_code_0_before_the_last_step_is_not_done(study, play):
    """Lightning ends so at SIGTERM."""
    calls = play("save({1: 4, 2: 7, 3: 10}[attempt])")
    _, run = first(study)
    status = go(study, run)
    assert (status.state, status.steps, status.attempts) == ("done", 10, 3)
    assert [call.startswith("resume=") for call in calls.read_text().splitlines()] == [False, True, True]


def test_a_training_that_always_ends_before_its_last_step_fails(study, play):
    play("save(4)")
    _, run = first(study)
    status = go(study, run)
    assert (status.state, status.steps) == ("failed", 4)
    assert "ends after 4 of 10 steps without an error" in status.reason


def test_a_training_that_was_told_to_end_after_its_last_step_is_done(study, play):
    play("save(); sys.exit(143)")
    assert go(study, first(study)[1]).state == "done"


def test_a_damaged_checkpoint_is_named(study, play):
    play("(folder / 'last.ckpt').write_text('cut short')")
    status = go(study, first(study)[1])
    assert status.state == "failed"
    assert "last.ckpt: is not a complete checkpoint" in status.reason


def test_a_full_disk_stops_everything(study, play):
    play("fail('could not write the checkpoint x', disk_full=True)")
    with pytest.raises(DiskFull):
        go(study, first(study)[1])


MEASURES = """
    if sys.argv[1] == 'evaluate':
        shutil.copytree(here / 'evaluation', words['out'], dirs_exist_ok=True)
    else:
        save()
"""


def test_a_finished_model_is_measured_once(study, play, tmp_path):
    calls = play(MEASURES)
    write_evaluation(tmp_path / "evaluation", np.array([20.0, 21.0]))
    _, run = first(study)
    for _ in range(2):
        assert go(study, run, pairs=tmp_path / "pairs").state == "done"
    _, evaluation = calls.read_text().splitlines()
    assert evaluation.startswith(f"evaluate pairs={tmp_path}/pairs ckpt={study.run(run.id)}/best.ckpt")


def test_a_killed_evaluation_is_started_again(study, play, tmp_path):
    calls = play("if attempt == 2:\n    os.kill(os.getpid(), signal.SIGKILL)\n" + textwrap.dedent(MEASURES))
    write_evaluation(tmp_path / "evaluation", np.array([20.0, 21.0]))
    assert go(study, first(study)[1], pairs=tmp_path / "pairs").state == "done"
    assert len(calls.read_text().splitlines()) == 3


@pytest.mark.parametrize("damaged", ["summary.json", "per_image.parquet"])
def test_a_damaged_result_is_measured_again(study, play, tmp_path, damaged):
    calls = play(MEASURES)
    write_evaluation(tmp_path / "evaluation", np.array([20.0, 21.0]))
    _, run = first(study)
    status = go(study, run, pairs=tmp_path / "pairs")
    (study.run(run.id) / "evaluation" / damaged).write_bytes(b"\xff")
    assert not study.is_done(run, measured=True)
    assert study.is_done(run, measured=False)
    again = go(study, run, pairs=tmp_path / "pairs")
    assert again.wall_seconds > status.wall_seconds
    assert replace(again, wall_seconds=0, cpu_seconds=0) == replace(status, wall_seconds=0, cpu_seconds=0)
    assert [call.split()[0].split("=")[0] for call in calls.read_text().splitlines()] == ["stage"] + 2 * ["evaluate"]
    assert calls.read_text().endswith("overwrite=true\n")


@pytest.mark.parametrize("error", ["[", "3", "{}", "[" * 9999])
def test_a_damaged_error_file_is_replaced_by_the_exit_code(study, play, error):
    play(f"pathlib.Path(os.environ['WSSL_ERROR_FILE']).write_text({error!r}); sys.exit(2)")
    assert "ended with exit code 2" in go(study, first(study)[1]).reason


def test_an_evaluation_that_fails_does_not_cost_the_training(study, play, tmp_path):
    calls = play("if sys.argv[1] == 'evaluate': fail('pairs changed')\nsave()")
    _, run = first(study)
    assert go(study, run, pairs=tmp_path / "pairs").reason == "pairs changed"
    study.set_status(run.id, Status())
    go(study, run, pairs=tmp_path / "pairs")
    assert [call.split()[0].split("=")[0] for call in calls.read_text().splitlines()] == [
        "stage",
        "evaluate",
        "evaluate",
    ]


def test_the_trial_with_the_best_validation_is_chosen(declare, tmp_path, play):
    study = read_study([declare()])
    study.tune = Tuning(values=[0.1, 0.01, 0.001], steps=4)
    folder = StudyFolder(tmp_path / "tuned")
    folder.start(study)
    plan, run = first(folder)
    trials = list(run.chooses.values())
    for trial, figures in zip(trials, ([20.0, 22.2], [22.5, 22.0], None), strict=True):
        folder.set_status(trial, Status("done" if figures else "failed"))
        if figures:
            write_json(folder.run(trial) / "curve.json", {"val/psnr_composite": list(enumerate(figures))})
    assert choose(folder, plan, run) == {"model.lr": 0.01}
    calls = play("save()")
    assert go(folder, run).chosen == {"model.lr": 0.01}
    assert "model.lr=0.01" in calls.read_text()


def test_without_any_trial_the_run_fails(declare, tmp_path):
    study = read_study([declare()])
    study.tune = Tuning(values=[0.1, 0.01], steps=4)
    folder = StudyFolder(tmp_path / "tuned")
    folder.start(study)
    status = go(folder, first(folder)[1])
    assert (status.state, status.reason) == ("failed", "no trial of model.lr has a psnr_composite to choose by")


def test_a_training_that_ends_without_an_error_of_its_own(study, play):
    play("print('error: this is not parsed'); sys.exit(1)")
    _, run = first(study)
    assert go(study, run).reason == f"the process ended with exit code 1; see {study.run(run.id)}/log.txt"


def test_the_error_of_an_earlier_attempt_is_not_reported(study, play):
    play("if attempt == 1: fail('first')\nsys.exit(1)")
    _, run = first(study)
    assert go(study, run).reason == "first"
    study.set_status(run.id, Status())
    assert "exit code 1" in go(study, run).reason


@pytest.mark.parametrize(
    ("error", "message", "full"),
    [
        (WSSLError("width", 0, "must be at least 1"), "width=0: must be at least 1", False),
        (TrainingStopped("the loss is not finite"), "the loss is not finite", False),
        (DiskFull("could not write the checkpoint"), "could not write the checkpoint", True),
        (OSError(errno.ENOSPC, "No space left"), "OSError: [Errno 28] No space left", True),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug", False),
    ],
)
def test_a_process_writes_the_parts_of_its_error(tmp_path, monkeypatch, error, message, full):
    write_error(error)  # nobody asks
    monkeypatch.setenv("WSSL_ERROR_FILE", str(tmp_path / "error.json"))
    write_error(error)
    written = json.loads((tmp_path / "error.json").read_text())
    assert (written["message"], written["disk_full"], written["type"]) == (message, full, type(error).__name__)
    assert written["parameter"] == getattr(error, "parameter", None)


def test_torchrun_shows_the_message_of_the_process_that_reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    write_error(TrainingStopped(""))  # another process reports
    assert not list(tmp_path.iterdir())
    write_error(ZeroDivisionError("a bug"))
    failure = ProcessFailure(0, 1, 1, str(tmp_path / "error.json"))
    assert failure.message == "ZeroDivisionError: a bug"
    assert abs(failure.timestamp - time.time()) < 60


def test_a_command_writes_its_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WSSL_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit):
        main(["study", "nothing"])
    capsys.readouterr()
    assert json.loads((tmp_path / "error.json").read_text())["value"] == "nothing"


def test_a_model_is_measured_on_the_pairs_from_elsewhere_too(declare, tmp_path, play):
    calls = play(MEASURES)
    write_evaluation(tmp_path / "evaluation", np.array([20.0, 21.0, 24.0]), names=["own-0", "own-1", "grey-0"])
    folder = StudyFolder(tmp_path / "study")
    folder.start(read_study([declare(out_of_domain="elsewhere")]))
    _, run = first(folder)
    assert go(folder, run, pairs=tmp_path / "pairs").state == "done"
    where = [call.split()[1] for call in calls.read_text().splitlines()[1:]]
    assert where == [f"pairs={tmp_path / 'pairs'}", f"pairs={folder.path / 'elsewhere'}"]
    shifted = folder.shifted(run.id)
    assert {name: means["psnr_composite"] for name, means in shifted.items()} == {"own": 20.5, "grey": 24.0}
    assert folder.is_done(run, measured=True)
    (folder.run(run.id) / "out_of_domain" / "summary.json").unlink()
    assert not folder.is_done(run, measured=True)
    write_json(folder.run(run.id) / "out_of_domain.json", shifted)  # as an import leaves it
    assert folder.is_done(run, measured=True)
    assert folder.shifted(run.id) == shifted
