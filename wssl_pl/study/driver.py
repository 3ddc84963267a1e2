"""The runs of a study on Ray: started in order as soon as what they need has ended; a failure stops no other run."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tqdm import tqdm

from wssl_pl.errors import DiskFull, Interrupted, Terminated, TrainingStopped, WSSLError, first_line
from wssl_pl.study import cost
from wssl_pl.study.execute import GRACE_S, Unfinished, execute
from wssl_pl.study.folder import Session, StudyFolder, read_metrics
from wssl_pl.study.plan import ENDED, Plan, Run, Status
from wssl_pl.study.storage import Storage, StorageError

RETRIES = 3  # of a run whose worker dies
TIMEOUT_S = 10.0  # for a cluster's answer
PRIVATE = "wssl_private"  # a resource by which the Ray of another study is recognised
MIN_OWN_RUNS = 4  # that have ended in this session, before the time left is judged by them alone


@dataclass(frozen=True)
class Resources:
    """Where runs are trained, and how much each one takes.

    Attributes:
        address: of a Ray cluster; None: this machine, `auto`: the cluster that this machine belongs to.
        custom: resources of each run beside cores and GPUs, by the names that a cluster's machines were started with.
        cpus: CPU cores of each run.
        gpus: fraction of a GPU of each run; None: a whole one where there is one.
        parallel: runs at the same time; None: as many as fit.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float | None = None
    parallel: int | None = None
    custom: Mapping[str, float] = field(default_factory=dict)


def run_study(
    folder: StudyFolder,
    resources: Resources,
    pairs: Path | None,
    storage: Storage | None = None,
    out: TextIO | None = None,
) -> Plan:
    """Train and measure all runs that are not done yet, and return them with their states.

    Args:
        folder: of a study that was started.
        resources: where and with what.
        pairs: the pairs on which models are measured; None: they are not measured.
        storage: through which the machines of a cluster exchange files; None: all of them share the folder.
        out: where the progress is shown. Default: standard error.

    Raises:
        WSSLError: Ray is not installed, or there is no such cluster, or a run does not fit into it.
        Interrupted: by Ctrl-C; what was running has written its checkpoint.
        Terminated: by SIGTERM; the same.
        TrainingStopped: the disk is full, or a run was stopped from outside.
    """
    if count := folder.drop_dead_links():
        print(f"Note: {count} finished runs are trained again: the study that they were taken from is gone", flush=True)
    with _interruptible():
        if storage is not None:
            storage.start(folder, pairs)
        ray = start_ray(resources)
        # Again: Ray has installed a handler of its own, which aborts at SIGTERM.
        with _interruptible() as received:
            try:
                return _Driver(ray, folder, resources, pairs, storage, out or sys.stderr).run()
            except KeyboardInterrupt:
                how = f"resume with: wssl study resume {folder.path}"
                if signal.SIGTERM in received:
                    raise Terminated(f"SIGTERM received; {how}") from None
                raise Interrupted(f"interrupted; {how}") from None
            finally:
                ray.shutdown()


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Raise `KeyboardInterrupt` at Ctrl-C, which a shell's background jobs ignore otherwise, and at SIGTERM.

    Yields the signals received: what is raised within Ray's own code arrives as a new `KeyboardInterrupt`.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_ray(address: str | None) -> None:
    """Check that Ray is installed, and that a cluster answers at HOST:PORT; Ray itself would try for minutes.

    Raises:
        WSSLError: it is not, or none does.
    """
    if find_spec("ray") is None:
        raise WSSLError(None, None, "a study needs Ray", "pip install 'wssl-pl[study]'")
    host, _, port = (address or "").rpartition(":")
    if not host or "://" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "start one with `ray start --head`, or omit ray.address"
        raise WSSLError("ray.address", address, f"no cluster answers there ({reason})", remedy) from None


def start_ray(resources: Resources) -> Any:
    """Return Ray, connected or started, without usage reports and without a dashboard.

    Raises:
        WSSLError: it cannot be reached, or `auto` finds the private one of another study.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # Runs ask for no GPU on machines without one; Ray would hide the GPUs of a machine from them otherwise.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    own: dict[str, Any] = {
        "address": "local",  # even where Ray would find a cluster that somebody else has started on this machine
        "resources": {PRIVATE: 1},
        "include_dashboard": False,
        "object_store_memory": 100 * 2**20,
        "_metrics_export_port": None,
    }
    given = own if resources.address is None else {"address": resources.address}
    try:
        ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WSSLError("ray.address", resources.address, first_line(error)) from None
    # Ray's `auto` takes any Ray process that it finds.
    if resources.address is not None and PRIVATE in ray.cluster_resources():
        ray.shutdown()
        reason = "the only Ray found here belongs to another study and ends with it"
        remedy = "start a cluster with `ray start --head`, or omit ray.address"
        raise WSSLError("ray.address", resources.address, reason, remedy)
    return ray


class Progress:
    """A line for each run that starts or ends, and on a terminal a progress bar over the training steps of all runs.

    Args:
        folder: the study's.
        plan: its runs as they are before the first one starts.
        out: where they are written.
    """

    def __init__(self, folder: StudyFolder, plan: Plan, out: TextIO) -> None:
        self.folder, self.out = folder, out
        self.factors = cost.declared_costs(folder.study(), plan)
        self.own: dict[str, Status] = {}  # of the runs that this process has seen end
        self.states = {run.id: run.status.state for run in plan.runs.values()}
        self.initial, total = self._steps(plan), sum(run.steps for run in plan.runs.values())
        self.bar = tqdm(total=total, initial=self.initial, unit="step", file=out, disable=None, leave=False)

    def _steps(self, plan: Plan) -> int:
        """Return the steps of runs that have ended, which includes the missing ones of failed runs."""
        return sum(run.steps for run in plan.runs.values() if run.status.state in ENDED)

    def left(self, plan: Plan, slots: int) -> float | None:
        """Return the seconds until all runs have ended; None before the first one has."""
        fractions = {
            run.id: read_step(self.folder.run(run.id)) / max(run.steps, 1)
            for run in plan.runs.values()
            if run.status.state == "running"
        }
        done = {run.id: run.status for run in plan.runs.values() if run.status.state == "done"}
        known = self.own if len(self.own) >= MIN_OWN_RUNS else done
        return cost.time_left(plan, self.factors, known, fractions, slots)

    def show(self, plan: Plan, slots: int = 1) -> None:
        """Write the lines of runs whose state has changed, and move the bar."""
        ended, total = self._steps(plan), self.bar.total
        count = sum(run.status.state in ENDED for run in plan.runs.values())
        for run in plan.runs.values():
            if self.states[run.id] == run.status.state:
                continue
            self.states[run.id] = run.status.state
            if run.status.state == "done" and run.status.wall_seconds:
                self.own[run.id] = run.status
            seconds = self.left(plan, slots) if ended < total else None
            left = "" if seconds is None else f", {tqdm.format_interval(seconds)} left"
            reason = f": {run.status.reason}" if run.status.reason else ""
            line = f"[{count}/{len(plan.runs)}{left}] {run.status.state:<8} {run.id} of {', '.join(run.arms)}{reason}"
            tqdm.write(line, file=self.out)
            self.out.flush()
        if not self.bar.disable:
            running = [run.id for run in plan.runs.values() if run.status.state == "running"]
            self.bar.n = ended + sum(read_step(self.folder.run(run)) for run in running)
            self.bar.set_description(f"{count} of {len(plan.runs)} runs")

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


def read_step(path: Path) -> int:
    """Return the last step that a running training has logged; 0 before the first one."""
    return max((int(row["step"]) for row in read_metrics(path) if (row.get("step") or "").isdigit()), default=0)


class _Driver:
    def __init__(
        self,
        ray: Any,
        folder: StudyFolder,
        resources: Resources,
        pairs: Path | None,
        storage: Storage | None,
        out: TextIO,
    ) -> None:
        self.ray, self.folder, self.pairs, self.cwd, self.storage = ray, folder, pairs, folder.cwd(), storage
        plan = folder.plan()
        for run in plan.runs.values():
            # What failed after its last step, or has none, is measured again; what failed before stays failed.
            untrained = run.status.state == "failed" and run.status.steps < run.steps
            if not untrained and not folder.is_done(run, measured=pairs is not None):
                folder.unlink(run)
                plan.runs[run.id] = replace(run, status=Status())
        for run in plan.runs.values():
            # Of an imported pretext run there is no encoder: it is trained again, and keeps its curves until then.
            if run.pretext and run.status.state == "waiting" and folder.is_imported(run.pretext):
                folder.unlink(plan.runs[run.pretext])
                plan.runs[run.pretext] = replace(plan.runs[run.pretext], status=Status())
        self.plan, self.order = plan, start_order(plan)
        self.resources = resources
        total = ray.cluster_resources()
        gpus = resources.gpus if resources.gpus is not None else (1.0 if total.get("GPU", 0) else 0.0)
        self.wanted = {"CPU": resources.cpus, "GPU": gpus, **resources.custom}
        self.slots = self._slots()
        if self.slots < 1:
            own = "".join(f", {name} {total.get(name, 0):g}" for name in resources.custom)
            has = f"{total.get('CPU', 0):g} CPU cores and {total.get('GPU', 0):g} GPUs{own}"
            machines = sum(node["Alive"] for node in ray.nodes())
            reason = f"does not fit into {has}" + (f" of {machines} machines" if machines > 1 else "")
            raise WSSLError("cpus_per_run", f"{resources.cpus:g}, gpus_per_run={gpus:g}", reason)
        self.remote = ray.remote(_task).options(
            num_cpus=resources.cpus, num_gpus=gpus, resources=dict(resources.custom), max_retries=RETRIES,
            retry_exceptions=False,
        )  # fmt: skip
        self.statuses: dict[str, Any] = {}  # references to the statuses of the runs, by their ids
        self.under_way: dict[Any, str] = {}
        self.before: dict[str, float] = {}  # processor time of earlier sessions, of the runs under way
        self.progress = Progress(folder, self.plan, out)
        self.sessions, self.started, self.busy = folder.sessions(), time.monotonic(), 0.0
        self.cores = self.slots * resources.cpus

    def run(self) -> Plan:
        """Start runs until none is left; at Ctrl-C wait for the checkpoints of those that are running."""
        try:
            return self._run()
        except KeyboardInterrupt:
            under_way = list(self.under_way)
            for reference in under_way:
                self.ray.cancel(reference)
            if under_way:
                grace = GRACE_S if self.storage is None else 2 * GRACE_S  # checkpoints are sent to the storage
                self.ray.wait(under_way, num_returns=len(under_way), timeout=grace)
            raise
        finally:
            self.progress.close()

    def _run(self) -> Plan:
        stopped: Exception | None = None
        while True:
            if stopped is None:
                self._start_runs()
            self.progress.show(self.plan, self.slots)
            if not self.under_way:
                break
            ready, _ = self.ray.wait(list(self.under_way), num_returns=1, timeout=1.0)
            for reference in ready:
                try:
                    self._take_result(reference)
                except (DiskFull, Unfinished, StorageError) as error:
                    stopped = stopped or error
        if stopped is not None:
            raise TrainingStopped(f"{stopped}; resume with: wssl study resume {self.folder.path}")
        return self.plan

    def _slots(self) -> int:
        """Return how many runs the machines have room for."""
        rooms = (fits(node["Resources"], self.wanted) for node in self.ray.nodes() if node["Alive"])
        return min(self.resources.parallel or len(self.plan.runs), sum(rooms))

    def _start_runs(self) -> None:
        if self.resources.address is not None:  # machines of a cluster come and go
            self.slots = self._slots()
        # The driver decides the order, in which the first arms are complete first, and how many run at a time. Ray
        # itself has no priorities: it would start every run without needs before any other.
        for run in (self.plan.runs[identity] for identity in self.order):
            if len(self.under_way) >= self.slots:
                return
            states = [self.plan.runs[need].status.state for need in run.needs]
            if run.status.state == "waiting" and all(state in ENDED for state in states):
                needs = [self.statuses.get(need) or self.ray.put(self.plan.runs[need].status) for need in run.needs]
                if self.storage is not None:
                    for name in (*run.needs, run.id):
                        self.storage.offer(self.folder, name)
                reference = self.remote.remote(self.folder, self.plan, run, self.cwd, self.pairs, self.storage, *needs)
                self.under_way[reference], self.statuses[run.id] = run.id, reference
                self.before[run.id] = self.folder.status(run.id).cpu_seconds
                self._set(run.id, replace(run.status, state="running"))

    def _take_result(self, reference: Any) -> None:
        run = self.under_way.pop(reference)
        try:
            status: Status = self.ray.get(reference)
            if self.storage is not None:
                self.storage.collect(self.folder, run)
            self.busy += status.cpu_seconds - self.before.pop(run, 0.0)
            session = Session(time.monotonic() - self.started, self.cores, self.busy)
            self.folder.set_sessions([*self.sessions, session])
        except self.ray.exceptions.RayTaskError as error:
            self._set(run, Status())
            if isinstance(error.cause, DiskFull | Unfinished | StorageError):
                raise error.cause from None
            if isinstance(error.cause, OSError):  # the disk is full, or the folder of the study is read-only
                raise Unfinished(f"{run}: {error.cause}") from None
            reason = f"{type(error.cause).__name__}: {error.cause}".splitlines()[0][:400]
            status = self.folder.set_status(run, Status("failed", reason=reason))
            self.statuses[run] = self.ray.put(status)
        except self.ray.exceptions.RayError as error:
            # The worker died more often than it was started again, or its machine is gone.
            self._set(run, Status())
            raise Unfinished(f"{run}: {first_line(error)}") from None
        self._set(run, status)

    def _set(self, run: str, status: Status) -> None:
        self.plan.runs[run] = replace(self.plan.runs[run], status=status)


def _task(
    folder: StudyFolder, plan: Plan, run: Run, cwd: Path, pairs: Path | None, storage: Storage | None, *needs: Status
) -> Status:
    """Execute a run, unless what it needs has failed; Ray passes the statuses of its needs."""
    if storage is None:
        return _execute(folder, plan, run, cwd, pairs, needs)
    with storage.workplace(run, cwd, measured=pairs is not None) as (place, there, copied):
        return _execute(place, plan, run, there, copied, needs)


def _execute(
    folder: StudyFolder, plan: Plan, run: Run, cwd: Path, pairs: Path | None, needs: Sequence[Status]
) -> Status:
    failed = {name: status.state in ("failed", "skipped") for name, status in zip(run.needs, needs, strict=True)}
    # A trial that failed is a value that is not chosen; a pretext run that failed leaves no encoder.
    no_trial = bool(run.chooses) and all(failed[trial] for trial in (run.chooses or {}).values())
    if (run.pretext is not None and failed[run.pretext]) or no_trial:
        return folder.set_status(run.id, Status("skipped", reason="a run that it needs failed"))
    return execute(folder, plan, run, cwd, pairs)


def start_order(plan: Plan) -> list[str]:
    """Return the runs in the order in which they are started: arm by arm, what a run needs right before it.

    A pretext run that is trained again after an import comes with the first run that waits for it, not with an arm that
    is complete.
    """
    waiting = [run for run in plan.runs.values() if run.status.state == "waiting" and run.stage != "pretext"]
    return list(dict.fromkeys([*(name for run in waiting for name in [*run.needs, run.id]), *plan.runs]))


def fits(total: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Return how many runs fit into the resources of a machine at the same time."""
    rooms = [total.get(name, 0.0) / amount for name, amount in wanted.items() if amount > 0]
    return int(min(rooms, default=1.0) + 1e-6)
