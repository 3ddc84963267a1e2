"""Blocks of a page that a benchmark writes, between a comment that names the benchmark and `<!-- end -->`."""

END = "<!-- end -->"


def fill_block(text: str, made_by: str, made: str) -> str:
    """Return a page with the block `<!-- made by MADE_BY -->` replaced.

    Raises:
        SystemExit: the page has no such block.
    """
    begin = f"<!-- made by {made_by} -->"
    before, found, rest = text.partition(begin)
    if not found:
        raise SystemExit(f"the page has no block {begin}")
    return f"{before}{begin}\n\n{made.strip()}\n\n{END}{rest.partition(END)[2]}"
