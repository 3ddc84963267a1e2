"""Speed and memory of inpainting photos; needs nothing but the repository.

    python benchmarks/inpaint.py                                  # random weights of width 16
    python benchmarks/inpaint.py --ckpt best.ckpt --pairs PAIRS --name inpaint   # beside Telea and biharmonic

Measured: a 512 x 512 photo through ONNX, in float32 and in int8, and through PyTorch, in turn; photos of other sides,
with other holes and on one thread; 12 million pixels with 1 % hole against 1 million with as many pixels of
hole; the peak memory of the whole command on 50 million pixels at width 32; how busy a folder of photos keeps the
cores. `--pairs` is a folder of `wssl pairs`; the first 50 are taken. With `--name` it writes `NAME.json` and `NAME.md`
in benchmarks/results.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import wssl_pl
from wssl_pl.data.mask_maker import draw_mask, random_strokes
from wssl_pl.devices import usable_cores
from wssl_pl.evaluation.evaluate import machine
from wssl_pl.evaluation.methods import Classical
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.export.int8 import sample, write_int8
from wssl_pl.export.onnx_file import write_onnx
from wssl_pl.export.weights import write_safetensors
from wssl_pl.inference import Inpainter
from wssl_pl.metrics import psnr
from wssl_pl.models import ModelInfo
from wssl_pl.models.weights import read_module
from wssl_pl.modules import InpaintModule

SIDE = 128  # at which a model of random weights is said to have been trained
SIDES, HOLES = (256, 512, 1024, 2048), (0.01, 0.1, 0.3)
BARS = {
    "512 x 512 photo through ONNX, s": (0.3, "at most"),
    "512 x 512 photo through ONNX in int8, s": (0.15, "at most"),
    "PyTorch's time over ONNX's": (1.0, "at least"),
    "12 MP with 1 % hole over 1 MP with the same hole": (3.0, "at most"),
    "peak memory for 50 MP at width 32, GB": (2.0, "at most"),
    "cores kept busy by a folder": (0.8, "at least"),
}


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coarse and fine noise, `(height, width, 3)`, with about the detail of a photograph."""
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128, np.uint8)
    for cells, strength in ((6, 0.6), (60, 0.2)):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        fine = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
        picture = np.asarray(Image.blend(Image.fromarray(picture), Image.fromarray(fine), strength))
    return picture


def strokes(side: int, seed: int) -> NDArray[np.bool_]:
    """A mask of brush strokes in QD-IMD's way that covers 20 to 50 %, `(side, side)`."""
    random = np.random.Generator(np.random.PCG64(seed))
    while True:
        mask: NDArray[np.bool_] = np.asarray(draw_mask(random_strokes, random, test=True).resize((side, side))) == 0
        if 0.2 <= mask.mean() <= 0.5:
            return mask


def scattered(shape: tuple[int, int], pixels: int, holes: int, seed: int = 0) -> NDArray[np.bool_]:
    """About so many pixels of hole in squares that do not overlap, on a grid."""
    side = round((pixels / holes) ** 0.5)
    columns = int(np.ceil((holes * shape[1] / shape[0]) ** 0.5))
    rows = -(-holes // columns)
    mask = np.zeros(shape, bool)
    for number in range(holes):
        top = (number // columns) * shape[0] // rows + (shape[0] // rows - side) // 2
        left = (number % columns) * shape[1] // columns + (shape[1] // columns - side) // 2
        mask[top : top + side, left : left + side] = True
    return mask


def in_turn(rounds: int, *kinds: Callable[[], Any]) -> list[list[float]]:
    """Seconds of each kind, taken round by round, because shared machines drift; one round warms up."""
    taken: list[list[float]] = [[] for _ in kinds]
    for number in range(rounds + 1):
        for kind, found in zip(kinds, taken, strict=True):
            start = time.perf_counter()
            kind()
            if number:
                found.append(time.perf_counter() - start)
    return taken


def ratio(over: list[float], under: list[float]) -> float:
    """Median of the ratios within rounds."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def small_photo(onnx: Inpainter, int8: Inpainter, pytorch: Inpainter, rounds: int) -> dict[str, Any]:
    """Seconds of a 512 x 512 photo with a wide hole, from array to array, and of the bare networks on its pixels."""
    image, mask = photo(512, 512), strokes(512, 1)
    planes = np.ascontiguousarray((image / np.float32(255)).transpose(2, 0, 1)[None], np.float32)
    holes = mask[None, None].astype(np.float32)

    def bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            pytorch.predictor(planes, holes)

    kinds: dict[str, Callable[[], Any]] = {
        "ONNX": lambda: onnx(image, mask),
        "ONNX, int8": lambda: int8(image, mask),
        "PyTorch": lambda: pytorch(image, mask),
        "network alone, ONNX": lambda: onnx.predictor(planes, holes),
        "network alone, ONNX, int8": lambda: int8.predictor(planes, holes),
        "network alone, PyTorch": lambda: pytorch.predictor(planes, holes),
        "network alone, PyTorch bfloat16": bfloat16,
    }
    taken = dict(zip(kinds, in_turn(rounds, *kinds.values()), strict=True))
    seconds = {name: {"median": statistics.median(found), "least": min(found)} for name, found in taken.items()}
    ratios = {
        "PyTorch over ONNX": ratio(taken["PyTorch"], taken["ONNX"]),
        "int8 over float32": ratio(taken["ONNX, int8"], taken["ONNX"]),
    }
    return {"seconds": seconds, "ratios": ratios, "hole": float(mask.mean())}


def by_size(inpainters: dict[str, Inpainter], rounds: int) -> list[dict[str, Any]]:
    """Seconds of photos of some sides with one square hole each, from array to array."""
    rows = []
    for side in SIDES:
        for share in HOLES:
            image, hole = photo(side, side), scattered((side, side), round(share * side**2), 1)
            kinds = [lambda i=inpainter, p=image, h=hole: i(p, h) for inpainter in inpainters.values()]
            medians = [statistics.median(found) for found in in_turn(rounds, *kinds)]
            rows.append({"side": side, "hole": share, "seconds": dict(zip(inpainters, medians, strict=True))})
    return rows


def large_photo(inpainter: Inpainter, rounds: int) -> dict[str, Any]:
    """Seconds of 12 million pixels, 1 % of them hole, against 1 million with the same hole, from array to array."""
    large, small = photo(3000, 4000), photo(1000, 1000)
    pixels = large.shape[0] * large.shape[1] // 100
    result = {}
    for name, holes in (("one hole", 1), ("20 holes", 20)):
        here, there = scattered((3000, 4000), pixels, holes), scattered((1000, 1000), pixels, holes)
        taken = in_turn(rounds, lambda h=here: inpainter(large, h), lambda t=there: inpainter(small, t))  # type: ignore[misc]
        medians = [statistics.median(found) for found in taken]
        result[name] = {"12 MP s": medians[0], "1 MP s": medians[1], "ratio": ratio(*taken)}
    return result


COMMAND = """
import sys
from wssl_pl.cli import main
main(sys.argv[1:])
print("torch" in sys.modules)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def python(program: str, *args: str, folder: Path) -> str:
    """What a Python program of its own prints, run in a folder."""
    path = os.pathsep.join([str(Path(wssl_pl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    return done.stdout


def peak_memory(folder: Path, model: Path, megapixels: float) -> dict[str, Any]:
    """GB that `wssl inpaint` took at most, decoding and encoding included, and its seconds."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    shape = height, round(height * 1.5)
    mask = scattered(shape, shape[0] * shape[1] // 50, 60)
    mask[height // 3 : height // 3 + height // 4, 200 : 200 + height // 4] = True  # one that needs coarse passes
    Image.fromarray(photo(*shape)).save(folder / "large.png", compress_level=1)
    Image.fromarray(mask).save(folder / "mask.png")
    words = ["inpaint", "large.png", "mask.png", "-o", "filled.png", "--overwrite", f"ckpt={model.resolve()}"]
    start = time.perf_counter()
    printed = python(COMMAND, *words, folder=folder)
    with_torch, kilobytes = printed.split()[-2:]
    return {
        "GB": int(kilobytes) * 1024 / 1e9,
        "seconds": time.perf_counter() - start,
        "megapixels": shape[0] * shape[1] / 1e6,
        "hole": float(mask.mean()),
        "PyTorch was imported": with_torch == "True",
    }


def folder_mode(folder: Path, model: Path, count: int) -> dict[str, Any]:
    """How many of the cores a folder of photos keeps busy, without the start of the process."""
    for name in ("photos", "masks"):
        (folder / name).mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(photo(768, 1024, number)).save(folder / "photos" / f"{number}.jpg", quality=90)
        mask = np.zeros((768, 1024), bool)
        mask[:, :768] = strokes(768, number)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    program = f"""
import resource, time
from wssl_pl.cli import main
def used():
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime
main(["inpaint", "photos/0.jpg", "masks/0.png", "-o", "warm.jpg", "--overwrite", "ckpt={model.resolve()}"])
wall, cpu = time.perf_counter(), used()
main(["inpaint", "photos", "masks", "-o", "filled", "--overwrite", "ckpt={model.resolve()}"])
print(time.perf_counter() - wall, used() - cpu)
"""
    printed = python(program, folder=folder)
    wall, cpu = map(float, printed.split()[-2:])
    cores = usable_cores()
    return {"photos": count, "seconds": wall, "cpu seconds": cpu, "cores": cores, "busy": cpu / wall / cores}


def beside_classical(folder: Path, inpainters: dict[str, Inpainter], count: int) -> dict[str, Any]:
    """Seconds per picture and mean PSNR of the composite, in 8 bits, on the first pairs of a folder."""
    pairs = Pairs.open(folder)
    first = pairs.pairs[:count]
    images, masks = pairs.read(first)
    result: dict[str, Any] = {}
    methods = {name: Classical(name) for name in ("telea", "biharmonic")}
    for name, method in (inpainters | methods).items():
        seconds, figures = [], []
        for pair, image, mask in zip(first, images, masks, strict=True):
            start = time.perf_counter()
            if isinstance(method, Inpainter):
                filled = method(image, mask)
            else:
                known = torch.where(mask > 0, 0.0, image / 255)[None]
                filled = (method([pair.name], known, mask[None].float())[0] * 255).round().to(torch.uint8)
            seconds.append(time.perf_counter() - start)
            whole = torch.where(mask > 0, filled, image)
            figures.append(float(psnr(whole[None].float() / 255, image[None].float() / 255)))
        result[name] = {"seconds": statistics.mean(seconds[1:] or seconds), "PSNR": statistics.mean(figures)}
    return {"pairs": pairs.manifest.hash, "count": len(first), "size": pairs.manifest.size, "methods": result}


def random_model(width: int, path: Path) -> Path:
    """A safetensors file of an untrained model."""
    torch.manual_seed(0)
    module = InpaintModule(width=width)
    write_safetensors(module.state_dict(), ModelInfo("", dict(module.hparams), {"image_size": SIDE}), path)
    return path


def as_onnx(model: Path, path: Path) -> Path:
    """The same model as ONNX."""
    write_onnx(*read_module(model), path)
    return path


def as_int8(float32: Path, path: Path) -> Path:
    """The int8 form of an ONNX file, made with drawn faces."""
    write_int8(float32, path, *sample(None, Inpainter.from_checkpoint(float32, "cpu").info.side))
    return path


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    model = args.ckpt or random_model(args.width, folder / "model.safetensors")
    onnx_file = as_onnx(model, folder / "model.onnx")
    int8_file = as_int8(onnx_file, folder / "int8.onnx")
    threads = usable_cores()
    onnx = Inpainter.from_checkpoint(onnx_file, "cpu", threads)
    int8 = Inpainter.from_checkpoint(int8_file, "cpu", threads)
    pytorch = Inpainter.from_checkpoint(model, "cpu", threads)
    result: dict[str, Any] = {"model": onnx.info.hyper_parameters | {"trained at": onnx.info.side}}
    print("a small photo", file=sys.stderr, flush=True)
    result["small"] = small_photo(onnx, int8, pytorch, args.rounds)
    print("other sizes", file=sys.stderr, flush=True)
    one_thread = {
        f"{name}, 1 thread": Inpainter.from_checkpoint(file, "cpu", 1)
        for name, file in (("ONNX", onnx_file), ("int8", int8_file))
    }
    torch.set_num_threads(threads)
    result["by size"] = by_size({"ONNX": onnx, "int8": int8, "PyTorch": pytorch} | one_thread, min(3, args.rounds))
    print("a large photo", file=sys.stderr, flush=True)
    result["large"] = large_photo(onnx, args.rounds)
    print("memory", file=sys.stderr, flush=True)
    wide = random_model(args.memory_width, folder / "wide.safetensors")
    result["memory"] = {
        "PyTorch": peak_memory(folder, wide, args.megapixels),
        "ONNX": peak_memory(folder, as_onnx(wide, folder / "wide.onnx"), args.megapixels),
    }
    print("a folder", file=sys.stderr, flush=True)
    result["folder"] = folder_mode(folder, onnx_file, args.photos)
    if args.pairs:
        print("pairs", file=sys.stderr, flush=True)
        inpainters = {"Inpainter, ONNX": onnx, "Inpainter, ONNX, int8": int8, "Inpainter, PyTorch": pytorch}
        result["pairs"] = beside_classical(args.pairs, inpainters, args.count)
    figures = (
        result["small"]["seconds"]["ONNX"]["median"],
        result["small"]["seconds"]["ONNX, int8"]["median"],
        result["small"]["ratios"]["PyTorch over ONNX"],
        max(case["ratio"] for case in result["large"].values()),
        max(case["GB"] for case in result["memory"].values()),
        result["folder"]["busy"],
    )
    result["against the bars"] = dict(zip(BARS, figures, strict=True))
    result["machine"] = machine() | {"threads": threads, "load": os.getloadavg()[0], "onnxruntime": _ort_version()}
    return result


def _ort_version() -> str:
    import onnxruntime

    text: str = onnxruntime.__version__
    return text


def markdown(result: dict[str, Any], trained: bool) -> str:
    """The figures against the bars, the parts of the small photo, and the table of pairs."""
    lines = ["# Inpainting photos", "", "| | measured | wanted |", "|---|---:|---|"]
    lines += [
        f"| {name} | {result['against the bars'][name]:.2f} | {word} {bar:g} |" for name, (bar, word) in BARS.items()
    ]
    hole = result["small"]["hole"]
    lines += ["", f"Of the 512 x 512 photo {hole:.0%} is hole, in strokes. Seconds, warm:", ""]
    lines += ["| | median | least |", "|---|---:|---:|"]
    lines += [f"| {name} | {s['median']:.3f} | {s['least']:.3f} |" for name, s in result["small"]["seconds"].items()]
    kinds = list(result["by size"][0]["seconds"])
    lines += ["", "Seconds of a photo with a square hole, on all cores where no threads are named:", ""]
    lines += [f"| side, px | hole | {' | '.join(kinds)} |", f"|---:|---:|{'---:|' * len(kinds)}"]
    for row in result["by size"]:
        seconds = " | ".join(f"{row['seconds'][kind]:.2f}" for kind in kinds)
        lines.append(f"| {row['side']} | {row['hole']:.0%} | {seconds} |")
    lines += ["", "| 1 % of 12 MP is hole | 12 MP, s | 1 MP, s | ratio |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {case['12 MP s']:.2f} | {case['1 MP s']:.2f} | {case['ratio']:.2f} |"
        for name, case in result["large"].items()
    ]
    lines += ["", "| `wssl inpaint`, whole command | MP | hole | peak GB | s |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {name} | {case['megapixels']:.0f} | {case['hole']:.1%} | {case['GB']:.2f} | {case['seconds']:.0f} |"
        for name, case in result["memory"].items()
    ]
    if "pairs" in result:
        found = result["pairs"]
        lines += ["", f"On {found['count']} pairs of {found['size']} px (hash {found['pairs'][:16]}), composite:", ""]
        lines += ["| method | PSNR, dB | s per picture |", "|---|---:|---:|"]
        lines += [f"| {n} | {row['PSNR']:.2f} | {row['seconds']:.3f} |" for n, row in found["methods"].items()]
    weights = "a trained model" if trained else "random weights, which are as fast"
    about = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    return "\n".join([*lines, "", f"Width {result['model']['width']}, {weights}. Machine: {about}."]) + "\n"


def main() -> None:
    """Measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, help="the model; default: random weights")
    parser.add_argument("--width", type=int, default=16, help="of the random weights")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megapixels", type=float, default=50)
    parser.add_argument("--memory-width", type=int, default=32)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--pairs", type=Path, help="a folder of `wssl pairs`")
    parser.add_argument("--count", type=int, default=50, help="of the pairs")
    parser.add_argument("--name", help="of the files in --results; default: the tables are printed alone")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    text = markdown(result, trained=args.ckpt is not None)
    print(text)
    if args.name:
        args.results.mkdir(exist_ok=True)
        (args.results / f"{args.name}.json").write_text(json.dumps(result, indent=2) + "\n")
        (args.results / f"{args.name}.md").write_text(text)


if __name__ == "__main__":
    main()
