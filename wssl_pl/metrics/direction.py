"""Which metrics are better when lower."""

LOWER = ("loss", "log_cosh", "lpips", "l1")


def is_lower_better(metric: str) -> bool:
    """Return whether lower values of a logged metric are better, by its name.

    Example:
        >>> [is_lower_better(name) for name in ("val/loss", "val/lpips_composite", "val/psnr")]
        [True, True, False]
    """
    return any(word in metric for word in LOWER)
