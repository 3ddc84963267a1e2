"""Mean fill, Telea, Navier-Stokes and biharmonic on test faces, and models beside them, as one table.

    python benchmarks/classical.py --data DIR --size 224 --ckpt "WSSL=runs/downstream/<run>/best.ckpt" --name faces_224

Two protocols on the same faces: QD-style masks of 30 to 50 %, and NVIDIA's masks from 0 to 60 % by bin. Each method's
result is kept below `--work`, where the same call finds it; `--limit` takes the first pairs alone, `--slow-limit` those
of the slow methods, biharmonic and FSR. Without `--data` the synthetic dataset is measured; LPIPS where WSSL_WEIGHTS
names a folder with its weights. With `--name` it writes `NAME.md` and `NAME.json` in benchmarks/results.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wssl_pl.data import WSSLDataModule
from wssl_pl.evaluation.classical import CLASSICAL, missing_package
from wssl_pl.evaluation.compare import compare
from wssl_pl.evaluation.evaluate import Settings, evaluate, machine
from wssl_pl.evaluation.methods import Classical, Method, Model
from wssl_pl.evaluation.pages import markdown
from wssl_pl.evaluation.pairs import Pairs, write_pairs
from wssl_pl.evaluation.report import interval, write_report
from wssl_pl.evaluation.results import Result, read_result
from wssl_pl.inference import Inpainter

SHOWN = {
    "psnr_composite": "PSNR composite", "ssim_composite": "SSIM composite", "ms_ssim_composite": "MS-SSIM composite",
    "lpips_composite": "LPIPS composite", "psnr_hole": "PSNR hole", "l1_hole": "L1 hole", "psnr": "PSNR raw",
    "ssim": "SSIM raw",
}  # fmt: skip
SLOW = ("biharmonic", "fsr_fast", "fsr_best")
GOOD_AT = """\
- **Mean fill** is the floor: one colour per image, no structure; whatever does not beat it in the hole has learnt
  nothing about the picture.
- **Telea** marches inwards from the border of the hole and averages what it knows: quick, good for thin strokes and
  scratches, smears that meet in streaks in wide holes.
- **Navier-Stokes** carries on the lines of equal brightness: thin holes across smooth edges; much like Telea elsewhere.
- **Biharmonic** solves for the smoothest surface through the border's values and slopes: the most exact of the four
  where shading is smooth, and the slowest; its wide holes are blurs or overshoot.
- None of them knows faces: in a hole that hides an eye or the mouth only a trained model puts one there, so judge wide
  holes by the pictures of the report and by figures of the hole, not by the PSNR of an image that is mostly known.
"""


def protocols(data: Path | None, size: int) -> dict[str, WSSLDataModule]:
    """The two sets of pairs by name."""
    resize = size * 256 // 224
    if data is None:
        settings: dict[str, Any] = {"images": "synthetic", "masks": "synthetic"}
        ranges = {"strokes of 30-50 %": (0.3, 0.5), "strokes of 5-60 %": (0.05, 0.6)}
        return {
            name: WSSLDataModule(**settings, hole_ratio=bounds, image_size=size, resize=resize)
            for name, bounds in ranges.items()
        }
    faces = str(data / "celeba_hq")
    return {
        "QD-style masks of 30-50 %": WSSLDataModule(
            faces, str(data / "qd_imd"), image_size=size, resize=resize, hole="black", hole_ratio=(0.3, 0.5)
        ),
        "NVIDIA masks of 0-60 %": WSSLDataModule(
            faces, str(data / "nvidia_masks"), image_size=size, resize=resize, hole="white", hole_ratio=(0.0, 0.6)
        ),
    }


class Photos:
    """A model as `wssl inpaint` uses it: a hole that is large for the model is filled at a coarser scale first."""

    def __init__(self, ckpt: str) -> None:
        self.name = f"{'/'.join(Path(ckpt).parts[-2:])} by wssl inpaint"
        self.inpainter, self.notes = Inpainter.from_checkpoint(ckpt), list[str]()

    def __call__(self, names: Sequence[str], images: Tensor, masks: Tensor) -> Tensor:
        """Return the filled images; see `wssl_pl.evaluation.methods.Method`."""
        bytes_of = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        filled = [
            self.inpainter(image, mask) for image, mask in zip(bytes_of, masks[:, 0].cpu().numpy() > 0.5, strict=True)
        ]
        return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).float() / 255

    def describe(self) -> dict[str, Any]:
        """Return what a result keeps of it."""
        return {"model": self.name}


def slug(name: str) -> str:
    """A name for a folder."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def measured(pairs: Pairs, name: str, make: Any, out: Path, limit: int | None, file: str | None = None) -> Result:
    """The result of one method, from an earlier run where it is of the same pairs, model file, and as many of them."""
    wanted = min(len(pairs), limit or len(pairs))
    summary = out / "summary.json"
    if summary.is_file() and (file is None or Path(file).stat().st_mtime < summary.stat().st_mtime):
        kept = read_result(out)
        if kept.pairs.hash == pairs.manifest.hash and kept.pairs.evaluated == wanted:
            print(f"{name}: kept from an earlier run", flush=True)
            return kept
    method: Method = make()
    print(f"{name}: {wanted} pairs", flush=True)
    settings = Settings(limit=limit, batch_size=8)
    result = evaluate(pairs, method, settings)
    write_report(result, out, pairs, method, settings.device)
    return result


def table(results: dict[str, Result]) -> str:
    """All images: one row per method."""
    rows = [["method", "n", *SHOWN.values(), "s per image"]]
    for name, result in results.items():
        entries = result.estimates["all"]
        cells = [interval(entries[metric], metric) or "-" if metric in entries else "-" for metric in SHOWN]
        rows.append([name, str(result.pairs.evaluated), *cells, f"{result.seconds_per_image:.3g}"])
    return markdown(rows)


def by_bin(results: dict[str, Result], metric: str) -> str:
    """One metric, one column per ratio bin."""
    groups = [group for group in next(iter(results.values())).counts if group != "all"]
    rows = [["method", *[f"{group} %" for group in groups]]]
    for name, result in results.items():
        found = result.estimates
        rows.append([name, *[interval(found[g][metric], metric) or "-" if g in found else "-" for g in groups]])
    return markdown(rows)


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=lambda text: Path(text).resolve(), help="folder with celeba_hq, qd_imd and nvidia_masks"
    )
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--slow-limit", type=int, help="pairs for biharmonic and FSR, if fewer")
    installed = [name for name in CLASSICAL if missing_package(name) is None]
    parser.add_argument("--methods", nargs="+", default=installed, choices=list(CLASSICAL))
    parser.add_argument("--ckpt", nargs="*", default=[], metavar="NAME=PATH", help="models to put beside them")
    parser.add_argument(
        "--inpaint", nargs="*", default=[], metavar="NAME=PATH", help="models as wssl inpaint uses them"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/classical"))
    parser.add_argument("--name", help="of the files in benchmarks/results; default: the tables are printed alone")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = "CelebA-HQ-mini test faces" if args.data else "the synthetic dataset's test faces"
    lines = [f"# Classical inpainting on {source}, {args.size} px", ""]
    result: dict[str, Any] = {"size": args.size, "source": source, "machine": machine(), "protocols": {}}
    for protocol, datamodule in protocols(args.data, args.size).items():
        folder = args.work / f"{slug(str(args.data or source))}_{args.size}" / slug(protocol)
        made = (folder / "pairs" / "manifest.json").is_file()
        pairs = Pairs.open(folder / "pairs") if made else write_pairs(datamodule, "test", folder / "pairs")
        summaries: dict[str, Result] = {}
        for name in args.methods:
            limit = args.slow_limit or args.limit if name in SLOW else args.limit
            out = folder / f"{name}_{limit or 'all'}"
            summaries[name] = measured(pairs, name, lambda name=name: Classical(name), out, limit)
        for entry in [*args.ckpt, *args.inpaint]:
            name, _, path = entry.rpartition("=")
            out = folder / f"{slug(name)}_{slug(path)}_{args.limit or 'all'}"
            make = Photos if entry in args.inpaint else partial(Model, device=device)
            summaries[name] = measured(pairs, name, partial(make, path), out, args.limit, path)
        lines += [f"## {protocol}", "", f"Pairs: hash {pairs.manifest.hash[:16]}, {len(pairs)} in all.", ""]
        lines += [table(summaries), ""]
        measures = next(iter(summaries.values())).table.metrics
        for figure in ("psnr_composite", "ssim_composite", "lpips_composite", "psnr_hole"):
            if figure not in measures:
                continue  # LPIPS without its weights
            lines += [f"{SHOWN[figure]} by hole ratio:", "", by_bin(summaries, figure), ""]
        same = [n for n, s in summaries.items() if s.pairs.evaluated == min(len(pairs), args.limit or len(pairs))]
        folders = [folder / _folder_of(n, args) for n in same]
        comparison = compare(folders) if len(folders) > 1 else None
        if comparison:
            rows = [["against " + same[0], "PSNR hole", "images won"]]
            for name, other in zip(same[1:], comparison.others, strict=True):
                cell = other.groups["all"]["psnr_hole"]
                span = f"{cell.difference:+.2f} [{cell.low:+.2f}, {cell.high:+.2f}]"
                rows.append([name, span, f"{cell.won:.0%}"])
            lines += ["Paired, image by image:", "", markdown(rows), ""]
        figures = {
            name: {
                "counts": one.counts,
                "figures": {group: {m: asdict(e) for m, e in row.items()} for group, row in one.estimates.items()},
                "seconds_per_image": one.seconds_per_image,
                "machine": asdict(one.machine),
            }
            for name, one in summaries.items()
        }
        result["protocols"][protocol] = {"pairs": pairs.manifest.hash, "methods": figures}
    known = result["machine"]
    lines += ["## What each is good at", "", GOOD_AT]
    lines += [
        "In brackets 95 % bootstrap intervals of the mean over images. Raw and composite of the classical methods are "
        "the same: they leave known pixels alone. Time is the method's own, on "
        f"{known['cores']} cores that did other work too (read it to a factor of a few), torch {known['torch']}.",
        "",
    ]
    print("\n".join(lines))
    if args.name:
        path = Path(__file__).parent / "results" / f"{args.name}.json"
        path.with_suffix(".md").write_text("\n".join(lines))
        path.write_text(json.dumps(result, indent=2) + "\n")


def _folder_of(name: str, args: argparse.Namespace) -> str:
    if name in args.methods:
        limit = args.slow_limit or args.limit if name in SLOW else args.limit
        return f"{name}_{limit or 'all'}"
    path = next(entry.rpartition("=")[2] for entry in [*args.ckpt, *args.inpaint] if entry.rpartition("=")[0] == name)
    return f"{slug(name)}_{slug(path)}_{args.limit or 'all'}"


if __name__ == "__main__":
    main()
