"""The figures of each image, a batch at a time."""

from torch import Tensor

from wssl_pl.metrics import composite, psnr, psnr_hole
from wssl_pl.metrics.ms_ssim import SMALLEST, similarities

FIGURES = (
    "psnr", "psnr_composite", "ssim", "ssim_composite", "l1", "l1_composite", "ms_ssim", "ms_ssim_composite",
    "lpips", "lpips_composite", "psnr_hole", "l1_hole",
)  # fmt: skip
LOWER_IS_BETTER = frozenset({"l1", "l1_composite", "l1_hole", "lpips", "lpips_composite", "fid", "fid_composite"})
MS_SSIM_MISSING = f"not measured: five scales of an 11-pixel window need a side of at least {SMALLEST} px"


def as_picture(prediction: Tensor) -> Tensor:
    """Rounded to the 256 levels of a picture file, in [0, 1].

    A method has the same figures measured directly as through the files that it saved.
    """
    return prediction.float().clamp(0.0, 1.0).mul(255.0).round_().div_(255.0)


def measure(prediction: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """PSNR, SSIM, MS-SSIM and L1 of each image, raw and composited, and PSNR and L1 of the hole alone.

    Args:
        prediction: `(B, 3, H, W)` in [0, 1].
        image: the truth, the same shape.
        mask: `(B, 1, H, W)`, 1 = hole.

    Returns:
        by name `(B,)` float32. PSNR is infinite where the pixels are identical, the figures of the hole are NaN
        without a hole, MS-SSIM is NaN below a side of 176 px.
    """
    filled = composite(prediction, image, mask)
    (raw_ssim, raw_ms), (filled_ssim, filled_ms) = similarities([prediction, filled], image)
    hole = (mask > 0.5).float()
    error = (prediction - image) * hole
    pixels = hole.sum(dim=(1, 2, 3)) * image.shape[1]
    return {
        "psnr": psnr(prediction, image),
        "psnr_composite": psnr(filled, image),
        "ssim": raw_ssim,
        "ssim_composite": filled_ssim,
        "l1": (prediction - image).abs().mean(dim=(1, 2, 3)),
        "l1_composite": (filled - image).abs().mean(dim=(1, 2, 3)),
        "ms_ssim": raw_ms,
        "ms_ssim_composite": filled_ms,
        "psnr_hole": psnr_hole(prediction, image, mask),
        "l1_hole": error.abs().sum(dim=(1, 2, 3)) / pixels,
    }
