"""Loading an exported folder, or the same from the Hugging Face Hub, in the Hub's own way."""

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download

from wssl_pl.errors import WSSLError
from wssl_pl.export.weights import write_folder
from wssl_pl.models import ModelInfo
from wssl_pl.models.weights import CONFIG, WEIGHTS, load_state, read_weights
from wssl_pl.modules import InpaintModule
from wssl_pl.modules.checkpoint import read_safetensors
from wssl_pl.modules.network import OF_NETWORK, OF_TRAINING


class HubModel(InpaintModule, PyTorchModelHubMixin):
    """An `InpaintModule` with `from_pretrained` and `save_pretrained`; called with images and masks like it.

    `from_pretrained` reads safetensors alone: a pickled `pytorch_model.bin` is never opened. A local folder is read
    without network.

    Example:
        >>> from wssl_pl.export import HubModel
        >>> model = HubModel.from_pretrained("folder")    # doctest: +SKIP
    """

    learnt_from: dict[str, Any]
    """What the file says about the training data."""

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubModel":
        """Called by `from_pretrained`, with the settings of `config.json` among `options`."""
        place = {key: options.pop(key, None) for key in ("revision", "cache_dir", "token")}
        place |= {key: options.pop(key, False) for key in ("force_download", "local_files_only")}
        map_location = options.pop("map_location", "cpu")
        options.pop("strict", None)
        options = {name: value for name, value in options.items() if name in OF_NETWORK | OF_TRAINING}
        if Path(model_id).is_dir():
            state, info = read_weights(Path(model_id))
            if info.stage != cls.stage:
                reason = f"is a {info.stage} model; HubModel is the paper's"
                raise WSSLError("ckpt", model_id, reason, "open it with wssl_pl.models.open_model")
            learnt_from = info.training
        else:
            state, _ = read_safetensors(Path(hf_hub_download(repo_id=model_id, filename=WEIGHTS, **place)))
            learnt_from = {}
        model = load_state(lambda: cls(**options | {"compile": False}), state, f"{model_id}/{WEIGHTS}")
        model.learnt_from = learnt_from
        return model.to(map_location).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """Called by `save_pretrained`; leaves the files of `wssl export safetensors`."""
        info = ModelInfo(str(save_directory), dict(self.hparams), getattr(self, "learnt_from", {}))
        write_folder(self.state_dict(), info, save_directory)

    @classmethod
    def _load_as_pickle(cls, *args: Any, **kwargs: Any) -> Any:
        raise WSSLError(None, None, "a pickled model could run code and is not read", f"export {WEIGHTS} and {CONFIG}")
