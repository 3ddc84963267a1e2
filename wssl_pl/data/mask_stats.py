"""Hole ratios of a folder of masks, read with either polarity."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wssl_pl.data.masks import MaskIndex, MaskScan, histogram, scan_masks
from wssl_pl.drawing import new_figure, save_figure

POLARITIES = ("black", "white")


def measure(folder: Path, files: Sequence[Path], size: int, dilate: int) -> dict[str, MaskScan]:
    """Scan all masks once with black and once with white as the hole; the index beside them is used and kept."""
    scans = {}
    for hole in POLARITIES:
        index = MaskIndex(folder, size, hole, dilate)
        # Bounds that nothing fits: the masks themselves are not wanted.
        scans[hole] = scan_masks(files, size, hole, (2.0, 2.0), dilate, index)
        index.save(files)
    return scans


def table(scans: Mapping[str, MaskScan]) -> str:
    """Return the histograms as text, a line per step, and the fraction between 30 and 50 %."""
    lines = [f"{'hole':>10}" + "".join(f"{f'hole={hole}':>14}" for hole in scans)]
    columns = [histogram(scan.ratios) for scan in scans.values()]
    for step in range(10):
        lines.append(f"{f'{10 * step}-{10 * step + 10} %':>10}" + "".join(f"{column[step]:>14}" for column in columns))
    total = max(1, len(next(iter(scans.values())).ratios))
    within = [int(((scan.ratios >= 0.3) & (scan.ratios <= 0.5)).sum()) for scan in scans.values()]
    lines.append(f"{'30-50 %':>10}" + "".join(f"{f'{count} ({count / total:.0%})':>14}" for count in within))
    return "\n".join(lines)


def draw(scans: Mapping[str, MaskScan], path: Path, folder: Path) -> Path:
    """Draw the histograms, one panel per polarity, the paper's range shaded, and return the path."""
    figure = new_figure(9, 3.2)
    axes = figure.subplots(1, len(scans), sharey=True)
    for axis, (hole, scan) in zip(axes, scans.items(), strict=True):
        axis.axvspan(30, 50, color="0.92", zorder=0)
        axis.hist(100 * scan.ratios, bins=range(0, 101, 5), color="0.3")
        axis.set(title=f"data.hole={hole}", xlabel="hole, % of the image", xlim=(0, 100))
    axes[0].set_ylabel("masks")
    figure.suptitle(f"{folder}: {len(next(iter(scans.values())).ratios)} masks")
    save_figure(figure, path)
    return path
