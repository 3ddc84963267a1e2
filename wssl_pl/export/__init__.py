"""Trained models for use elsewhere: ONNX, and safetensors with a model card."""

from typing import TYPE_CHECKING, Any

from wssl_pl.errors import WSSLError

if TYPE_CHECKING:
    from wssl_pl.export.hub import HubModel

__all__ = ["HubModel"]


def __getattr__(name: str) -> Any:
    # huggingface_hub is an extra, and nothing else here needs it.
    if name == "HubModel":
        try:
            from wssl_pl.export.hub import HubModel
        except ImportError as error:
            if error.name != "huggingface_hub":
                raise
            raise WSSLError(None, None, "HubModel needs huggingface_hub", "pip install 'wssl-pl[hub]'") from None
        return HubModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
