"""The metrics of each image: names, labels, and their computation for a batch."""

from torch import Tensor

from wssl_pl.metrics import composite, is_lower_better, psnr, psnr_hole
from wssl_pl.metrics.ms_ssim import SMALLEST, similarities

LABELS = {
    "psnr": "PSNR", "psnr_composite": "PSNR composite", "ssim": "SSIM", "ssim_composite": "SSIM composite",
    "l1": "L1", "l1_composite": "L1 composite", "ms_ssim": "MS-SSIM", "ms_ssim_composite": "MS-SSIM composite",
    "lpips": "LPIPS", "lpips_composite": "LPIPS composite", "psnr_hole": "PSNR hole", "l1_hole": "L1 hole",
    "psnr_known": "PSNR known", "l1_known": "L1 known",
    "fid": "FID", "fid_composite": "FID composite", "kid": "KID", "kid_composite": "KID composite",
}  # fmt: skip
METRICS = tuple(name for name in LABELS if not name.startswith(("fid", "kid")))
"""The metrics of an image, in the order of tables; FID and KID are those of a set of images."""
LOWER_IS_BETTER = frozenset(name for name in LABELS if is_lower_better(name))
MS_SSIM_MISSING = f"not measured: five scales of an 11-pixel window need a side of at least {SMALLEST} px"


def arrow(metric: str) -> str:
    """Return the label of a metric with the direction that is better."""
    return f"{LABELS[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def digits(metric: str) -> int:
    """Return the number of decimals that a report shows: 2 for PSNR and FID, 5 for KID, 4 for the others."""
    name = metric.removeprefix("val/")
    return 2 if name.startswith(("psnr", "fid")) else 5 if name.startswith("kid") else 4


def to_8_bit(prediction: Tensor) -> Tensor:
    """Return the prediction rounded to the 256 levels of an image file, in [0, 1].

    A method has the same metrics measured directly as through the files that it saved.
    """
    return prediction.float().clamp(0.0, 1.0).mul(255.0).round_().div_(255.0)


def measure(prediction: Tensor, image: Tensor, mask: Tensor, *, restored: bool = False) -> dict[str, Tensor]:
    """Return PSNR, SSIM, MS-SSIM and L1 of each image, raw and composited, and PSNR and L1 of the hole.

    Args:
        prediction: `(B, 3, H, W)` in [0, 1].
        image: the truth, the same shape.
        mask: `(B, 1, H, W)`, 1 = hole.
        restored: the input was damaged, so that its known pixels are not pasted back: there is no composite, and PSNR
            and L1 of the known part are returned too.

    Returns:
        By name `(B,)` float32. PSNR is infinite where the pixels are identical, the metrics of the hole are NaN
        without a hole, those of the known part without one, MS-SSIM is NaN below a side of 176 px.
    """
    outputs = {"": prediction} if restored else {"": prediction, "_composite": composite(prediction, image, mask)}
    hole = (mask > 0.5).float()
    values: dict[str, Tensor] = {}
    for (suffix, output), (ssim, ms_ssim) in zip(
        outputs.items(), similarities([*outputs.values()], image), strict=True
    ):
        l1 = (output - image).abs().mean(dim=(1, 2, 3))
        found = {"psnr": psnr(output, image), "ssim": ssim, "l1": l1, "ms_ssim": ms_ssim}
        values |= {f"{name}{suffix}": value for name, value in found.items()}
    for part, selected in {"hole": hole, "known": 1.0 - hole}.items() if restored else [("hole", hole)]:
        pixels = selected.sum(dim=(1, 2, 3)) * image.shape[1]
        values[f"psnr_{part}"] = psnr_hole(prediction, image, selected)
        values[f"l1_{part}"] = ((prediction - image) * selected).abs().sum(dim=(1, 2, 3)) / pixels
    return values
