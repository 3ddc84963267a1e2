"""The order of runs, with a Ray that does everything at once in this process."""

import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from tests.processes import PATIENCE_S
from wssl_pl.errors import DiskFull, TrainingStopped, WSSLError
from wssl_pl.files import write_json
from wssl_pl.study import driver
from wssl_pl.study.definition import read_study
from wssl_pl.study.driver import Progress, Resources, fits, run_study
from wssl_pl.study.execute import Unfinished
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.plan import Plan, Status
from wssl_pl.study.reuse import reuse

ROOT = Path(__file__).parents[2]


class TaskError(Exception):
    def __init__(self, cause):
        self.cause = cause


class FakeRay:
    """Runs a task when its result is waited for; as many cores as are given."""

    exceptions = types.SimpleNamespace(RayTaskError=TaskError, RayError=type("RayError", (Exception,), {}))

    def __init__(self, cores=2.0):
        self.cores, self.most, self.results, self.waiting = cores, 0, {}, []

    def cluster_resources(self):
        return {"CPU": self.cores}

    def nodes(self):
        return [{"Alive": True, "Resources": self.cluster_resources()}]

    def remote(self, function):
        task = types.SimpleNamespace(remote=lambda *args: Submitted(function, args))
        return types.SimpleNamespace(options=lambda **_: task)

    def wait(self, references, num_returns, timeout):
        self.waiting.append(len(references))
        self.most = max(self.waiting)
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        try:
            if not isinstance(reference, Submitted):
                return reference
            if reference not in self.results:
                # Ray passes the values of references that are arguments.
                given = [self.get(arg) if isinstance(arg, Submitted) else arg for arg in reference.args]
                self.results[reference] = reference.function(*given)
            return self.results[reference]
        except Exception as error:
            raise TaskError(error) from error

    def put(self, value):
        return value

    def shutdown(self):
        pass


class Submitted:
    def __init__(self, function, args):
        self.function, self.args = function, args


@pytest.fixture
def drive(study, monkeypatch):
    """Runs the study; `outcome(run)` gives each run's status, or raises."""

    def run(outcome=lambda run: Status("done"), ray=None, out=None, resources=None):
        order = []

        def played(folder, plan, run, cwd, pairs):
            assert all(folder.status(need).state == "done" or outcome is not None for need in run.needs)
            order.append(run.id)
            status = outcome(run)
            folder.set_status(run.id, status)
            return status

        monkeypatch.setattr(driver, "execute", played)
        monkeypatch.setattr(driver, "start_ray", lambda resources: ray or FakeRay())
        return run_study(study, resources or Resources(), None, out=out or Terminal(False)), order

    return run


def test_every_run_once_and_after_what_it_needs(study, drive):
    progress, order = drive()
    plan = study.plan()
    assert sorted(order) == sorted(plan.runs)
    for identity, run in plan.runs.items():
        assert all(order.index(need) < order.index(identity) for need in run.needs)
    assert {run.status.state for run in progress.runs.values()} == {"done"}


def test_no_more_at_a_time_than_fit(study, drive):
    ray = FakeRay(cores=3.0)
    drive(ray=ray)
    assert ray.most == 3


def test_what_is_done_is_not_done_again(study, drive):
    for identity in list(study.plan().runs)[:5]:
        study.set_status(identity, Status("done"))
    _, order = drive()
    assert order == list(study.plan().runs)[5:]


def test_a_failure_takes_only_those_with_it_that_need_it(study, drive):
    plan = study.plan()
    bad = plan.runs[plan.final["frozen"][0]].pretext
    progress, _ = drive(lambda run: Status("failed", reason="NaN") if run.id == bad else Status("done"))
    states = {arm: [progress.runs[by[seed]].status.state for seed in (0, 1)] for arm, by in plan.final.items()}
    assert states == {"frozen": ["skipped", "done"], "fine_tuned": ["skipped", "done"], "scratch": ["done", "done"]}
    assert study.status(plan.final["frozen"][0]).reason == "a run that it needs failed"


def test_what_failed_after_its_last_step_is_measured_again(study, drive):
    first, second, *_ = study.plan().runs.values()
    study.set_status(first.id, Status("failed", steps=first.steps, reason="out of memory"))
    study.set_status(second.id, Status("failed", steps=second.steps - 1, reason="the loss is NaN"))
    _, order = drive()
    assert first.id in order
    assert second.id not in order


def test_runs_of_a_study_that_is_gone_are_trained_again(study, drive, tmp_path, capsys):
    identity = next(iter(study.plan().runs))
    study.run(identity).parent.mkdir()
    study.run(identity).symlink_to(tmp_path / "gone")
    _, order = drive()
    assert sorted(order) == sorted(study.plan().runs)
    assert "Note: 1 finished runs are trained again" in capsys.readouterr().out


def test_an_imported_pretext_run_of_another_study_stays_as_it_is(study, drive, declare, tmp_path):
    run = next(run for run in study.plan().runs.values() if run.pretext)
    other = StudyFolder(tmp_path / "other")
    other.start(read_study([declare()]))
    other.set_status(run.pretext, Status("done", seconds=7.0))
    write_json(other.run(run.pretext) / "curve.json", {})
    assert reuse(study, other, study.plan()) == 1
    _, order = drive(lambda run: Status("done", seconds=1.0))
    assert run.pretext in order
    assert other.status(run.pretext).seconds == 7.0
    assert other.is_imported(run.pretext)


def test_what_was_skipped_is_looked_at_again(study, drive):
    plan = study.plan()
    study.set_status(plan.final["frozen"][0], Status("skipped"))
    progress, _ = drive()
    assert progress.runs[plan.final["frozen"][0]].status.state == "done"


@pytest.mark.parametrize(
    "error", [DiskFull("the disk is full"), Unfinished("it was interrupted"), OSError(30, "Read-only file system")]
)
def test_a_full_disk_lets_the_others_end_and_begins_nothing_new(study, drive, error):
    started = []

    def outcome(run):
        started.append(run.id)
        if len(started) == 1:
            raise error
        return Status("done")

    with pytest.raises(TrainingStopped, match="study resume"):
        drive(outcome)
    assert len(started) == 2  # the other one that was under way


def test_an_unforeseen_error_is_one_failed_run(study, drive):
    bad = next(iter(study.plan().runs))

    def outcome(run):
        if run.id == bad:
            raise ZeroDivisionError("a bug")
        return Status("done")

    progress, _ = drive(outcome)
    assert progress.runs[bad].status == Status("failed", reason="ZeroDivisionError: a bug")


def test_too_much_is_asked_for(study, drive):
    with pytest.raises(WSSLError, match=r"does not fit into 0\.5 CPU cores"):
        drive(ray=FakeRay(cores=0.5))


@pytest.mark.parametrize(
    ("total", "cpus", "gpus", "expected"),
    [
        ({"CPU": 8.0}, 1, 0, 8),
        ({"CPU": 8.0}, 3, 0, 2),
        ({"CPU": 16.0, "GPU": 1.0}, 1, 0.1, 10),
        ({"CPU": 2.0}, 1, 1, 0),
    ],
)
def test_fits(total, cpus, gpus, expected):
    assert fits(total, {"CPU": cpus, "GPU": gpus}) == expected


class FakeCluster(FakeRay):
    """Two machines. When so many runs have ended, the second one is lost and a third one comes."""

    def __init__(self, lost_after=100):
        super().__init__()
        self.lost_after = lost_after

    def cluster_resources(self):
        return {"CPU": 4.0, "big": 2.0}

    def nodes(self):
        second = len(self.results) < self.lost_after
        return [
            {"Alive": True, "Resources": {"CPU": 2.0, "big": 2.0}},
            {"Alive": second, "Resources": {"CPU": 2.0}},
            {"Alive": not second, "Resources": {"CPU": 1.0}},
        ]


@pytest.mark.parametrize(
    ("resources", "most"),
    [
        (Resources(cpus=1), 4),
        (Resources(cpus=2), 2),
        (Resources(cpus=1, custom={"big": 1}), 2),
        (Resources(cpus=1, parallel=3), 3),
    ],
)
def test_runs_are_placed_by_what_a_machine_has(study, drive, resources, most):
    ray = FakeCluster()
    drive(ray=ray, resources=resources)
    assert ray.most == most


def test_a_run_that_fits_into_no_machine_of_a_cluster_is_refused(study, drive):
    with pytest.raises(WSSLError, match=r"cpus_per_run=3, .* does not fit into 4 CPU cores and 0 GPUs of 2 machines"):
        drive(ray=FakeCluster(), resources=Resources(cpus=3))


def test_machines_of_a_cluster_come_and_go(study, drive):
    ray = FakeCluster(lost_after=2)
    progress, _ = drive(ray=ray, resources=Resources("auto"))
    assert {run.status.state for run in progress.runs.values()} == {"done"}
    assert ray.waiting[0] == 4
    assert max(ray.waiting[3:]) == 3


class Terminal:
    def __init__(self, is_terminal):
        self.text, self.isatty, self.flush = "", lambda: is_terminal, lambda: None

    def write(self, text):
        self.text += text


def test_without_a_terminal_it_tells_what_begins_and_ends(study, drive):
    out = Terminal(False)
    plan = study.plan()
    drive(lambda run: Status("failed", reason="NaN") if run.seed else Status("done"), out=out)
    lines = out.text.splitlines()
    # Each has started and ended; the task of a run whose pretext run failed finds that out.
    assert len(lines) == 2 * 8
    assert sum(" skipped " in line for line in lines) == 2
    assert lines[-1].startswith(f"[{len(plan.runs)}/{len(plan.runs)}]")
    assert any("failed" in line and line.endswith(": NaN") for line in lines)


def test_the_bar_in_a_terminal_counts_the_steps_of_all_runs(study):
    plan = study.plan()
    frozen = plan.final["frozen"]
    before = Plan(dict(plan.runs), plan.final)
    states = {plan.runs[frozen[0]].pretext: Status("done"), frozen[0]: Status("running")}
    states[plan.final["scratch"][1]] = Status("failed", reason="NaN")
    after = Plan({name: replace(run, status=states.get(name, Status())) for name, run in plan.runs.items()}, plan.final)
    study.run(frozen[0]).mkdir(parents=True)
    (study.run(frozen[0]) / "metrics.csv").write_text("step,train/loss\n4,0.5\n5,0.4\n")
    out = Terminal(True)
    progress = Progress(study, before, out)
    progress.show(after)
    # Of 12 + 10 + 10 + 22 steps for each seed: a pretext run, 5 steps, and a failed run that takes no more.
    assert (progress.bar.n, progress.bar.total) == (12 + 5 + 22, 2 * 54)
    assert "2 of 8 runs" in out.text
    assert "failed" in out.text
    assert "NaN" in out.text
    progress.close()


STARTED = "from wssl_pl.study.driver import Resources, start_ray\n"


@pytest.mark.slow
def test_auto_does_not_join_the_private_ray_of_another_study(only_cluster):
    pytest.importorskip("ray")
    command = [sys.executable, "-c"]
    private = subprocess.Popen(
        [*command, STARTED + "start_ray(Resources()); print('up', flush=True); input()"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert private.stdout.readline() == "up\n"
        code = STARTED + "start_ray(Resources(address='auto'))"
        joined = subprocess.run([*command, code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    finally:
        private.communicate("\n", timeout=PATIENCE_S)
    assert joined.returncode == 1
    assert "WSSLError: ray.address=auto: the only Ray found here belongs to another study" in joined.stderr
    assert private.returncode == 0, "it did not survive"


def test_a_study_without_an_address_starts_its_own_ray(monkeypatch):
    """Whatever Ray would find: a cluster on this machine, or an address in the environment."""
    asked = {}
    fake = types.SimpleNamespace(init=lambda **given: asked.update(given))
    monkeypatch.setitem(sys.modules, "ray", fake)
    driver.start_ray(Resources())
    assert asked["address"] == "local"
    assert list(asked["resources"]) == [driver.PRIVATE]


def test_auto_takes_a_cluster_that_is_no_studys(monkeypatch):
    fake = types.SimpleNamespace(init=lambda **given: None, cluster_resources=lambda: {"CPU": 4.0})
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert driver.start_ray(Resources(address="auto")) is fake


def test_the_cores_that_a_study_uses_are_counted_over_its_sessions(study, drive):
    def killed(run):
        if run.id == list(study.plan().runs)[2]:
            raise Unfinished("it was interrupted")
        return Status("done", wall_seconds=10.0, cpu_seconds=9.0)

    with pytest.raises(TrainingStopped):
        drive(killed)
    (first,) = study.sessions()
    assert (first.cores, first.busy_s) == (
        2.0,
        9.0 * sum(study.status(run).state == "done" for run in study.plan().runs),
    )
    drive(lambda run: Status("done", wall_seconds=10.0, cpu_seconds=8.0))
    assert [session.busy_s for session in study.sessions()] == [first.busy_s, 8.0 * (8 - first.busy_s / 9.0)]
    assert study.sessions()[0] == first
    (study.path / "sessions.json").write_text("[")
    assert study.sessions() == []
