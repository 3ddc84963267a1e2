"""Image quality per image: PSNR, SSIM and MS-SSIM in float32, whatever the precision of training."""

from wssl_pl.metrics.binned import BinnedMetrics
from wssl_pl.metrics.composite import composite
from wssl_pl.metrics.inpainting import InpaintingMetrics, image_metrics
from wssl_pl.metrics.mean import Mean, RunningMean
from wssl_pl.metrics.ms_ssim import ms_ssim
from wssl_pl.metrics.psnr import psnr
from wssl_pl.metrics.ssim import ssim, ssim_map

__all__ = [
    "BinnedMetrics",
    "InpaintingMetrics",
    "Mean",
    "RunningMean",
    "composite",
    "image_metrics",
    "ms_ssim",
    "psnr",
    "ssim",
    "ssim_map",
]
