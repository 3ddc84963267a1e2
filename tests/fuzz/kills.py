"""Commands that are killed at random moments and run again: what comes of them is what comes of an undisturbed run.

`python -m tests.fuzz.kills --kills 100 --seed 1` kills `prepare`, the training of each stage and `inpaint` of a folder.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from tests.data.fakes import face, image_tree, mask_tree

ROOT = Path(__file__).parents[2]
KINDS = ("prepare", "pretext", "downstream", "inpaint")
TRAINING = [
    "data.image_size=32", "data.resize=36", "data.batch_size=8", "data.num_workers=0", "model.width=4",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.precision=32-true",
    "trainer.max_epochs=6", "run.resume=auto",
]  # fmt: skip


@dataclasses.dataclass
class KillCounts:
    """What came of the kills of one command.

    Attributes:
        kills: processes ended by SIGKILL in the middle of their work.
        finished: outputs that the same command has finished afterwards.
        equal: of them, those equal to an undisturbed one.
        dead_ends: how often the same command did not end with code 0.
        leftovers: temporary files that stayed.
        lost: inputs, or outputs that were finished, that were changed or gone after a kill.
    """

    kills: int = 0
    finished: int = 0
    equal: int = 0
    dead_ends: int = 0
    leftovers: int = 0
    lost: int = 0
    messages: list[str] = dataclasses.field(default_factory=list)


class Job:
    """A command, its inputs and what is compared of its outputs.

    Args:
        kind: one of `KINDS`.
        inputs: folder of what all jobs read.
    """

    def __init__(self, kind: str, inputs: Path) -> None:
        self.kind, self.inputs = kind, inputs
        self.contents: Callable[[Path], dict[str, str]] = weights if kind in ("pretext", "downstream") else digests

    def words(self, out: Path) -> list[str]:
        """Return its command line."""
        inputs = self.inputs
        data = [f"data.images={inputs / 'images'}", f"data.masks={inputs / 'masks'}"]
        if self.kind == "prepare":
            return ["prepare", f"images={inputs / 'many'}", f"out={out}", "size=96", "workers=0", "split_rule=hash"]
        if self.kind == "inpaint":
            return [
                "inpaint", str(inputs / "photos"), str(inputs / "holes"), f"out={out}", "device=cpu", "--overwrite",
            ]  # fmt: skip
        stage = ["stage=pretext", "tasks=rotation,saturation"]
        if self.kind == "downstream":
            stage = ["stage=downstream", "ckpt=none", "freeze_layers=0"]
        return [*stage, *data, *TRAINING, f"run.dir={out}"]

    def start(self, out: Path, log: Any) -> subprocess.Popen[bytes]:
        """Start it in a session of its own."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment["PYTHONFAULTHANDLER"] = "1"
        return subprocess.Popen(
            [sys.executable, "-m", "wssl_pl", *self.words(out)],
            cwd=self.inputs, stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip


def make_inputs(folder: Path) -> None:
    """Write images, masks and photos."""
    image_tree(folder / "images", {"train": 48, "val": 8}, size=40)
    mask_tree(folder / "masks", {"train": [0.35, 0.4, 0.45], "test": [0.4]}, size=40)
    image_tree(folder / "many", {"": 60}, suffix=".jpg", size=700)
    for number in range(600):
        os.link(folder / "many" / f"{number % 60}.jpg", folder / "many" / f"link{number}.jpg")
    (folder / "photos").mkdir()
    (folder / "holes").mkdir()
    hole = np.zeros((160, 160), np.uint8)
    hole[30:90, 40:100] = 255
    for number in range(40):
        face(number, 160).save(folder / "photos" / f"{number}.png")
        Image.fromarray(hole).save(folder / "holes" / f"{number}.png")


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file below a folder, hidden ones and locks aside."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def weights(folder: Path) -> dict[str, str]:
    """Return the digests of the weights, the optimizer's state and the counters of a run's checkpoints."""
    import torch

    found = {}
    for name in ("best.ckpt", "last.ckpt"):
        content = torch.load(folder / name, map_location="cpu", weights_only=True)
        parts = [content["epoch"], content["global_step"]]
        parts += [content["state_dict"], [state["state"] for state in content["optimizer_states"]]]
        found[name] = hashlib.sha256(_bytes(parts)).hexdigest()
    return found


def _bytes(value: Any) -> bytes:
    import torch

    if isinstance(value, torch.Tensor):
        return value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return b"".join(
            str(key).encode() + _bytes(inner) for key, inner in sorted(value.items(), key=lambda x: str(x[0]))
        )
    if isinstance(value, list | tuple):
        return b"".join(map(_bytes, value))
    return str(value).encode()


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files below a folder; lock files stay by design."""
    return [
        path.name
        for path in folder.rglob(".*")
        if path.is_file() and not path.name.endswith(("lock", ".lock")) and "masks" not in path.name
    ]


def kill_until_done(job: Job, out: Path, rng: Random, seconds: float, most: int, counts: KillCounts, log: Path) -> None:
    """Kill a command again and again, up to `most` times, then let it end."""
    done = 0
    while True:
        with log.open("ab") as file:
            process = job.start(out, file)
            if done < most:
                try:
                    process.wait(rng.uniform(0.15, 1.0) * seconds)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    counts.kills += 1
            code = process.wait()
        if code == -signal.SIGKILL:
            done += 1
            continue
        if code:
            counts.dead_ends += 1
            counts.messages.append(f"{job.kind}: code {code}: {log.read_text(errors='replace')[-300:]}")
        return


def campaign(kinds: list[str], kills: int, seed: int, folder: Path, out: Path | None) -> dict[str, KillCounts]:
    """Kill each kind of command, and return the counts by kind."""
    inputs = folder / "inputs"
    make_inputs(inputs)
    before = digests(inputs)
    counts_by_kind: dict[str, KillCounts] = {}
    for kind in kinds:
        job, counts, rng = Job(kind, inputs), counts_by_kind.setdefault(kind, KillCounts()), Random(f"{seed} {kind}")
        undisturbed, log = folder / kind / "undisturbed", folder / f"{kind}.log"
        undisturbed.parent.mkdir()
        start = time.monotonic()
        kill_until_done(job, undisturbed, rng, 0.0, 0, counts, log)
        seconds = time.monotonic() - start
        wanted = job.contents(undisturbed)
        number = 0
        while counts.kills < kills:
            number += 1
            result = folder / kind / str(number)
            kill_until_done(job, result, rng, seconds, min(rng.randrange(1, 6), kills - counts.kills), counts, log)
            if counts.dead_ends == 0 or result.exists():
                counts.finished += 1
                counts.leftovers += len(leftovers(result))
                try:
                    counts.equal += job.contents(result) == wanted
                except (OSError, KeyError, ValueError) as error:
                    counts.messages.append(f"{kind} {number}: {error}")
            shutil.rmtree(result, ignore_errors=True)
            counts.lost = sum(after != before[name] for name, after in digests(inputs).items() if name in before)
            if out:
                out.write_text(json.dumps({k: dataclasses.asdict(t) for k, t in counts_by_kind.items()}, indent=1))
        print(f"{kind}: {counts.kills} kills in {time.monotonic() - start:.0f} s: {counts}", flush=True)
    return counts_by_kind


def main() -> int:
    """Run it, and return 1 if something was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with commas")
    parser.add_argument("--json", type=Path, help="file for the counts, written as they come")
    options = parser.parse_args()
    kinds = options.only.split(",")
    with tempfile.TemporaryDirectory(prefix="wssl-kills-") as temporary:
        folder = Path(temporary)
        counts_by_kind = campaign(kinds, -(-options.kills // len(kinds)), options.seed, folder, options.json)
    return int(any(t.dead_ends or t.lost or t.equal < t.finished for t in counts_by_kind.values()))


if __name__ == "__main__":
    sys.exit(main())
