"""Runs cases, each in a process forked from one that has imported everything, and judges what came of them."""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

limit_s = 60.0  # of a case; one that takes longer is tried once more with three times as much
MAX_BYTES = 1_000_000_000  # that a case may take, on top of the program's own
MEMORY_LIMIT = 6 * 2**30  # where allocations fail, so that a case does not take the machine down
PR_SET_PDEATHSIG = 1
CANARY = "WSSL_FUZZ_CANARY"  # environment variable: the file that code makes which must not run
OUTCOMES = ("clean", "one line", "traceback", "hang", "over 1 GB", "code ran", "let in", "lost")
FAULTS = OUTCOMES[2:]
ROOT = Path(__file__).parents[2]


class LetIn(Exception):
    """Something was handed out, written or accepted that must not be."""


class Lost(Exception):
    """Something that was there is gone or changed."""


@dataclass
class Case:
    """What is tried.

    Attributes:
        run: tries it, in the case's own folder.
        writes: names in that folder that it may change or remove: its outputs.
        words: what it is, for a reader of the list of faults.
    """

    run: Callable[[], Any]
    writes: tuple[str, ...] = ()
    words: str = ""


MakeCase = Callable[[Random, Path], Case]  # takes the folder of the seed files; the current folder is the case's


@dataclass
class Verdict:
    """What came of a case."""

    family: str
    seed: int
    number: int
    outcomes: list[str] = field(default_factory=list)
    signature: str = ""
    words: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def command(self) -> str:
        """The command that repeats the case."""
        return f"python -m tests.fuzz --only {self.family} --seed {self.seed} --first {self.number} --cases 1"


def run_case(family: str, make: MakeCase, seed: int, number: int, base: Path, work: Path) -> Verdict:
    """Run one case; a hang is believed at the second time."""
    verdict = _try(family, make, seed, number, base, work, limit_s)
    if "hang" in verdict.outcomes:
        verdict = _try(family, make, seed, number, base, work, 3 * limit_s)
    return verdict


def _try(family: str, make: MakeCase, seed: int, number: int, base: Path, work: Path, limit: float) -> Verdict:
    folder, control = work / "case", work / "control"
    for path in (folder, control):
        _remove(path)
        path.mkdir(parents=True)
    verdict = Verdict(family, seed, number)
    start = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run_child(family, make, seed, number, base, folder, control)
    status, used = _wait(child, start + limit)
    verdict.seconds = round(time.monotonic() - start, 2)
    made = {"files": {}, "writes": [], "words": "making the case", "before": MAX_BYTES}
    made |= _read(control / "made.json") or {}
    verdict.words = made["words"]
    added = used.ru_maxrss * 1024 - made["before"]
    verdict.megabytes = round(added / 1e6)
    end = _read(control / "end.json")
    if status is None:
        verdict.outcomes.append("hang")
        verdict.signature = "no end"
    elif end is None:
        verdict.outcomes.append("traceback")
        verdict.signature = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no result"
    else:
        verdict.outcomes.append(end["outcome"])
        verdict.signature = end["signature"]
    output = (control / "output").read_text(errors="replace") if (control / "output").exists() else ""
    if "Traceback (most recent call last)" in output and verdict.outcomes[0] in ("clean", "one line"):
        verdict.outcomes = ["traceback"]
        verdict.signature = printed_signature(output)
    if added > MAX_BYTES:
        verdict.outcomes.append("over 1 GB")
        verdict.signature = verdict.signature or "memory"
    if (control / "canary").exists():
        verdict.outcomes.append("code ran")
    after = snapshot(folder)
    lost = [name for name, was in made["files"].items() if after.get(name) != was and not _may(name, made["writes"])]
    if lost:
        verdict.outcomes.append("lost")
        verdict.signature = f"changed or removed: {', '.join(sorted(lost)[:3])}"
    return verdict


def _may(name: str, writes: list[str]) -> bool:
    return any(name == path or name.startswith(f"{path}/") for path in writes)


def _enter(folder: Path, control: Path) -> None:
    """Make this forked process one of a case: its limits, its folder, its output in a file."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives the campaign
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # One core: nothing starts threads or processes for the sake of speed.
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[os.getpid() % len(os.sched_getaffinity(0))]})
    os.environ[CANARY] = str(control / "canary")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache-home")
    os.chdir(folder)
    output = os.open(control / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)


def _run_child(family: str, make: MakeCase, seed: int, number: int, base: Path, folder: Path, control: Path) -> None:
    """Run a case in this process, write what came of it, and end the process."""
    _enter(folder, control)
    before = _resident()
    outcome, signature = "clean", ""
    try:
        case = make(Random(f"{seed} {family} {number}"), base)
        made = {"files": snapshot(folder), "writes": case.writes, "words": case.words, "before": before}
        (control / "made.json").write_text(json.dumps(made))
        outcome, signature = judge(case.run)
    except BaseException as error:
        traceback.print_exc()
        outcome, signature = "traceback", f"the harness: {signature_of(error)}"
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    (control / "end.json").write_text(json.dumps({"outcome": outcome, "signature": signature}))
    os._exit(0)


def judge(run: Callable[[], Any]) -> tuple[str, str]:
    """Run something, and return the outcome and what tells one fault from another."""
    from wssl_pl.errors import TrainingStopped, WSSLError

    try:
        run()
    except (WSSLError, TrainingStopped):
        return "one line", ""
    except SystemExit as end:
        if end.code in (0, None):
            return "clean", ""
        return ("one line", "") if end.code in (1, 2) else ("traceback", f"exit code {end.code}")
    except LetIn as error:
        return "let in", str(error)
    except Lost as error:
        return "lost", str(error)
    except BaseException as error:
        traceback.print_exc()
        return "traceback", signature_of(error)
    return "clean", ""


def signature_of(error: BaseException) -> str:
    """Return the type of an exception and the last place in the package that it came by."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "wssl_pl" in Path(f.filename).parts]
    place = f"{Path(frames[-1].filename).relative_to(ROOT)} {frames[-1].name}" if frames else "outside the package"
    return f"{type(error).__name__} in {place}"


def printed_signature(output: str) -> str:
    """Return the exception of the last traceback that was printed, and its last place in the package."""
    trace = output.rpartition("Traceback (most recent call last)")[2]
    places = re.findall(r'File ".*?(wssl_pl/[^"]+)", line \d+, in (\S+)', trace)
    errors = re.findall(r"^([\w.]+(?:Error|Exception|Exit|Interrupt|Fail))\b", trace, re.MULTILINE)
    place = " ".join(places[-1]) if places else "outside the package"
    return f"printed: {errors[0] if errors else 'exception'} in {place}"


def snapshot(folder: Path) -> dict[str, str]:
    """Return the digest of each file, and the target of each link, below a folder."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = f"-> {path.readlink()}"
        elif stat.S_ISREG(mode):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = str(stat.S_IFMT(mode))
    return found


def _wait(child: int, deadline: float) -> tuple[int | None, Any]:
    """Return the status and the use of a child; a status of None if it had to be killed."""
    pause = 0.001
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what it has started
            return status, used
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            return None, os.wait4(child, 0)[2]
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _remove(path: Path) -> None:
    def again(function: Any, name: str, _: Any) -> None:
        Path(name).parent.chmod(0o700)
        Path(name).chmod(0o700) if not Path(name).is_symlink() else None
        function(name)

    shutil.rmtree(path, onerror=again) if path.exists() else None


def in_child(run: Callable[[], None]) -> None:
    """Run something in a forked process and wait for it, so that this process stays without threads.

    Raises:
        RuntimeError: it failed.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError("the seed files could not be made")


def run_batch(
    run: Callable[[Path, Path, int, list[int], Callable[[Verdict], None]], None],
    family: str, seed: int, numbers: list[int], base: Path, work: Path,
) -> list[Verdict]:  # fmt: skip
    """Run many cases in one forked process; those after its early end are faults of that process."""
    folder, control = work / "case", work / "control"
    for path in (folder, control):
        _remove(path)
        path.mkdir(parents=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _enter(folder, control)
        (control / "made.json").write_text(json.dumps({"before": _resident()}))
        with (control / "verdicts").open("w", buffering=1) as file:
            try:
                run(base, folder, seed, numbers, lambda verdict: print(json.dumps(asdict(verdict)), file=file))
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
        os._exit(0)
    _, used = _wait(child, time.monotonic() + limit_s + 10 * len(numbers))
    lines = (control / "verdicts").read_text().splitlines() if (control / "verdicts").exists() else []
    found = [Verdict(**json.loads(line)) for line in lines]
    for number in numbers[len(found) :]:
        found.append(Verdict(family, seed, number, ["hang"], "the process ended or hung before"))
    added = used.ru_maxrss * 1024 - _read(control / "made.json")["before"]
    found[-1].megabytes = round(added / 1e6)
    if added > MAX_BYTES:
        found[-1].outcomes.append("over 1 GB")
    if (control / "canary").exists():
        found[-1].outcomes.append("code ran")
    return found


def _resident() -> int:
    """Return the bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@dataclass
class FaultCounts:
    """Counts of a family, and its distinct faults.

    Attributes:
        counts: by outcome.
        faults: by signature, how often and the first case.
    """

    cases: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    megabytes: float = 0.0

    def add(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self.cases += 1
        self.seconds += verdict.seconds
        self.megabytes = max(self.megabytes, verdict.megabytes)
        for outcome in verdict.outcomes:
            self.counts[outcome] += 1
        if bad := [outcome for outcome in verdict.outcomes if outcome in FAULTS]:
            entry = self.faults.setdefault(
                f"{', '.join(bad)}: {verdict.signature}",
                {"times": 0, "words": verdict.words, "command": verdict.command},
            )
            entry["times"] += 1
