"""The graph of runs on Ray: what is ready is handed out in order, and what fails holds up nothing else."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from wssl_pl.errors import Interrupted, Terminated, TrainingStopped, UsageError
from wssl_pl.study.execute import GRACE_S, DiskFull, Unfinished, execute
from wssl_pl.study.folder import ENDED, Status, StudyFolder
from wssl_pl.study.plan import Plan, Run

RETRIES = 3  # of a run whose worker dies
PATIENCE_S = 10.0  # for a cluster's answer
PRIVATE = "wssl_private"  # a resource by which the Ray of another study is recognised


@dataclass
class Resources:
    """Where runs are trained, and how much each one takes.

    Attributes:
        address: of a Ray cluster; None: this machine, `auto`: the cluster that this machine belongs to.
        cpus: CPU cores of each run.
        gpus: share of a GPU of each run; None: a whole one where there is one.
        parallel: runs at the same time; None: as many as fit.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float | None = None
    parallel: int | None = None


@dataclass
class Progress:
    """What the driver knows of a study, for whoever shows it."""

    plan: Plan
    states: dict[str, Status]
    slots: int  # runs at the same time
    begun: dict[str, float] = field(default_factory=dict)  # monotonic seconds, by the runs that are under way


Show = Callable[[Progress], None]


def run_study(folder: StudyFolder, resources: Resources, pairs: Path | None, show: Show) -> Progress:
    """Trains and measures all that is not done yet.

    Args:
        folder: a study that was begun.
        resources: where.
        pairs: the pairs that models are measured on; None: not measured.
        show: is called whenever something has changed, and every second.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster, or a run never fits into it.
        Interrupted: by Ctrl-C; what was running has written its checkpoint.
        Terminated: by SIGTERM; the same.
        TrainingStopped: the disk is full, or a run was stopped from outside.
    """
    with _interruptible():
        ray = start_ray(resources)
        # Again: Ray has put a handler of its own in place, which aborts at SIGTERM.
        with _interruptible() as received:
            try:
                return _Driver(ray, folder, resources, pairs, show).run()
            except KeyboardInterrupt:
                how = f"resume with: python train.py study resume {folder.path}"
                if signal.SIGTERM in received:
                    raise Terminated(f"SIGTERM received; {how}") from None
                raise Interrupted(f"interrupted; {how}") from None
            finally:
                ray.shutdown()


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Raise `KeyboardInterrupt` at Ctrl-C, which a shell's background jobs ignore otherwise, and at SIGTERM.

    Yields the signals that have come: what is raised within Ray's own code comes out as a new `KeyboardInterrupt`.
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


def check_address(address: str | None) -> None:
    """Raises `UsageError` where nobody answers at HOST:PORT; Ray itself would ask for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or "://" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"ray.address={address}: no cluster answers there ({reason}); begin one with `ray start --head`, or leave "
            "ray.address out"
        ) from None


def start_ray(resources: Resources) -> Any:
    """Ray, connected or started, without usage reports and without a dashboard.

    Raises:
        UsageError: it is not installed, or cannot be reached, or `auto` finds the private one of another study.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # Runs ask for no GPU on machines without one; Ray would hide the GPUs of a machine from them otherwise.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("study needs Ray: pip install 'wssl-pl[study]'") from None
    try:
        if resources.address is None:
            # Local even where Ray would find a cluster that somebody else has started on this machine.
            ray.init(
                address="local",
                resources={PRIVATE: 1},
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=100 * 2**20,
                _metrics_export_port=None,
            )
        else:
            ray.init(address=resources.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"ray.address={resources.address}: {str(error).splitlines()[0]}") from None
    # Ray's `auto` takes any Ray process that it finds.
    if resources.address is not None and PRIVATE in ray.cluster_resources():
        ray.shutdown()
        raise UsageError(
            f"ray.address={resources.address}: the only Ray found here belongs to another study and ends with it: "
            "start a cluster with `ray start --head`, or omit ray.address"
        )
    return ray


class _Driver:
    def __init__(self, ray: Any, folder: StudyFolder, resources: Resources, pairs: Path | None, show: Show) -> None:
        self.ray, self.folder, self.pairs, self.show = ray, folder, pairs, show
        self.cwd = folder.cwd()
        plan = folder.plan()
        states = {identity: folder.status(identity) for identity in plan.runs}
        for state in states.values():
            if state.state not in ENDED or state.state == "skipped":
                state.state = "waiting"
        total = ray.cluster_resources()
        gpus = resources.gpus if resources.gpus is not None else (1.0 if total.get("GPU", 0) else 0.0)
        self.slots = min(resources.parallel or len(plan.runs), fits(total, resources.cpus, gpus))
        if self.slots < 1:
            raise UsageError(
                f"cpus_per_run={resources.cpus:g}, gpus_per_run={gpus:g}: this does not fit into "
                f"{total.get('CPU', 0):g} CPU cores and {total.get('GPU', 0):g} GPUs"
            )
        self.progress = Progress(plan, states, self.slots)
        self.remote = ray.remote(execute).options(
            num_cpus=resources.cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False
        )
        self.under_way: dict[Any, Run] = {}

    def run(self) -> Progress:
        """Hands out runs until none is left; at Ctrl-C lets those under way write a checkpoint."""
        try:
            return self._run()
        except KeyboardInterrupt:
            under_way = list(self.under_way)
            for reference in under_way:
                self.ray.cancel(reference)
            if under_way:
                self.ray.wait(under_way, num_returns=len(under_way), timeout=GRACE_S)
            raise

    def _run(self) -> Progress:
        stopped: Exception | None = None
        while True:
            if stopped is None:
                self._hand_out()
            self.show(self.progress)
            if not self.under_way:
                break
            ready, _ = self.ray.wait(list(self.under_way), num_returns=1, timeout=1.0)
            for reference in ready:
                try:
                    self._take_in(reference)
                except (DiskFull, Unfinished) as error:
                    stopped = stopped or error
        if stopped is not None:
            raise TrainingStopped(f"{stopped}; go on with: python train.py study resume {self.folder.path}")
        return self.progress

    def _hand_out(self) -> None:
        states = self.progress.states
        for identity, run in self.progress.plan.runs.items():
            if states[identity].state != "waiting":
                continue
            needed = [states[need].state for need in run.needs]
            # A trial that failed is a value that is not chosen; a pretext run that failed leaves nothing to go on with.
            broken = run.pretext is not None and states[run.pretext].state in ("failed", "skipped")
            if run.chooses and all(states[trial].state in ("failed", "skipped") for trial in run.chooses.values()):
                broken = True
            if broken:
                states[identity] = Status("skipped", reason="a run that it needs failed")
                self.folder.set_status(identity, states[identity])
            elif all(state in ENDED for state in needed) and len(self.under_way) < self.slots:
                reference = self.remote.remote(self.folder, self.progress.plan, run, self.cwd, self.pairs)
                self.under_way[reference] = run
                states[identity].state = "running"
                self.progress.begun[identity] = time.monotonic()

    def _take_in(self, reference: Any) -> None:
        run = self.under_way.pop(reference)
        self.progress.begun.pop(run.id, None)
        try:
            status = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            self.progress.states[run.id].state = "waiting"
            cause = error.cause
            if isinstance(cause, DiskFull | Unfinished):
                raise cause from None
            status = Status("failed", reason=f"{type(cause).__name__}: {cause}".splitlines()[0][:400])
            self.folder.set_status(run.id, status)
        except self.ray.exceptions.RayError as error:
            # The worker died more often than it was begun again, or its machine is gone.
            self.progress.states[run.id].state = "waiting"
            raise Unfinished(f"{run.id}: {str(error).splitlines()[0]}") from None
        self.progress.states[run.id] = status


def fits(total: dict[str, float], cpus: float, gpus: float) -> int:
    """How many runs fit at the same time."""
    rooms = []
    if cpus > 0:
        rooms.append(total.get("CPU", 0.0) / cpus)
    if gpus > 0:
        rooms.append(total.get("GPU", 0.0) / gpus)
    return int(min(rooms, default=1.0) + 1e-6)
