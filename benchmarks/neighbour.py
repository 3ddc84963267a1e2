"""What a busy neighbour on one core costs training and inference, by OpenMP's way of waiting.

    python benchmarks/neighbour.py --name neighbour   # all cores, rounds in turn; best on an otherwise quiet machine
    sudo python benchmarks/neighbour.py --nice -10    # on a shared one: ahead of everybody else's processes

Threads of a parallel region wait for each other at its end. While they spin they hold their core, also against the
thread that they wait for, so a program that needs one core for itself slows PyTorch on all cores by much more than a
core's share. Measured, each with and without `while True: pass` beside it: training steps and the fill of a
12-megapixel photo. What is lost is the time with the neighbour over the time without, under the same policy. A
neighbour that has a whole core for itself leaves N - 1 of N: its share is a factor of N / (N - 1).
With `--name` it writes `NAME.json` and `NAME.md` in benchmarks/results.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLICIES: dict[str, dict[str, str]] = {
    "OpenMP's default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "OMP_PROC_BIND")
OURS = "spin 1000"  # what the `wssl` command sets (wssl_pl.devices.WAITING), beside leaving a busy core alone
CALLS = {"step, width 2, 32 px": 20, "step, width 16, 96 px": 4, "step, width 64, 128 px": 2, "12-megapixel fill": 1}
NEIGHBOUR = [sys.executable, "-c", "while True: pass"]


def workloads(names: list[str]) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name; PyTorch is imported here, in the child process."""
    import torch
    from inpaint import photo, scattered
    from steps import full_step, make_module, optimiser_step

    from wssl_pl.devices import choose_threads
    from wssl_pl.inference import Inpainter
    from wssl_pl.models.info import SHIPPED

    torch.set_num_threads(choose_threads())

    def step(width: int, batch: int, size: int) -> Callable[[], Any]:
        module = make_module("downstream", width)
        return optimiser_step(module, full_step(module, batch, size, size + size // 7))

    def fill() -> Callable[[], Any]:
        inpainter = Inpainter.from_checkpoint(SHIPPED, "cpu")
        image, mask = photo(3000, 4000), scattered((3000, 4000), 120_000, 1)
        return lambda: inpainter(image, mask)

    made: dict[str, Callable[[], Callable[[], Any]]] = {
        "step, width 2, 32 px": lambda: step(2, 8, 32),
        "step, width 16, 96 px": lambda: step(16, 16, 96),
        "step, width 64, 128 px": lambda: step(64, 4, 128),
        "12-megapixel fill": fill,
    }
    return {name: made[name]() for name in names}


def serve(names: list[str]) -> None:
    """In the child: measure what a line of standard input names, and print the seconds of a call."""
    made = workloads(names)
    for call in made.values():
        call()
    print("ready", flush=True)
    for line in sys.stdin:
        name = line.strip()
        start = time.perf_counter()
        for _ in range(CALLS[name]):
            made[name]()
        print((time.perf_counter() - start) / CALLS[name], flush=True)


def start(policy: str, names: list[str]) -> subprocess.Popen[str]:
    """Start a child under a policy."""
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES} | POLICIES[policy]
    here = Path(__file__).resolve()
    paths = [str(here.parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, str(here), "--serve", *names]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(child: subprocess.Popen[str], line: str | None = None) -> str:
    """Send a line to a child and return its answer."""
    assert child.stdin is not None
    assert child.stdout is not None
    if line is not None:
        child.stdin.write(line + "\n")
        child.stdin.flush()
    answer: str = child.stdout.readline().strip()
    if not answer:
        raise RuntimeError(f"the measuring process ended with {child.wait()}")
    return answer


def set_priority(process: int, priority: int) -> None:
    """Set the niceness of a process, and on Linux that of its session."""
    if priority:
        os.setpriority(os.PRIO_PROCESS, process, priority)
        session = Path(f"/proc/{process}/autogroup")
        if session.exists():
            session.write_text(f"{priority}\n")


def measure(policies: list[str], names: list[str], rounds: int, priority: int = 0) -> dict[str, Any]:
    """Return seconds by workload, policy and neighbour, taken in turn."""
    children = {policy: start(policy, names) for policy in policies}
    # In a session of its own, as another program is: Linux divides the cores between sessions first.
    neighbour = subprocess.Popen(NEIGHBOUR, start_new_session=True)
    set_priority(neighbour.pid, priority)
    found: dict[str, dict[str, dict[str, list[float]]]] = {
        name: {policy: {"alone": [], "neighbour": []} for policy in policies} for name in names
    }
    try:
        os.kill(neighbour.pid, signal.SIGSTOP)
        for child in children.values():
            ask(child)
        for _ in range(rounds):
            for name in names:
                for policy, child in children.items():
                    for state, number in (("alone", signal.SIGSTOP), ("neighbour", signal.SIGCONT)):
                        os.kill(neighbour.pid, number)
                        found[name][policy][state].append(float(ask(child, name)))
                    os.kill(neighbour.pid, signal.SIGSTOP)
    finally:
        neighbour.kill()
        for child in children.values():
            child.kill()
    return found


def summarise(found: dict[str, dict[str, dict[str, list[float]]]]) -> dict[str, Any]:
    """Return medians, and ratios as medians of the ratios within rounds."""
    summary: dict[str, Any] = {}
    for name, policies in found.items():
        default = policies["OpenMP's default"]
        summary[name] = {
            policy: {
                "alone s": statistics.median(taken["alone"]),
                "with neighbour s": statistics.median(taken["neighbour"]),
                "slower with neighbour": _ratio(taken["neighbour"], taken["alone"]),
                "alone, over the default": _ratio(taken["alone"], default["alone"]),
                "alone, over the default, range": _range(taken["alone"], default["alone"]),
                "with neighbour, over the default": _ratio(taken["neighbour"], default["neighbour"]),
            }
            for policy, taken in policies.items()
        }
    return summary


def _ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _range(over: list[float], under: list[float]) -> list[float]:
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return [min(ratios), max(ratios)]


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    machine, share = result["machine"], result["share of the neighbour"]
    before, after = machine["load"]
    lines = [
        "# A busy neighbour on one core",
        "",
        f"Written by `benchmarks/neighbour.py`: {machine['cores']} cores ({machine['cpu']}),",
        f"Python {machine['python']}, PyTorch {machine['torch']}, {machine['openmp']};",
        f"medians of {result['rounds']} rounds in turn; load average before and after: {before:.1f}, {after:.1f};",
        f"niceness {result['nice']}.",
        f"A neighbour that takes a whole core is a factor of {share:.2f} for all cores. `wssl` sets `{OURS}`,",
        "and starts a training with one thread less for every core that is busy then.",
        "",
        "| workload | waiting | alone, s | with neighbour, s | slower with neighbour | alone, over default | range |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, policies in result["summary"].items():
        for policy, row in policies.items():
            low, high = row["alone, over the default, range"]
            lines.append(
                f"| {name} | {policy} | {row['alone s']:.4f} | {row['with neighbour s']:.4f} "
                f"| {row['slower with neighbour']:.2f} | {row['alone, over the default']:.2f} | {low:.2f}-{high:.2f} |"
            )
    return "\n".join(lines) + "\n"


def describe_machine() -> dict[str, Any]:
    """Return the machine and the versions."""
    import torch

    from wssl_pl.devices import usable_cores

    info = torch.__config__.parallel_info()
    runtimes = {"libgomp": "libgomp (GNU)", "libiomp": "libiomp (Intel)", "libomp": "libomp (LLVM)"}
    loaded = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else info
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return {
        "cores": usable_cores(),
        "cpu": cpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "openmp": next((name for key, name in runtimes.items() if key in loaded), "unknown"),
        "system": platform.platform(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=list(CALLS), choices=list(CALLS), help="workloads")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--nice", type=int, default=0, help="priority of everything that is measured")
    parser.add_argument("--name", help="of the files in --results; default: the table is printed alone")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--serve", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return
    set_priority(os.getpid(), args.nice)
    policies = [policy for policy in POLICIES if policy in args.policies or policy == "OpenMP's default"]
    load = [os.getloadavg()[0]]
    found = measure(policies, args.only, args.rounds, args.nice)
    load.append(os.getloadavg()[0])
    described = describe_machine() | {"load": load}
    cores = described["cores"]
    result = {
        "machine": described,
        "rounds": args.rounds,
        "nice": args.nice,
        "share of the neighbour": cores / max(1, cores - 1),
        "summary": summarise(found),
        "seconds": found,
    }
    print(table(result))
    if args.name:
        args.results.mkdir(parents=True, exist_ok=True)
        (args.results / f"{args.name}.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.results / f"{args.name}.md").write_text(table(result))


if __name__ == "__main__":
    main()
