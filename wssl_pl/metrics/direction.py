"""Which metrics are better when lower."""

LOWER = {"loss", "cosh", "lpips", "l1", "fid", "kid"}


def is_lower_better(metric: str) -> bool:
    """Return whether lower values of a metric are better, by its name; a task or bin after it says nothing.

    Example:
        >>> is_lower_better("val/ssim_loss"), is_lower_better("val/log_cosh/ratio_30_40"), is_lower_better("l1_hole")
        (True, True, True)
        >>> is_lower_better("val/accuracy/gloss"), is_lower_better("psnr_composite")
        (False, False)
    """
    own = (metric.partition("/")[2] or metric).partition("/")[0]
    return not LOWER.isdisjoint(own.split("_"))
