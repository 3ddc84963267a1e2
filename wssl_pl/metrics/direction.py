"""Which metrics are better when lower."""

LOWER = ("loss", "log_cosh", "lpips", "l1")


def is_lower_better(metric: str) -> bool:
    """Return whether lower values of a logged metric are better, by its name.

    Example:
        >>> is_lower_better("val/loss"), is_lower_better("val/psnr")
        (True, False)
    """
    return any(word in metric for word in LOWER)
