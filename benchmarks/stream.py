"""What shards cost: crops and training from shards, from the cache and from files of the same images, in turn.

    python benchmarks/stream.py --images 30000 --folder FOLDER --prepare    # makes the images and all that is read
    python benchmarks/stream.py --images 30000 --folder FOLDER --rounds 3 --batches 20 --steps 6 --name stream

leaves benchmarks/results/stream.json and stream.md. The images are 288-px JPEGs, drawn by code. What is decoded at
every read has the first 3,000 of them, since its speed does not depend on their number. The server is moto on
127.0.0.1, in a process of its own on the same cores.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data import in_turn, per_second, ratio
from wssl_pl.data import WSSLDataModule
from wssl_pl.data.crop import crop_batch
from wssl_pl.data.prepare import prepare
from wssl_pl.data.prepare_shards import prepare_shards
from wssl_pl.data.sampler import WINDOW
from wssl_pl.devices import choose_precision
from wssl_pl.modules import PretextModule

SIDE, SIZE, CROP, BATCH = 288, 256, 224, 64
PART = 3000
TEXTURES = 64
ENCODINGS = ("raw", "png", "jpeg", "file")
KINDS = ("cache", *ENCODINGS, "images")
BUCKET = "s3://pictures/shards"
SLOW_CHUNK, SLOW_LATENCY_S, SLOW_BYTES_S, SLOW_STEP_S = 64, 0.2, 40e6, 0.2
"""The slowed server: images per chunk, seconds before each answer, bytes per second of one, and seconds of a step."""


def draw(folder: Path, numbers: Sequence[int]) -> None:
    """Draw images with the detail of photographs; few textures, each moved by another number of pixels."""
    textures: dict[int, np.ndarray] = {}
    for number in numbers:
        if (kind := number % TEXTURES) not in textures:
            rng = np.random.Generator(np.random.PCG64(kind))
            picture = np.full((SIDE, SIDE, 3), 128.0, np.float32)
            for cells, strength in ((6, 60), (40, 20), (256, 2)):
                noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
                fine = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
                picture += (fine - 128) * (strength / 64)
            textures[kind] = picture.clip(0, 255).astype(np.uint8)
        moved = np.roll(textures[kind], (number // TEXTURES, 7 * number), axis=(0, 1))
        Image.fromarray(moved).save(folder / f"{number}.jpg", quality=90)


def make(folder: Path, count: int) -> dict[str, float]:
    """Make what is not there yet: the images, the cache, and shards of each encoding; returns the seconds of each."""
    cores = len(os.sched_getaffinity(0))
    images = folder / "images"
    for split, numbers in (("train", range(count)), ("val", range(count, count + BATCH))):
        for kind in ("images", "part"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        missing = [number for number in numbers if not (images / split / f"{number}.jpg").exists()]
        if missing:
            with ProcessPoolExecutor(cores) as pool:
                list(pool.map(draw, [images / split] * cores, [missing[core::cores] for core in range(cores)]))
        for number in numbers[:PART]:
            if not (link := folder / "part" / split / f"{number}.jpg").exists():
                os.link(images / split / link.name, link)
    seconds = {}
    for kind in ("cache", *ENCODINGS):
        start = time.perf_counter()
        if kind == "cache":
            prepare(images, folder / kind, SIZE)
        else:
            prepare_shards(images if kind == "raw" else folder / "part", folder / kind, SIZE, encoding=kind)
        seconds[kind] = time.perf_counter() - start
    return seconds


def opened(images: Path | str, batch: int = BATCH, **options: Any) -> WSSLDataModule:
    """Return a data module, with its training images open, that reads in this process."""
    settings: dict[str, Any] = {"masks": "synthetic", "num_workers": 0, "hole_ratio": (0.0, 1.0)}
    data = WSSLDataModule(images=str(images), batch_size=batch, **(settings | options))
    data.setup("train")
    return data


def per_core_second(count: int, do: Callable[[], Any]) -> float:
    """Return things per second of processor time of one call, whatever else runs on the machine."""
    start = time.process_time()
    do()
    return count / (time.process_time() - start)


def loader_speed(
    data: WSSLDataModule, batches: int, speed: Callable[[int, Callable[[], Any]], float] = per_second
) -> Callable[[], float]:
    """Return a function that reads and crops batches of a new epoch, and returns images per second."""
    loader = data.train_dataloader()

    def read() -> None:
        for batch in islice(loader, batches):
            crop_batch(batch["image"], batch["crop"], CROP)

    return lambda: speed(min(batches, len(loader)) * BATCH, read)


def litdata_speed(folder: Path, count: int) -> Callable[[], float]:
    """Return the same of litdata's own reader, which shuffles within a chunk and has no crop and no masks."""
    import litdata

    items = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=False)

    def read() -> None:
        for content in islice(items, count):
            np.frombuffer(content, np.uint8).reshape(SIZE, SIZE, 3)[:CROP, :CROP].copy()

    return lambda: per_core_second(min(count, len(items)), read)


def crops(folder: Path, rounds: int, batches: int) -> dict[str, float]:
    """Crops per second of processor time of one thread, in the order of a training."""
    torch.set_num_threads(1)
    counts = {kind: batches if kind in ("cache", "raw") else 4 for kind in KINDS}
    kinds = [loader_speed(opened(folder / kind), counts[kind], per_core_second) for kind in KINDS]
    figures = in_turn(rounds, *kinds, litdata_speed(folder / "raw" / "train", batches * BATCH))
    names = [*KINDS, "litdata's reader of raw"]
    return {name: statistics.median(found) for name, found in zip(names, figures, strict=True)}


def training(folder: Path, rounds: int, steps: int, batch: int = 16) -> dict[str, Any]:
    """Images per second of pretext training at width 16 on two threads, in turn, and ratios to the cache."""
    torch.set_num_threads(2)
    module = PretextModule(["rotation", "saturation"], width=16)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no trainer is there to log to
    optimizer = module.configure_optimizers()
    bf16 = choose_precision("cpu")[0] == "bf16-mixed"
    kinds = ("cache", "raw", "png")

    def loop(data: WSSLDataModule) -> Callable[[], float]:
        loader = data.train_dataloader()

        def run() -> None:
            for item in islice(loader, steps):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss: Any = module.training_step(data.on_after_batch_transfer(item, 0), 0)
                loss.backward()
                optimizer.step()

        return lambda: per_second(min(steps, len(loader)) * batch, run)

    loops = [loop(opened(folder / kind, batch)) for kind in kinds]
    loops[0]()
    figures = dict(zip(kinds, in_turn(rounds, *loops), strict=True))
    result: dict[str, Any] = {f"{kind} images/s": statistics.median(found) for kind, found in figures.items()}
    return result | {f"{kind} / cache": ratio(figures[kind], figures["cache"]) for kind in kinds[1:]}


PROCESS = """
import json, os, sys, time
import torch
from wssl_pl.data import WSSLDataModule
images, batches, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
start = time.perf_counter()
data = WSSLDataModule(images=images, masks="synthetic", hole_ratio=(0.0, 1.0), num_workers=workers)
data.setup("train")
first = None
for number, batch in enumerate(data.train_dataloader()):
    data.on_after_batch_transfer(batch, 0)
    first = first or time.perf_counter() - start
    if number + 1 == batches:
        break
pids = [os.getpid(), *(int(pid) for task in os.listdir("/proc/self/task")
        for pid in open(f"/proc/self/task/{task}/children").read().split())]
def field(path, name):
    return int(next(line for line in open(path) if line.startswith(name)).split()[1]) / 1e6
print(json.dumps({"first batch s": first, "peak RSS GB": field("/proc/self/status", "VmHWM"),
                  "without pages of files GB": field("/proc/self/status", "RssAnon"),
                  "PSS of all processes GB": sum(field(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids)}))
"""


def process(images: Path | str, batches: int, workers: int = 0) -> dict[str, float]:
    """Seconds to the first batch, without the imports, and the memory of a process that reads so many batches."""
    command = [sys.executable, "-c", PROCESS, str(images), str(batches), str(workers)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def serve(folder: Path, answer: Connection, latency: float, rate: float) -> None:
    """Serve shards as `BUCKET` until the process ends; sends the URL."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="pictures")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                client.put_object(Bucket="pictures", Key=f"shards/{path.relative_to(folder)}", Body=file)
    app: Any = server._server.app  # type: ignore[union-attr]

    def slowed(environ: Any, start_response: Any) -> list[bytes]:
        body = b"".join(app(environ, start_response))
        time.sleep(latency + len(body) / rate)
        return [body]

    server._server.app = slowed  # type: ignore[union-attr]
    answer.send(f"http://{host}:{port}")
    time.sleep(10**6)


@contextmanager
def serving(folder: Path, latency: float = 0.0, rate: float = float("inf")) -> Iterator[None]:
    """Have a server for shards while the block runs."""
    ours, theirs = multiprocessing.Pipe()
    given = folder, theirs, latency, rate
    child = multiprocessing.get_context("spawn").Process(target=serve, args=given, daemon=True)
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    child.start()
    try:
        os.environ["AWS_ENDPOINT_URL"] = ours.recv()
        yield
    finally:
        child.terminate()
        child.join()


def from_server(folder: Path, count: int, rounds: int, batches: int) -> dict[str, Any]:
    """An epoch from the server with an empty and with a full folder of chunks, and the wait for a slowed server."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    with serving(folder / "raw"):
        cache = folder / "chunks"
        shutil.rmtree(cache, ignore_errors=True)
        options: dict[str, Any] = {"chunk_cache": str(cache), "chunk_cache_gb": 1000.0}
        start = time.perf_counter()
        data = opened(BUCKET, **options)
        next(iter(data.train_dataloader()))
        result["first batch, cold s"] = time.perf_counter() - start
        start = time.perf_counter()
        result["cold images/s"] = loader_speed(data, count // BATCH)()
        result["cold epoch s"] = time.perf_counter() - start
        start = time.perf_counter()
        data = opened(BUCKET, **options)
        next(iter(data.train_dataloader()))
        result["first batch, warm s"] = time.perf_counter() - start
        warm = in_turn(rounds, loader_speed(data, batches), loader_speed(opened(folder / "raw"), batches))
        result["warm images/s"] = statistics.median(warm[0])
        result["warm / local"] = ratio(*warm)
        os.environ |= {"XDG_CACHE_HOME": str(folder / "xdg")}
        shutil.rmtree(folder / "xdg", ignore_errors=True)
        result["process"] = process(BUCKET, batches)
        shutil.rmtree(folder / "xdg", ignore_errors=True)
    small = folder / "slow"
    prepare_shards(folder / "images_slow", small, SIZE, chunk_size=SLOW_CHUNK)
    with serving(small, SLOW_LATENCY_S, SLOW_BYTES_S):
        for name, fetch in (("with the next window fetched", True), ("without", False)):
            shutil.rmtree(cache, ignore_errors=True)
            data = opened(BUCKET, chunk_cache=str(cache))
            loader = data.train_dataloader()
            if not fetch:
                loader.sampler.fetch = None  # type: ignore[attr-defined]
            waited, start = 0.0, time.perf_counter()
            for _ in loader:
                waited += time.perf_counter() - start
                time.sleep(SLOW_STEP_S)
                start = time.perf_counter()
            result[f"slowed server, seconds waited per epoch, {name}"] = waited
        result["slowed server, seconds of steps per epoch"] = len(loader) * SLOW_STEP_S
    shutil.rmtree(cache, ignore_errors=True)
    return result


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All that is measured."""
    sizes = {}
    for kind in KINDS:
        files = [path.stat().st_size for path in (folder / kind).rglob("*") if path.is_file()]
        images = args.images if kind in ("cache", "raw", "images") else min(PART, args.images)
        sizes[kind] = sum(files) / 1e3 / (images + BATCH)
    result: dict[str, Any] = {"images": {"count": args.images, "side": SIDE}, "kB per image": sizes}
    result["settings"] = {"rounds": args.rounds, "batches": args.batches, "steps": args.steps}
    print("crops", file=sys.stderr, flush=True)
    result["crops/s"] = crops(folder, args.rounds, args.batches)
    print(json.dumps(result["crops/s"]), "training", file=sys.stderr, flush=True)
    result["training"] = training(folder, args.rounds, args.steps)
    print(json.dumps(result["training"]), "memory", file=sys.stderr, flush=True)
    kinds = ("cache", "raw", "images")
    result["process"] = {kind: process(folder / kind, args.batches) for kind in kinds}
    result["process with 2 workers"] = {kind: process(folder / kind, args.batches, 2) for kind in kinds}
    print(json.dumps(result["process"]), "server", file=sys.stderr, flush=True)
    slow = folder / "images_slow" / "train"
    slow.mkdir(parents=True, exist_ok=True)
    for path in sorted((folder / "images" / "train").iterdir())[: SLOW_CHUNK * WINDOW * 4]:
        if not (slow / path.name).exists():
            os.link(path, slow / path.name)
    result["server"] = from_server(folder, args.images, args.rounds, args.batches)
    result["machine"] = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    result["machine"] |= {"system": platform.platform(), "python": platform.python_version()}
    result["machine"] |= {"numpy": np.__version__, "torch": torch.__version__}
    return result


def markdown(result: dict[str, Any]) -> str:
    """Return tables of what was measured."""
    lines = [
        "| images from | kB per image | crops per core and s | training, images/s | of the cache |",
        "|---|---|---|---|---|",
    ]
    names = {"cache": "the cache", "images": "files"} | {kind: f"shards, `{kind}`" for kind in ENCODINGS}
    for kind in KINDS:
        speed = result["training"].get(f"{kind} images/s")
        part = result["training"].get(f"{kind} / cache", 1.0 if kind == "cache" else None)
        cells = [f"{result['kB per image'][kind]:.0f}", f"{result['crops/s'][kind]:,.0f}"]
        cells += ["" if speed is None else f"{speed:.1f}", "" if part is None else f"{part:.2f}"]
        lines.append(f"| {names[kind]} | {' | '.join(cells)} |")
    lines += ["", "| | first batch, s | peak RSS, GB | without pages of files, GB | PSS with 2 workers, GB |"]
    lines.append("|---|---|---|---|---|")
    rows = {names[kind]: result["process"][kind] for kind in result["process"]}
    rows["a bucket, no chunk fetched before"] = result["server"]["process"]
    for (name, found), kind in zip(rows.items(), [*result["process"], None], strict=True):
        workers = "" if kind is None else f"{result['process with 2 workers'][kind]['PSS of all processes GB']:.2f}"
        cells = [f"{found[key]:.2f}" for key in ("first batch s", "peak RSS GB", "without pages of files GB")]
        lines.append(f"| {name} | {' | '.join([*cells, workers])} |")
    lines += ["", "| the server | |", "|---|---|"]
    lines += [f"| {key} | {value:.3g} |" for key, value in result["server"].items() if key != "process"]
    about = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    return "\n".join([*lines, "", f"{result['images']['count']} drawn JPEGs of {SIDE} px. Machine: {about}."]) + "\n"


def main() -> None:
    """Measure, print the tables, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where all is made and kept, 0.5 GB per 1000 images")
    parser.add_argument("--prepare", action="store_true", help="make what is read, and measure nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40, help="batches of 64 per round")
    parser.add_argument("--steps", type=int, default=16, help="training steps of 16 images per round")
    parser.add_argument("--name", help="of the files in benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        seconds = make(folder, args.images)
        if args.prepare:
            print(json.dumps(seconds))
            return
        result = measure(folder, args)
    print(markdown(result))
    if args.name:
        path = Path(__file__).parent / "results" / f"{args.name}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        path.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main()
