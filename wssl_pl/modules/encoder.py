"""The encoder of a module: the package's own, one by class path, or that of a checkpoint that training starts from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wssl_pl.errors import WSSLError
from wssl_pl.modules.checkpoint import check_state, encoder_state, part_of, read_checkpoint, read_safetensors
from wssl_pl.modules.optimizer import check_factor
from wssl_pl.networks import WIDTH, Encoder, UNetDecoder, UNetEncoder, initialise
from wssl_pl.networks.encoder import LEVELS
from wssl_pl.plugins import find_class, import_class
from wssl_pl.records import read_settings

DEFAULTS = {
    "encoder": None,
    "width": WIDTH,
    "norm": "none",
    "block": "plain",
    "mask_channel": False,
    "fill": 0.0,
}
"""The settings that a downstream module takes from the checkpoint that it starts from."""
OF_MODEL = {"output": "image", "context": "none", "context_levels": 1}
"""Those that it takes from a finished model alone."""
IMAGE_CHANNELS = 3
MIN_DECODER_WIDTH = 16
"""Feature maps of a decoder's stage, at least, beside an encoder whose skips may have as few as an image has."""
FIRST_WEIGHT = "stages.0.first.conv.weight"
OF_INPUT = (FIRST_WEIGHT, "stages.0.shortcut.weight")
"""The weights that the input is multiplied by; a residual stage has the second."""
PROBE_SIZE = 64
"""Side in pixels of the image with which the shapes of an encoder's outputs are checked."""


def import_encoder(path: str) -> type[Encoder]:
    """Return the encoder of a class path that the user typed; its module is imported.

    Raises:
        WSSLError: the module cannot be imported, or has no such class.
    """
    return import_class("encoder", path, Encoder)


def encoder_path(encoder: str | type[Encoder] | None) -> str | None:
    """Return the class path of an encoder that is given by it or, in Python, as a class."""
    return f"{encoder.__module__}.{encoder.__qualname__}" if isinstance(encoder, type) else encoder


def make_encoder(
    encoder: str | type[Encoder] | None,
    width: int,
    norm: str,
    mask_channel: bool,
    block: str = "plain",
    strengths: int = 0,
) -> Encoder:
    """Return a new encoder.

    Args:
        encoder: an encoder of the user's own, as a class or by the class path of one that is imported already; None for
            `UNetEncoder`.
        width: of a `UNetEncoder`; another encoder has its own.
        norm: of a `UNetEncoder`; another encoder has its own.
        mask_channel: whether it takes the mask as a fourth channel.
        block: of a `UNetEncoder`; another encoder has its own.
        strengths: how many channels come after these, with the strengths of damages.

    Raises:
        WSSLError: there is no such encoder, or it does not keep to the interface (`docs/add_an_encoder.md`).
    """
    in_channels = IMAGE_CHANNELS + bool(mask_channel) + strengths
    path = encoder_path(encoder)
    if path is None:
        return UNetEncoder(width, norm, in_channels, block)
    kind = encoder if isinstance(encoder, type) else find_class("encoder", path, Encoder)
    if width != WIDTH:
        raise WSSLError("width", width, f"encoder={path} has its own width", "omit width")
    try:
        made = kind(in_channels=in_channels)
    except TypeError as error:
        raise WSSLError("encoder", path, f"cannot be built with in_channels={in_channels}: {error}") from None
    _check_interface(made, path, in_channels)
    return made


def make_decoder(channels: Sequence[int], norm: str, block: str, encoder: object) -> UNetDecoder:
    """Return a new decoder for an encoder's `out_channels`; `encoder` is None for the package's own."""
    return UNetDecoder(channels, norm, min_width=1 if encoder is None else MIN_DECODER_WIDTH, block=block)


def read_start(ckpt: str | None, reuse: str, mmap: bool = False) -> dict[str, Any] | None:
    """Return the checkpoint from which a downstream stage starts; None for `none`.

    Args:
        ckpt: a pretext checkpoint; with `reuse=all` also a finished downstream model, `.ckpt` or `.safetensors`.
        reuse: `encoder` or `all`.
        mmap: for a look at the settings; see `read_checkpoint`.

    Raises:
        WSSLError: it cannot be read, is of another stage, or there is none to take everything from.
    """
    everything = reuse == "all"
    if ckpt in (None, "none"):
        if everything:
            raise WSSLError("reuse", "all", "there is no checkpoint to take a decoder from", "give ckpt=")
        return None
    if not everything or Path(ckpt).suffix.lower() != ".safetensors" or not Path(ckpt).is_file():
        return read_checkpoint(ckpt, stage=("pretext", "downstream") if everything else "pretext", mmap=mmap)
    state, metadata = read_safetensors(Path(ckpt), info_only=mmap)
    try:
        settings, _, stage = read_settings(metadata)
    except ValueError as error:
        raise WSSLError("ckpt", ckpt, f"does not say its network: {error}") from None
    if stage != "downstream":
        raise WSSLError("ckpt", ckpt, f"is a model of stage={stage}; one of stage=downstream is needed")
    return {"stage": stage, "hyper_parameters": settings, "state_dict": state}


def load_decoder(decoder: UNetDecoder, start: dict[str, Any], ckpt: str | None) -> None:
    """Give a decoder the weights of that in a checkpoint.

    Raises:
        WSSLError: it has no decoder, or not the same one.
    """
    state = part_of(start, "decoder.")
    if not state:
        remedy = "train it with decoder=true, or give reuse=encoder"
        raise WSSLError("reuse", "all", f"ckpt={ckpt} has no decoder", remedy)
    check_state(decoder, state, "ckpt", ckpt)
    decoder.load_state_dict(state)


def model_settings(start: dict[str, Any] | None, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all settings in `OF_MODEL`; those that are None are taken from a finished model.

    Raises:
        WSSLError: one contradicts those of the model.
    """
    saved = OF_MODEL | (start["hyper_parameters"] if start and start["stage"] == "downstream" else {})
    settings = {name: saved[name] if typed[name] is None else typed[name] for name in OF_MODEL}
    if start and start["stage"] == "downstream":
        # Context blocks may be added: they change nothing at first.
        for name in OF_MODEL if saved["context"] != "none" else ("output",):
            if settings[name] != saved[name]:
                raise WSSLError(name, settings[name], f"the model has {name}={saved[name]}", "omit it")
    return settings


def load_model(decoder: UNetDecoder, contexts: nn.Module, start: dict[str, Any], ckpt: str | None) -> None:
    """Give decoder and context blocks the weights of a finished model; blocks that it has not stay as they are.

    Raises:
        WSSLError: a network is another one.
    """
    load_decoder(decoder, start, ckpt)
    if state := part_of(start, "contexts."):
        check_state(contexts, state, "ckpt", ckpt)
        contexts.load_state_dict(state)


def _check_interface(encoder: Encoder, path: str, in_channels: int) -> None:
    parts = {id(parameter) for layer in encoder.layers() for parameter in layer.parameters()}
    if any(id(parameter) not in parts for parameter in encoder.parameters()):
        raise WSSLError("encoder", path, "has parameters that are in none of its layers()")
    encoder.eval()
    with torch.no_grad():
        features, skips = encoder(torch.zeros(1, in_channels, PROBE_SIZE, PROBE_SIZE))
    encoder.train()
    found = [tuple(output.shape[1:]) for output in (*skips, features)]
    sides = [PROBE_SIZE >> level for level in range(LEVELS + 1)]
    expected = [(channels, side, side) for channels, side in zip(encoder.out_channels, sides, strict=False)]
    if len(encoder.out_channels) != len(sides) or found != expected:
        reason = f"an image of {PROBE_SIZE} px gives skips and features of the shapes {found}, not {expected}"
        raise WSSLError("encoder", path, reason, "see docs/add_an_encoder.md")


def load_encoder(
    start: dict[str, Any] | None, ckpt: str | None, typed: Mapping[str, Any], init: str, strengths: int = 0
) -> tuple[Encoder, dict[str, Any], str | None]:
    """Return the encoder of a checkpoint, or a new one, and its settings.

    An encoder that took RGB is given a mask channel, and channels of strengths, by columns of zeros in its first
    convolution: its outputs do not change at first.

    Args:
        start: the checkpoint, as `read_start` returns it; None for a new encoder.
        ckpt: where it comes from.
        typed: values of the settings in `DEFAULTS`; those that are None are taken from the checkpoint.
        init: the initialisation of a new `UNetEncoder`.
        strengths: how many channels with strengths of damages it takes beside the image and the mask.

    Returns:
        the encoder, the values of all settings in `DEFAULTS`, and the option that added channels to that of the
        checkpoint, `mask_channel` or `strength_channels`; None if none did.

    Raises:
        WSSLError: the checkpoint does not fit, or contradicts a typed setting.
    """
    saved = DEFAULTS | (start["hyper_parameters"] if start else {})
    kind = typed["encoder"] or saved["encoder"]
    settings = {name: saved[name] if typed[name] is None else typed[name] for name in DEFAULTS}
    settings["encoder"] = encoder_path(kind)
    adds_mask_channel = start is not None and settings["mask_channel"] and not saved["mask_channel"]
    added = "mask_channel" if adds_mask_channel else "strength_channels" if start and strengths else None
    if start and strengths and kind is not None:
        reason = f"the encoder of ckpt={ckpt} is {settings['encoder']}, to which no channels can be added"
        raise WSSLError("strength_channels", True, reason, "give ckpt=none")
    if start:
        # Norm and block beside an encoder by class path are those of the decoder alone.
        names = {"encoder", "width", "norm", "block", "mask_channel"} if kind is None else {"encoder", "mask_channel"}
        for name in sorted(names - {"mask_channel"} if kind is None and adds_mask_channel else names):
            if settings[name] != saved[name]:
                raise WSSLError(name, settings[name], f"the encoder of ckpt={ckpt} has {name}={saved[name]}", "omit it")
    width, norm, mask_channel, block = (settings[name] for name in ("width", "norm", "mask_channel", "block"))
    encoder = make_encoder(kind, width, norm, mask_channel, block, strengths)
    if start is None and init != "he" and kind is None:
        initialise(encoder, init)
    if start:
        state = encoder_state(start, ckpt)
        for key in OF_INPUT if added else ():
            if (weight := state.get(key)) is not None:
                zeros = weight.new_zeros(len(weight), adds_mask_channel + strengths, *weight.shape[2:])
                state[key] = torch.cat([weight, zeros], dim=1)
        check_state(encoder, state, "ckpt", ckpt)
        encoder.load_state_dict(state)
    return encoder, settings, added


def check_training(
    encoder: Encoder,
    freeze_layers: int,
    unfreeze_epoch: int | None,
    factors: Mapping[str, float | None],
    added: str | None,
) -> None:
    """Raise `WSSLError` for settings of the training of a frozen encoder that are wrong or could have no effect.

    Args:
        encoder: the encoder.
        freeze_layers: how many of its layers are frozen.
        unfreeze_epoch: the epoch from which on they are trained too.
        factors: what is of no use to an encoder that is frozen for ever, by name; 0 or None is off.
        added: the option that has added channels to the encoder, if any.
    """
    frozen = f"freeze_layers={freeze_layers}"
    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    for name, value in factors.items():
        check_factor(name, value or 0.0)
    if unfreeze_epoch is not None:
        if unfreeze_epoch < 1:
            raise WSSLError("unfreeze_epoch", unfreeze_epoch, "must be at least 1", "or give freeze_layers=0")
        if all(trained):
            raise WSSLError("unfreeze_epoch", unfreeze_epoch, f"{frozen} freezes nothing", "omit it")
        return
    for name, value in factors.items():
        if value and not any(trained):
            raise WSSLError(name, value, f"{frozen} freezes the whole encoder", "freeze fewer layers")
    if added and not encoder.get_parameter(FIRST_WEIGHT).requires_grad:
        reason = f"the encoder of ckpt= has none, and {frozen} freezes the weights of 0 for it"
        other = ", or a pretext checkpoint that has one" if added == "mask_channel" else ""
        raise WSSLError(added, True, reason, f"give freeze_layers=0{other}")
