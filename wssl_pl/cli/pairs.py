"""`wssl pairs`: a folder of fixed (image, mask) pairs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from wssl_pl.cli.grammar import read_words
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.options import DATA_ALIASES, check_new_out, new_parser, parse, refuse_positional
from wssl_pl.data import WSSLDataModule


def run(args: Sequence[str]) -> Any:
    """Runs `wssl pairs` with the arguments after the verb and returns the pairs.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    from wssl_pl.evaluation.pairs import write_pairs

    words = read_words(args, DATA_ALIASES | {"limit": "data.limit"})
    refuse_positional(words)
    parser = new_parser("pairs", "Writes one fixed list of images and masks, as PNG, for any program to run on.")
    parser.add_argument("--split", type=str, default="test", help="train, val or test")
    parser.add_argument("--out", type=str | None, default=None, help="the folder to write, new or empty")
    parser.add_class_arguments(WSSLDataModule, "data")
    config = parse(parser, words)
    out = check_new_out(config.out, "pairs")
    datamodule = parser.instantiate_classes(config).data
    silence_messages()
    pairs = write_pairs(datamodule, config.split, out)
    counts = sorted(Counter(pair.bin for pair in pairs.pairs).items())
    print(f"{len(pairs)} pairs in {out}: " + ", ".join(f"{name} %: {count}" for name, count in counts))
    print(f"Hash {pairs.manifest['hash']}", flush=True)
    return pairs
