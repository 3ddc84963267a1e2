"""`wssl masks stats` and `wssl masks make`."""

from collections.abc import Sequence
from pathlib import Path

from wssl_pl.cli.verb_words import Options, read_options
from wssl_pl.errors import DataError, UsageError

STATS: Options = {
    "masks": (Path, None, "folder of masks"),
    "out": (Path, None, "the picture; mask_ratios.png if left out"),
    "size": (int, 224, "the model's size in pixels, at which holes are measured"),
    "dilate": (int, 0, "pixels by which holes are widened"),
}
MAKE: Options = {
    "out": (Path, None, "folder for train/ and test/"),
    "count": (int, None, "how many masks, a sixth of them for testing"),
    "from": (Path, None, "Quick, Draw! file of drawings (.ndjson); smooth random strokes if left out"),
    "seed": (int, 0, "another seed draws other masks"),
}


def run(args: Sequence[str]) -> None:
    """Runs `wssl masks` with the arguments after the verb.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    verbs = {"stats": _stats, "make": _make}
    if not args or args[0] not in verbs:
        if args and args[0] in ("--help", "-h", "help"):
            _stats(["--help"])
            return _make(["--help"])
        raise UsageError("say masks stats DIR or masks make out=DIR count=N")
    verbs[args[0]](args[1:])
    return None


def _stats(args: Sequence[str]) -> None:
    options = read_options("masks stats", args, STATS, ("masks",), "Histogram of the hole ratios of a folder.")
    if options is None:
        return
    folder = options["masks"]
    if folder is None:
        raise UsageError("masks stats needs a folder: masks stats DIR")
    for name, least in (("size", 1), ("dilate", 0)):
        if options[name] < least:
            raise UsageError(f"{name}={options[name]}: it must be at least {least}")
    if not folder.is_dir():
        raise DataError(f"masks={folder} is not a folder" if folder.exists() else f"masks={folder} does not exist")
    from wssl_pl.data.files import list_images
    from wssl_pl.data.mask_stats import draw, measure, table

    files = list_images(folder, "masks")
    if not files:
        raise DataError(f"masks={folder} holds no JPEG, PNG or WebP file")
    scans = measure(folder, files, options["size"], options["dilate"])
    print(table(scans))
    scan = scans["black"]
    if scan.non_binary:
        print(f"Warning: {scan.non_binary} of {len(files)} masks are not black and white alone: binarised at half")
    for file, why in scan.damaged[:10]:
        print(f"Left out: {file} {why}")
    if len(scan.damaged) > 10:
        print(f"Left out: {len(scan.damaged) - 10} more damaged files")
    print(f"Drawn to {draw(scans, options['out'] or Path('mask_ratios.png'), folder)}", flush=True)


def _make(args: Sequence[str]) -> None:
    options = read_options("masks make", args, MAKE, (), "Draws masks by QD-IMD's recipe; black is the hole.")
    if options is None:
        return
    for name in ("out", "count"):
        if options[name] is None:
            raise UsageError(f"masks make needs {name}=: masks make out=DIR count=N")
    from wssl_pl.data.mask_maker import DrawnStrokes, RandomStrokes, make_masks

    strokes = DrawnStrokes(options["from"]) if options["from"] is not None else RandomStrokes()
    counts = make_masks(options["out"], options["count"], strokes, options["seed"], progress=True)
    print(
        f"{options['out']}: {counts['train']} masks in train, {counts['test']} in test; black is the hole", flush=True
    )
