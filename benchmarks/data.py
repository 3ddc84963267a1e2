"""What the prepared cache is worth: every figure is a ratio of two things measured in turn in one run.

    python benchmarks/data.py --count 30000 --name data

leaves benchmarks/results/data.json and data.md. Images are drawn by code: 1024-px JPEGs with the detail of photographs.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from wssl_pl.data.cache import FORMAT, VERSION, Cache, Entry, digest, write_index
from wssl_pl.data.images import ArrayImages
from wssl_pl.data.mask_maker import make_masks, random_strokes
from wssl_pl.data.masks import MaskIndex, scan_masks
from wssl_pl.data.prepare import prepare

SIDE, SIZE, CROP, BATCH = 1024, 256, 224, 64
NOISE = ((6, 60), (40, 20), (256, 2))  # cells per side, strength
BARS = {
    "crops from the cache / decoding with Pillow": (20.0, "at least"),
    "memcpy of the same bytes / read from the cache": (2.0, "at most"),
    "prepare / Pillow loop on the same cores": (4.0, "at least"),
    "training from the cache / from memory": (0.97, "at least"),
    "masks measured per core and second": (500.0, "at least"),
    "memory with a cache of 30,000 images, GB": (1.0, "at most"),
}


def draw_images(folder: Path, numbers: Sequence[int]) -> None:
    """1024-px JPEGs of about 120 kB, like those of CelebA-HQ: coarse and fine noise, one picture per number."""
    for number in numbers:
        rng = np.random.Generator(np.random.PCG64(number))
        picture = np.full((SIDE // 4, SIDE // 4, 3), 128.0, np.float32)
        for cells, strength in NOISE:
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            fine = np.asarray(noise.resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC), np.float32)
            picture += (fine - 128) * (strength / 64)
        drawn = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        drawn.save(folder / f"{number}.jpg", quality=90)


def pillow(path: Path) -> np.ndarray:
    """What a data set does without a cache: open, convert, resize."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE)))


def pillow_loop(paths: Sequence[Path]) -> int:
    """`pillow` for many files; returns their number."""
    return sum(pillow(path).shape[0] == SIZE for path in paths)


def in_turn(rounds: int, *kinds: Callable[[], float]) -> list[list[float]]:
    """Figures of each kind, taken round by round, because shared machines drift."""
    figures: list[list[float]] = [[] for _ in kinds]
    for _ in range(rounds):
        for kind, found in zip(kinds, figures, strict=True):
            found.append(kind())
    return figures


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the ratios within rounds."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def per_second(count: int, do: Callable[[], Any]) -> float:
    """Things per second of one call."""
    start = time.perf_counter()
    do()
    return count / (time.perf_counter() - start)


def preparation(images: Path, out: Path, cores: int) -> dict[str, Any]:
    """Images per second of `prepare`, start-up included, and of a Pillow loop in as many warm processes."""
    paths = sorted(images.iterdir())
    sample = paths[: max(64, min(len(paths), 100 * cores))]
    parts = [sample[start : start + 8] for start in range(0, len(sample), 8)]
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(pillow_loop, [paths[:1]] * cores))
        before = per_second(len(sample), lambda: list(pool.map(pillow_loop, parts)))
        ours = per_second(len(paths), lambda: prepare(images, out, SIZE, workers=cores if cores > 1 else 0))
        after = per_second(len(sample), lambda: list(pool.map(pillow_loop, parts)))
    again = time.perf_counter()
    prepare(images, out, SIZE)
    loop = (before + after) / 2
    seconds = time.perf_counter() - again
    return {"prepare images/s": ours, "Pillow loop images/s": loop, "ratio": ours / loop, "second run s": seconds}


def crops(images: Path, cache: Cache, rounds: int) -> dict[str, Any]:
    """Crops per second from the cache, by decoding, and the copying of as many bytes; one thread each."""
    import torch

    from wssl_pl.data.crop import crop_batch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = np.array([entry.row for entry in cache.entries], np.int64)
    source = ArrayImages(cache.array_path, rows)
    array = np.load(cache.array_path, mmap_mode="r")
    rng = np.random.default_rng(0)
    paths = sorted(images.iterdir())[:24]
    corner = torch.from_numpy(rng.integers(0, SIZE - CROP + 1, (BATCH, 2)))
    batches = 20

    def read() -> None:
        for _ in range(batches):
            source.read(rng.integers(0, len(rows), BATCH))

    def crop() -> None:
        for _ in range(batches):
            found, _ = source.read(rng.integers(0, len(rows), BATCH))
            crop_batch(torch.from_numpy(found).permute(0, 3, 1, 2), corner, CROP)

    def copy() -> None:
        for _ in range(batches):
            start = int(rng.integers(0, max(1, len(array) - BATCH)))
            np.array(array[start : start + BATCH])

    def decode() -> None:
        for path in paths:
            pillow(path)[:CROP, :CROP].copy()

    read()
    many = batches * BATCH
    figures = in_turn(
        rounds,
        lambda: per_second(many, read),
        lambda: per_second(many, crop),
        lambda: per_second(many, copy),
        lambda: per_second(len(paths), decode),
    )
    torch.set_num_threads(threads)
    names = ("read images/s", "read and crop images/s", "memcpy images/s", "Pillow images/s")
    result: dict[str, Any] = {name: statistics.median(found) for name, found in zip(names, figures, strict=True)}
    return result | {"over Pillow": ratio(figures[1], figures[3]), "memcpy over read": ratio(figures[2], figures[0])}


def training(cache: Path, masks: Path, rounds: int, steps: int, batch: int) -> dict[str, Any]:
    """Images per second of the downstream step at width 16, fed by the loader from the cache or from memory."""
    import torch

    from wssl_pl.data import WSSLDataModule
    from wssl_pl.devices import choose_precision
    from wssl_pl.modules import InpaintModule

    data = WSSLDataModule(images=str(cache), masks=str(masks), batch_size=batch, hole_ratio=(0.0, 1.0))
    data.setup("train")
    module = InpaintModule(width=16)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no trainer is there to log to
    optimizer = module.configure_optimizers()
    bf16 = choose_precision("cpu")[0] == "bf16-mixed"
    ready = [item for item, _ in zip(data.train_dataloader(), range(steps), strict=False)]

    def loop(batches: Any) -> None:
        for item, _ in zip(batches, range(steps), strict=False):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss: Any = module.training_step(data.on_after_batch_transfer(dict(item), 0), 0)
            loss.backward()
            optimizer.step()

    loop(ready[:2])
    count = len(ready) * batch
    memory, cached = in_turn(
        rounds,
        lambda: per_second(count, lambda: loop(ready)),
        lambda: per_second(count, lambda: loop(data.train_dataloader())),
    )
    medians = {"cache images/s": statistics.median(cached), "memory images/s": statistics.median(memory)}
    return medians | {"ratio": ratio(cached, memory)}


def mask_ratios(folder: Path, count: int) -> dict[str, Any]:
    """Masks per second of processor time, whatever the number of threads, and of a start with the index."""
    make_masks(folder, count, random_strokes)
    files = sorted(folder.rglob("*.png"))

    def scan() -> float:
        start = time.process_time()
        index = MaskIndex(folder, CROP, "black", 0)
        scan_masks(files, CROP, "black", (0.3, 0.5), index=index)
        index.save(files)
        return count / (time.process_time() - start)

    return {"measured masks/core/s": scan(), "from the index masks/core/s": scan()}


RESIDENT = """
import sys
from wssl_pl.data import WSSLDataModule
data = WSSLDataModule(images=sys.argv[1], masks=sys.argv[2], hole_ratio=(0.0, 1.0))
data.setup("train")
for number, batch in enumerate(data.train_dataloader()):
    data.on_after_batch_transfer(batch, 0)
    if number == 40:
        break
print(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
"""


def resident_memory(folder: Path, masks: Path, rows: int = 30000) -> float:
    """GB of a process that reads batches from a cache of 30,000 images, without the pages of files.

    The cache is an empty (sparse) file: what it holds makes no difference to that.
    """
    folder.mkdir()
    index = write_index([Entry(n, f"{n}.jpg", "train", 1, 1, SIDE, SIDE, "0" * 64, f"{n:064x}") for n in range(rows)])
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "size": SIZE, "resize_filter": "lanczos"}
    manifest |= {"count": rows, "splits": {"train": rows}, "split_rule": "hash", "layout": "none"}
    manifest |= {"images": {"file": "images-0.npy"}}
    manifest["index"] = {"file": "index-0.parquet", "sha256": hashlib.sha256(index).hexdigest()}
    manifest["sha256"] = digest(manifest)
    np.lib.format.open_memmap(folder / "images-0.npy", "w+", np.uint8, (rows, SIZE, SIZE, 3))
    (folder / "index-0.parquet").write_bytes(index)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    command = [sys.executable, "-c", RESIDENT, str(folder), str(masks)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]) / 1e6


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    cores = len(os.sched_getaffinity(0))
    images = folder / "images"
    images.mkdir()
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(draw_images, [images] * cores, [range(core, args.count, cores) for core in range(cores)]))
    size = statistics.mean(path.stat().st_size for path in list(images.iterdir())[:200])
    result: dict[str, Any] = {"images": {"count": args.count, "side": SIDE, "mean kB": size / 1e3}}
    print("prepare", file=sys.stderr, flush=True)
    result["prepare"] = preparation(images, folder / "cache", cores)
    print("masks", file=sys.stderr, flush=True)
    result["masks"] = mask_ratios(folder / "masks", args.masks)
    print("crops", file=sys.stderr, flush=True)
    result["crops"] = crops(images, Cache(folder / "cache"), args.rounds)
    if args.steps:
        print("training", file=sys.stderr, flush=True)
        result["training"] = training(folder / "cache", folder / "masks", args.rounds, args.steps, args.batch)
    print("memory", file=sys.stderr, flush=True)
    result["resident GB"] = resident_memory(folder / "empty", folder / "masks")
    result["ratios"] = dict(
        zip(
            BARS,
            (
                result["crops"]["over Pillow"],
                result["crops"]["memcpy over read"],
                result["prepare"]["ratio"],
                result.get("training", {}).get("ratio"),
                result["masks"]["measured masks/core/s"],
                result["resident GB"],
            ),
            strict=True,
        )
    )
    import torch

    result["machine"] = {"cores": cores, "load": os.getloadavg()[0], "system": platform.platform()}
    result["machine"] |= {"processor": _processor(), "python": platform.python_version(), "pillow": PIL.__version__}
    result["machine"] |= {"numpy": np.__version__, "torch": torch.__version__}
    return result


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def markdown(result: dict[str, Any]) -> str:
    """The ratios against the bars, as a table, and the machine."""
    lines = ["| | measured | wanted |", "|---|---|---|"]
    lines += [
        f"| {name} | {'not measured' if result['ratios'][name] is None else format(result['ratios'][name], '.3g')} "
        f"| {word} {bar:g} |"
        for name, (bar, word) in BARS.items()
    ]
    about = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    count = result["images"]["count"]
    return "\n".join([*lines, "", f"{count} drawn JPEGs of {SIDE} px. Machine: {about}."]) + "\n"


def main() -> None:
    """Measures, prints the table, and writes JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="images of 1024 px")
    parser.add_argument("--masks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="training steps per round; 0 leaves training out")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where to put the images, about 150 MB per 1000 and the cache")
    parser.add_argument("--name", help="of the files in benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(Path(folder), args)
    print(markdown(result))
    if args.name:
        path = Path(__file__).parent / "results" / f"{args.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
        path.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main()
