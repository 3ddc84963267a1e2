"""Kills a study at random moments of every phase, resumes it, and compares its report with an undisturbed one.

    python tests/fuzz/kills_study.py --kills 20 --seed 1 --dir /tmp/kills

A kill is SIGKILL to one process: the driver, Ray's worker, the training or the evaluation, or one of Ray's own, while a
pretext run, a downstream run or an evaluation is under way. The table counts kills by process and phase. The program
ends with code 1 unless every study ends with the report of the undisturbed one, training times apart.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TARGETS = ("driver", "worker", "process", "raylet", "gcs_server")
PHASES = ("pretext", "downstream", "evaluation")
EACH = 5  # kills of one study
TIMEOUT_S = 900.0
STUDY = {
    "title": "tiny",
    "seeds": [0, 1],
    "steps": {"pretext": 60, "downstream": 60},
    "validations": 3,
    "common": {
        "data.images": "synthetic", "data.masks": "synthetic", "data.image_size": 32, "data.resize": 40,
        "data.batch_size": 4, "data.limit": 24, "data.num_workers": 0, "model.width": 2, "trainer.accelerator": "cpu",
    },
    "arms": {"frozen": {"pretext": {"tasks": ["saturation"]}}, "scratch": {"pretext": "none"}},
    "claims": [{"claim": "frozen beats scratch", "better": "frozen", "than": "scratch"}],
}  # fmt: skip


def processes() -> dict[int, tuple[int, str]]:
    """Return the parent and the command line of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state != "Z":
            found[int(folder.name)] = (int(parent), words)
    return found


def runs_of(out: Path) -> dict[int, str]:
    """Return the phase of each training and evaluation of the study, by process."""
    found = {}
    for number, (_, words) in processes().items():
        if "-m wssl_pl" in words and f"{out}/runs/" in words:
            resumed = words.partition("resume=")[2] or words.partition("run.dir=")[2]
            stage = "pretext" if resumed.startswith(f"{out}/runs/pretext") else "downstream"
            found[number] = "evaluation" if " evaluate " in words else stage
    return found


def target_of(name: str, process: int, driver: int) -> int | None:
    """Return the process to kill; None if there is none."""
    everyone = processes()
    if name == "driver":
        return driver
    if name == "process":
        return process if process in everyone else None
    if name == "worker":
        return everyone.get(process, (None, ""))[0]
    own = {number: words.split(" ")[0] for number, (parent, words) in everyone.items() if parent == driver}
    return next((number for number, program in own.items() if name in program), None)


def start(*words: str) -> subprocess.Popen[bytes]:
    log = Path(words[-1]).with_suffix(".log").open("ab")
    command = [sys.executable, "-m", "wssl_pl", "study", *words[:-1], "parallel=1"]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def disturb(
    file: Path, out: Path, kills: list[tuple[str, str]], rng: random.Random, most: dict[str, float]
) -> Counter[tuple[str, str]]:
    """Run a study with these kills and return those that were made."""
    made: Counter[tuple[str, str]] = Counter()
    driver = start(str(file), f"out={out}", str(out))
    left, seen, end = list(kills), dict[int, float](), time.monotonic() + TIMEOUT_S
    while True:
        if time.monotonic() > end:
            raise TimeoutError(f"{out}: not finished, see {out.with_suffix('.log')}")
        if driver.poll() is not None:
            if driver.returncode == 0:
                break
            print(f"  the driver ended with {driver.returncode}; resumed", flush=True)
            if (out / "study.json").is_file():
                driver = start("resume", str(out), str(out))
            else:
                driver = start(str(file), f"out={out}", str(out))
            continue
        for number, phase in runs_of(out).items():
            moment = seen.setdefault(number, time.monotonic() + rng.uniform(0.0, most[phase]))
            kill = next((kill for kill in left if kill[1] == phase), None)
            if kill is None or time.monotonic() < moment or (victim := target_of(kill[0], number, driver.pid)) is None:
                continue
            os.kill(victim, signal.SIGKILL)
            left.remove(kill)
            made[kill] += 1
            seen = dict.fromkeys(seen, float("inf"))
            print(f"  {kill[0]:<10} killed in {phase}", flush=True)
            if kill[0] == "driver":
                driver.wait()
            break
        time.sleep(0.1)
    if left:
        print(f"  not made, the study ended first: {left}", flush=True)
    return made


def undisturbed(file: Path, out: Path) -> dict[str, float]:
    """Run a study and return the longest time that a process of each phase took, in seconds."""
    driver = start(str(file), f"out={out}", str(out))
    first: dict[int, float] = {}
    most = dict.fromkeys(PHASES, 0.0)
    while driver.poll() is None:
        for number, phase in runs_of(out).items():
            most[phase] = max(most[phase], time.monotonic() - first.setdefault(number, time.monotonic()))
        time.sleep(0.1)
    if driver.returncode:
        raise SystemExit(f"the undisturbed study ended with {driver.returncode}: see {out.with_suffix('.log')}")
    return most


def report(out: Path) -> Any:
    """Return the report of a study without times."""
    values = json.loads((out / "report" / "report.json").read_text())
    for arm in values["arms"].values():
        del arm["minutes"], arm["milliseconds"]
    return values


def main() -> int:
    """Run the campaign, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="keeps the studies; default: a temporary folder")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    directory = (args.dir or Path(tempfile.mkdtemp(prefix="kills_study"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "tiny.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    most = undisturbed(file, directory / "undisturbed")
    print("undisturbed: longest", {phase: f"{seconds:.0f} s" for phase, seconds in most.items()}, flush=True)
    wanted = report(directory / "undisturbed")
    kills = list(product(TARGETS, PHASES))
    rng.shuffle(kills)
    kills = (kills + rng.choices(kills, k=max(0, args.kills - len(kills))))[: args.kills]
    made: Counter[tuple[str, str]] = Counter()
    different = []
    for number in range(-(-len(kills) // EACH)):
        out = directory / f"study{number}"
        print(out, flush=True)
        made += disturb(file, out, kills[number * EACH : (number + 1) * EACH], rng, most)
        alive = runs_of(out)
        same = report(out) == wanted
        print(f"  report {'equal' if same else 'DIFFERENT'}; processes left: {len(alive)}", flush=True)
        if not same or alive:
            different.append(out)
    print("\n| killed | " + " | ".join(PHASES) + " |\n|---|" + "---:|" * len(PHASES))
    for target in TARGETS:
        print(f"| {target} | " + " | ".join(str(made[target, phase]) for phase in PHASES) + " |")
    print(f"\n{made.total()} kills, reports that differ: {len(different)} {different or ''}")
    return int(bool(different) or made.total() < len(kills))


if __name__ == "__main__":
    sys.exit(main())
