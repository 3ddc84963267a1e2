"""Image quality per image: PSNR and SSIM in float32, whatever the precision of training."""

from wssl_pl.metrics.composite import composite
from wssl_pl.metrics.inpainting import InpaintingMetrics
from wssl_pl.metrics.psnr import psnr
from wssl_pl.metrics.ssim import ssim, ssim_map

__all__ = ["InpaintingMetrics", "composite", "psnr", "ssim", "ssim_map"]
