"""`wssl pairs`: a folder of fixed (image, mask) pairs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from wssl_pl.cli.grammar import read_words
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.options import DATA_ALIASES, check_new_out, new_parser, parse, refuse_positional
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError


def run(args: Sequence[str]) -> Any:
    """Runs `wssl pairs` with the arguments after the verb and returns the pairs.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    from wssl_pl.evaluation.pairs import write_named_pairs, write_pairs

    words = read_words(args, DATA_ALIASES | {"limit": "data.limit"})
    refuse_positional(words)
    parser = new_parser("pairs", "Writes one fixed list of images and masks, as PNG, for any program to run on.")
    parser.add_argument("--split", type=str, default="test", help="train, val or test")
    parser.add_argument("--out", type=str | None, default=None, help="the folder to write, new or empty")
    by = "draw: masks are drawn for the images of a split; name: the mask of an image has its file name"
    parser.add_argument("--by", type=Literal["draw", "name"], default="draw", help=by)
    parser.add_class_arguments(WSSLDataModule, "data")
    config = parse(parser, words)
    out = check_new_out(config.out, "pairs")
    silence_messages()
    if config.by == "name":
        data = config.data
        if data.images is None or data.masks is None:
            raise WSSLError("by", "name", "needs images= and masks=")
        pairs = write_named_pairs(data.images, data.masks, out, data.hole)
    else:
        pairs = write_pairs(parser.instantiate_classes(config).data, config.split, out)
    counts = sorted(Counter(pair.bin for pair in pairs.pairs).items())
    print(f"{len(pairs)} pairs in {out}: " + ", ".join(f"{name} %: {count}" for name, count in counts))
    print(f"Hash {pairs.manifest['hash']}", flush=True)
    return pairs
