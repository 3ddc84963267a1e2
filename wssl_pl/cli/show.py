"""`wssl show data`: a batch as training gets it, as a picture that a person can check."""

from collections.abc import Sequence
from pathlib import Path

from wssl_pl.cli.grammar import check_known, complete_lists, first_lines, read_words
from wssl_pl.errors import UsageError

SPLITS = {"train": "train", "val": "validate", "test": "test"}


def run(args: Sequence[str]) -> Path | None:
    """Runs `wssl show` with the arguments after the verb and returns the picture's path.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    # Here, as the other verbs' help would wait for them.
    from jsonargparse import ArgumentError, ArgumentParser

    from wssl_pl.cli.messages import silence_messages
    from wssl_pl.data import WSSLDataModule

    words = read_words(args)
    asks_help = any(key in ("help", "h") for key, _ in words.options)
    if words.positional != ["data"] and not asks_help:
        raise UsageError("say what to show: show data")
    parser = ArgumentParser(
        prog="train.py show data",
        description="Draws a batch straight from the loader.",
        exit_on_error=False,
        default_env=True,
        env_prefix="WSSL",
    )
    parser.add_argument("--out", type=str, default="show_data.png", help="the picture")
    parser.add_argument("--from", type=str, default="train", help="train, val or test")
    parser.add_argument("--count", type=int, default=8, help="how many samples")
    parser.add_argument("--epoch", type=int, default=0, help="whose draws")
    parser.add_class_arguments(WSSLDataModule, "data")
    actions = {option.removeprefix("--"): action for action in parser._actions for option in action.option_strings}
    check_known(words, actions)
    complete_lists(words, actions)
    try:
        config = parser.parse_args(words.arguments())
    except ArgumentError as error:
        raise UsageError(first_lines(str(error))) from None
    split = config["from"]
    if split not in SPLITS:
        raise UsageError(f"from={split}: it must be train, val or test")
    if config.count < 1 or config.epoch < 0:
        raise UsageError(f"count={config.count} epoch={config.epoch}: at least 1, and not negative")
    silence_messages()
    from wssl_pl.data.show import draw_batch, first_batch

    module = parser.instantiate_classes(config).data
    batch = first_batch(module, split, SPLITS[split], config.count, config.epoch)
    path = draw_batch(module, batch, Path(config.out), f"{module.images}, {split}, epoch {config.epoch}")
    print(f"Drawn to {path}", flush=True)
    return path
