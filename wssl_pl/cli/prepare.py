"""`wssl prepare`: decode all images once into a cache that training reads at the speed of memory."""

import time
from collections.abc import Sequence
from pathlib import Path

from wssl_pl.cli.verb_words import Options, flag, read_options
from wssl_pl.errors import UsageError

OPTIONS: Options = {
    "images": (Path, None, "folder of images, or of Parquet files"),
    "out": (Path, None, "the cache's folder"),
    "size": (int, 256, "height and width in pixels"),
    "workers": (int, None, "processes, one per core if left out"),
    "split": (str, "auto", "folders, celeba, hash, or a folder of file lists"),
    "resize_filter": (str, "lanczos", "lanczos, bicubic, bilinear or area"),
    "check": (flag, False, "re-hash the cache in out= instead"),
}
DESCRIPTION = "Decodes every image once into out=, for --data.images=. Run again, it goes on, or looks for changes."


def run(args: Sequence[str]) -> None:
    """Runs `wssl prepare` with the arguments after the verb.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    options = read_options("prepare", args, OPTIONS, ("images", "out"), DESCRIPTION)
    if options is None:
        return
    if options["out"] is None:
        raise UsageError("prepare needs out=: the folder of the cache")
    start = time.perf_counter()
    if options["check"]:
        from wssl_pl.data.cache import check_cache

        cache = check_cache(options["out"], progress=True)
        print(f"{options['out']}: all {len(cache.entries)} images are as they were written", flush=True)
        return
    if options["images"] is None:
        raise UsageError("prepare needs images=: a folder of images")
    from wssl_pl.data.cache import describe_duplicates
    from wssl_pl.data.prepare import prepare

    report = prepare(
        options["images"],
        options["out"],
        options["size"],
        options["workers"],
        options["split"],
        progress=True,
        resize_filter=options["resize_filter"],
    )
    seconds = time.perf_counter() - start
    manifest = report.cache.manifest
    if report.differences is not None:
        print(f"Since the last time: {report.differences}")
    if report.skipped:
        print(f"Skipped {len(report.skipped)} files that cannot be decoded:")
        print("\n".join(f"  {item.source!r}: {item.reason}" for item in report.skipped))
    if report.duplicates:
        print(f"Warning: {describe_duplicates(report.duplicates)}")
    splits = ", ".join(f"{name} {count}" for name, count in manifest["splits"].items())
    print(
        f"{options['out']}: {manifest['count']} images of {manifest['size']} px ({splits}) from {manifest['layout']}, "
        f"split by {manifest['split_rule']}, in {seconds:.1f} s\nTrain from it with --data.images={options['out']}",
        flush=True,
    )
