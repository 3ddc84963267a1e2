"""Re-hash a cache."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from wssl_pl.data.cache import HEADER_BYTES, Cache


def damaged_images(cache: Cache, progress: bool = False) -> Iterator[str]:
    """Names of the images whose pixels are not what was written, and of skipped files whose rows are not zero.

    Args:
        cache: An opened cache: its manifest, index and lengths are in order.
        progress: Show a progress bar where there is a terminal.

    Raises:
        DataError: ``skipped.csv`` is not what it was.
    """
    blank = hashlib.sha256(bytes(cache.row_bytes)).hexdigest()
    expected = [(f"the skipped file in row {row}", blank) for row in range(cache.rows)]
    for entry in cache.entries:
        expected[entry.row] = entry.source, entry.pixels_sha256
    cache.skipped()
    file = os.open(cache.array_path, os.O_RDONLY)

    def sound(row: int) -> bool:
        # Hashing leaves the interpreter free, so that threads keep all cores busy.
        pixels = os.pread(file, cache.row_bytes, HEADER_BYTES + row * cache.row_bytes)
        return hashlib.sha256(pixels).hexdigest() == expected[row][1]

    try:
        with ThreadPoolExecutor() as pool:
            results = pool.map(sound, range(cache.rows))
            for row, good in enumerate(
                tqdm(results, total=cache.rows, unit=" images", disable=None if progress else True)
            ):
                if not good:
                    yield expected[row][0]
    finally:
        os.close(file)


def check_cache(folder: Path, progress: bool = False) -> Cache:
    """Open a cache and re-hash it.

    Raises:
        DataError: Anything in it is not as it was written; the message names the first images that are hit.
    """
    cache = Cache(folder)
    damaged = list(damaged_images(cache, progress))
    if damaged:
        names = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
        raise cache.error(f"is damaged ({len(damaged)} of {cache.rows} rows are not what they were: {names})")
    return cache
