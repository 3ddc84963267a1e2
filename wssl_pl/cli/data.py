"""`wssl prepare`, `wssl masks stats` and `wssl masks make`."""

import time
from functools import partial
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from wssl_pl.cli.output import new_folder, own_file
from wssl_pl.errors import DataError, WSSLError
from wssl_pl.files import writing

LISTED = 10  # damaged masks that are named


def prepare(
    images: Path | None = None,
    out: Path | None = None,
    *,
    size: PositiveInt = 256,
    workers: NonNegativeInt | None = None,
    split_rule: str = "auto",
    resize_filter: Literal["lanczos", "bicubic", "bilinear", "area"] = "lanczos",
    format: Literal["cache", "shards"] = "cache",
    encoding: Literal["raw", "png", "jpeg", "file"] = "raw",
    chunk_size: PositiveInt = 256,
    check: bool = False,
) -> None:
    """Decode all images once into a cache, which training reads with `--data.images=CACHE`.

    Run again, it continues, or looks for images that have changed.

    Example:
        wssl prepare images=DIR out=CACHE
        wssl prepare images=DIR out=SHARDS format=shards
        wssl prepare --check out=CACHE

    Args:
        images: folder of images, or of Parquet files
        out: the folder of the cache or the shards
        size: height and width, in pixels
        workers: processes; default: one per core
        split_rule: how images are divided: auto, folders, celeba, hash, or a folder of file lists
        resize_filter: how images are resized
        format: one array (cache), or chunks that can be read from a bucket too (shards)
        encoding: how shards store an image: pixels (raw), png, jpeg, or the file as it is, resized in training
        chunk_size: images per chunk of shards
        check: read the cache in out= again and compare it with its hashes
    """
    if out is None:
        raise WSSLError("out", None, "is required", "name the cache's folder")
    start = time.perf_counter()
    if check:
        from wssl_pl.data.cache import check_cache, looks_like_cache
        from wssl_pl.data.files import check_folder
        from wssl_pl.data.shards import check_shards, looks_like_shards

        check_folder("out", out, "name a cache or shards")
        if not (looks_like_shards(out) or looks_like_cache(out)):
            raise WSSLError("out", out, "is neither a cache nor shards", "name the out= of an earlier wssl prepare")
        checked = (check_shards if looks_like_shards(out) else check_cache)(out, progress=True)
        print(f"{out}: all {len(checked.entries)} images are as they were written", flush=True)
        return
    if images is None:
        raise WSSLError("images", None, "is required", "name a folder of images")
    if format == "cache":
        for name, value, default in (("encoding", encoding, "raw"), ("chunk_size", chunk_size, 256)):
            if value != default:
                raise WSSLError(name, value, "is for shards", "add format=shards, or omit it")
    if encoding == "file":
        for name, value, default in (("size", size, 256), ("resize_filter", resize_filter, "lanczos")):
            if value != default:
                raise WSSLError(name, value, "encoding=file stores the files as they are", "omit one of the two")
    from wssl_pl.data.cache import describe_duplicates, duplicates
    from wssl_pl.data.prepare import prepare

    if format == "shards":
        from wssl_pl.data.prepare_shards import prepare_shards

        prepare = partial(prepare_shards, encoding=encoding, chunk_size=chunk_size)
    report = prepare(images, out, size, workers, split_rule, progress=True, resize_filter=resize_filter)
    seconds = time.perf_counter() - start
    cache = report.cache
    if report.differences is not None:
        print(f"Since the last time: {report.differences}")
    if cache.skipped:
        print(f"Skipped {len(cache.skipped)} files that cannot be decoded:")
        print("\n".join(f"  {item.source!r}: {item.reason}" for item in cache.skipped))
    if counts := duplicates(cache.entries):
        print(f"Warning: {describe_duplicates(counts)}")
    size_text = "any size" if cache.size is None else f"{cache.size} px"
    splits = ", ".join(f"{name} {count}" for name, count in cache.sizes().items())
    print(
        f"{out}: {len(cache.entries)} images of {size_text} ({splits}) from {cache.layout}, "
        f"split by {cache.split_rule}, in {seconds:.1f} s\nTrain from it with --data.images={out}",
        flush=True,
    )


def masks_stats(
    masks: Path,
    *,
    out: Path = Path("mask_ratios.png"),
    size: PositiveInt = 224,
    dilate: NonNegativeInt = 0,
    overwrite: bool = False,
) -> None:
    """Print and draw the hole ratios of a folder of masks, with black and with white as the hole.

    Example:
        wssl masks stats data/qd_imd out=mask_ratios.png

    Args:
        masks: folder of masks
        out: the histogram, an image file
        size: the model's size in pixels, at which holes are measured
        dilate: pixels by which holes are widened
        overwrite: replace a file that exists
    """
    from wssl_pl.data.files import check_folder, list_images

    check_folder("masks", masks)
    with writing("out", out):
        out.parent.mkdir(parents=True, exist_ok=True)
    from wssl_pl.data.mask_stats import draw, measure, table

    with own_file(out, overwrite):
        files = list_images(masks, "masks")
        if not files:
            raise DataError("masks", masks, "holds no JPEG, PNG or WebP file")
        scans = measure(masks, files, size, dilate)
        print(table(scans))
        scan = scans["black"]
        if scan.non_binary:
            print(f"Warning: {scan.non_binary} of {len(files)} masks are not black and white alone: binarised at half")
        for file, why in scan.damaged[:LISTED]:
            print(f"Omitted: {file} {why}")
        if len(scan.damaged) > LISTED:
            print(f"Omitted: {len(scan.damaged) - LISTED} more damaged files")
        print(f"Drawn to {draw(scans, out, masks)}", flush=True)


def masks_make(
    *, out: Path, count: PositiveInt, drawings: Path | None = None, seed: NonNegativeInt = 0, overwrite: bool = False
) -> None:
    """Draw masks by the recipe of QD-IMD: strokes of a person's hand, black on white; black is the hole.

    Example:
        wssl masks make out=MASKS count=12000

    Args:
        out: folder for train/ and test/
        count: number of masks, of which a sixth are for testing
        drawings: Quick, Draw! file of drawings (.ndjson); default: smooth random strokes
        seed: another seed draws other masks
        overwrite: replace masks that exist
    """
    from wssl_pl.data.mask_maker import DrawnStrokes, make_masks, random_strokes

    strokes = DrawnStrokes(drawings) if drawings is not None else random_strokes
    with new_folder(out, overwrite, {"train", "test"}) as folder:
        counts = make_masks(folder, count, strokes, seed, progress=True)
    print(f"{out}: {counts['train']} masks in train, {counts['test']} in test; black is the hole", flush=True)
