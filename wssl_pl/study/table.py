"""The live table of a study in the terminal: an arm a line, a seed a column, and the time that is left."""

import shutil
import sys
import time
from typing import TextIO

from wssl_pl.study.cost import as_time, expected_seconds, learned_costs
from wssl_pl.study.driver import Progress
from wssl_pl.study.execute import read_step
from wssl_pl.study.folder import StudyFolder

EVERY = 5.0  # seconds between two looks at the steps of what is under way


class LiveTable:
    """Draws the table again and again in a terminal; elsewhere it prints one line per run that begins or ends.

    Args:
        folder: the study's.
        out: where to.
    """

    def __init__(self, folder: StudyFolder, out: TextIO | None = None) -> None:
        self.folder = folder
        self.out = out or sys.stderr
        self.begun, self.looked = time.monotonic(), 0.0
        self.steps: dict[str, int] = {}
        self.told: dict[str, str] = {}
        self.drawn = 0

    def __call__(self, progress: Progress) -> None:
        """Shows how far the study is."""
        now = time.monotonic()
        if self.out.isatty():
            if now - self.looked >= EVERY:
                self.looked = now
                self._look(progress)
                self._draw(progress)
        else:
            self._tell(progress)

    def close(self, progress: Progress) -> None:
        """Shows the last state."""
        self.looked = -EVERY
        self(progress)

    def _look(self, progress: Progress) -> None:
        self.steps = {identity: read_step(self.folder.run(identity)) for identity in progress.begun}

    def left(self, progress: Progress) -> float | None:
        """Seconds that are left, going by the runs that are done; None before the first of each stage."""
        costs = learned_costs(progress.plan, progress.states)
        return expected_seconds(progress.plan, costs, progress.slots, progress.states, self.steps)

    def _tell(self, progress: Progress) -> None:
        for identity, status in progress.states.items():
            if self.told.setdefault(identity, "waiting") != status.state:
                self.told[identity] = status.state
                run = progress.plan.runs[identity]
                reason = f": {status.reason}" if status.reason else ""
                left = self.left(progress)
                rest = f" ({as_time(left)} left)" if left else ""
                print(
                    f"{self._count(progress)} {status.state:<8} {identity} of {', '.join(run.arms)}{reason}{rest}",
                    file=self.out,
                    flush=True,
                )

    def _count(self, progress: Progress) -> str:
        ended = sum(status.state not in ("waiting", "running") for status in progress.states.values())
        return f"[{ended}/{len(progress.states)}]"

    def lines(self, progress: Progress) -> list[str]:
        """The table."""
        left = self.left(progress)
        failed = sum(status.state in ("failed", "skipped") for status in progress.states.values())
        head = f"{self._count(progress)} runs, {as_time(time.monotonic() - self.begun)} gone"
        head += f", {as_time(left)} left" if left is not None else ""
        head += f", {failed} failed" if failed else ""
        seeds = sorted({seed for by_seed in progress.plan.final.values() for seed in by_seed})
        width = max(len(name) for name in progress.plan.final) + 2
        lines = [head, " " * width + "".join(f"{f'seed {seed}':>22}" for seed in seeds)]
        for arm, by_seed in progress.plan.final.items():
            cells = [self._cell(progress, by_seed[seed]) if seed in by_seed else "" for seed in seeds]
            lines.append(f"{arm:<{width}}" + "".join(f"{cell:>22}" for cell in cells))
        return lines

    def _cell(self, progress: Progress, final: str) -> str:
        run, status = progress.plan.runs[final], progress.states[final]
        if status.state == "done":
            points = self.folder.curve(final).get("val/psnr_composite")
            return f"{points[-1][1]:.2f} dB" if points else "done"
        if status.state == "running":
            return f"downstream {self.steps.get(final, 0) / run.steps:.0%}"
        if status.state in ("failed", "skipped"):
            return status.state
        for need in run.needs:
            if progress.states[need].state == "running":
                what = "trial" if progress.plan.runs[need].trial else "pretext"
                return f"{what} {self.steps.get(need, 0) / progress.plan.runs[need].steps:.0%}"
        return "waiting"

    def _draw(self, progress: Progress) -> None:
        columns = shutil.get_terminal_size().columns
        lines = [line[: columns - 1] for line in self.lines(progress)]
        up = f"\x1b[{self.drawn}A" if self.drawn else ""
        print(up + "\n".join(f"\x1b[2K{line}" for line in lines), file=self.out, flush=True)
        self.drawn = len(lines)
