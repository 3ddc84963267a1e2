"""Image quality per image: PSNR, SSIM and MS-SSIM in float32, whatever the precision of training."""

from wssl_pl.metrics.binned import BinnedMetrics
from wssl_pl.metrics.composite import composite
from wssl_pl.metrics.direction import is_lower_better
from wssl_pl.metrics.hole import HolePSNR
from wssl_pl.metrics.inpainting import InpaintingMetrics, image_metrics
from wssl_pl.metrics.mean import Mean, RunningMean
from wssl_pl.metrics.ms_ssim import ms_ssim
from wssl_pl.metrics.psnr import psnr, psnr_hole
from wssl_pl.metrics.rankme import RankMe, rankme
from wssl_pl.metrics.ssim import ssim, ssim_map

__all__ = [
    "BinnedMetrics",
    "HolePSNR",
    "InpaintingMetrics",
    "Mean",
    "RankMe",
    "RunningMean",
    "composite",
    "image_metrics",
    "is_lower_better",
    "ms_ssim",
    "psnr",
    "psnr_hole",
    "rankme",
    "ssim",
    "ssim_map",
]
