"""The encoder that the downstream stage begins with: a pretext run's, or a new one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wssl_pl.errors import UsageError
from wssl_pl.modules.checkpoint import check_state, encoder_state, read_checkpoint
from wssl_pl.networks import Fill, UNetEncoder, initialise

DEFAULTS = {"width": 64, "norm": "none", "mask_channel": False, "fill": 0.0}
RGB = 3
FIRST_WEIGHT = "stages.0.first.conv.weight"


def take_encoder(
    ckpt: str | None,
    width: int | None,
    norm: str | None,
    mask_channel: bool | None,
    fill: Fill | None = None,
    init: str = "he",
) -> tuple[UNetEncoder, Fill]:
    """Return the encoder of the pretext checkpoint `ckpt`, or a new one for `none`, and what it sees in holes.

    What is None is as the checkpoint has it, or the default of a new encoder. An encoder that took RGB is given a
    mask channel by a fourth column of zeros in its first convolution: at first it does what it did without.

    Raises:
        UsageError: the checkpoint cannot be read, does not fit, or has another width or norm, or a mask channel that
            is not wanted.
    """
    pretext = None if ckpt in (None, "none") else read_checkpoint(str(ckpt), stage="pretext")
    taken = DEFAULTS | (pretext["hyper_parameters"] if pretext else {})
    width = _agreed("width", width, taken, pretext, ckpt)
    norm = _agreed("norm", norm, taken, pretext, ckpt)
    if not (mask_channel and not taken["mask_channel"]):
        mask_channel = _agreed("mask_channel", mask_channel, taken, pretext, ckpt)
    if width < 1:
        raise UsageError(f"model.width={width} must be at least 1")
    encoder = UNetEncoder(width, norm, in_channels=RGB + bool(mask_channel))
    if pretext is None and init != "he":
        initialise(encoder, init)
    if pretext:
        state = encoder_state(pretext, f"ckpt={ckpt}")
        if mask_channel and not taken["mask_channel"]:
            _add_mask_channel(state)
        check_state(encoder, state, f"ckpt={ckpt}")
        encoder.load_state_dict(state)
    return encoder, taken["fill"] if fill is None else fill


def check_training(encoder: UNetEncoder, settings: Mapping[str, Any], ckpt: str | None) -> None:
    """Raises `UsageError` for settings of the encoder's training that are wrong or could have no effect.

    Args:
        encoder: frozen as far as `freeze_layers` says.
        settings: `freeze_layers`, `unfreeze_epoch`, `encoder_lr` and `consistency`.
        ckpt: the pretext checkpoint that it was taken from, if any.
    """
    unfreeze_epoch, consistency = settings["unfreeze_epoch"], settings["consistency"]
    frozen = f"freeze_layers={settings['freeze_layers']}"
    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    if not 0.0 <= consistency < float("inf"):
        raise UsageError(f"model.consistency={consistency} must be a number, 0 or more")
    if unfreeze_epoch is not None:
        if unfreeze_epoch < 1:
            raise UsageError(f"model.unfreeze_epoch={unfreeze_epoch} must be at least 1; or give freeze_layers=0")
        if all(trained):
            raise UsageError(f"model.unfreeze_epoch={unfreeze_epoch}: {frozen} freezes nothing; leave it out")
        return
    for name, default in (("encoder_lr", None), ("consistency", 0.0)):
        if settings[name] != default and not any(trained):
            raise UsageError(f"model.{name}={settings[name]}: {frozen} freezes the whole encoder; give fewer layers")
    first = encoder.get_parameter(FIRST_WEIGHT)
    taken = ckpt not in (None, "none")
    if taken and encoder.in_channels > RGB and not first.requires_grad and not first[:, RGB:].any():
        raise UsageError(
            f"model.mask_channel=true: ckpt= has an encoder without, and {frozen} freezes the weights of 0 for it; "
            "give freeze_layers=0, or a pretext checkpoint that has one"
        )


def _add_mask_channel(state: dict[str, Tensor]) -> None:
    weight = state.get(FIRST_WEIGHT)
    if weight is not None and weight.shape[1] == RGB:
        state[FIRST_WEIGHT] = torch.cat([weight, torch.zeros_like(weight[:, :1])], dim=1)


def _agreed(name: str, typed: Any, taken: dict[str, Any], pretext: dict[str, Any] | None, ckpt: str | None) -> Any:
    """The setting of the checkpoint's encoder, unless what was typed contradicts it."""
    if typed is None or typed == taken[name]:
        return taken[name]
    if pretext is None:
        return typed
    raise UsageError(f"model.{name}={typed}, but the encoder of ckpt={ckpt} has {name} {taken[name]}: leave it out")
