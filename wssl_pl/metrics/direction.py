"""Which metrics are better when lower."""

LOWER = ("loss", "log_cosh", "lpips", "l1", "fid", "kid")


def is_lower_better(metric: str) -> bool:
    """Return whether lower values of a metric are better, by its name; a task or bin after it says nothing.

    Example:
        >>> is_lower_better("val/loss/rotation"), is_lower_better("val/accuracy/gloss")
        (True, False)
    """
    return (metric.partition("/")[2] or metric).startswith(LOWER)
