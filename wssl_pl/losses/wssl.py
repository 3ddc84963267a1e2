"""The paper's loss: reconstruction and perception, weighted."""

from torch import Tensor, nn

from wssl_pl.losses.log_cosh import log_cosh
from wssl_pl.losses.ssim import ssim_loss
from wssl_pl.metrics.ssim import IMPLEMENTATIONS

# The names that `loss=` takes, with the share of log-cosh in each: the paper's Table 4.
LOSSES = {"wssl": 0.84, "log_cosh": 1.0, "ssim": 0.0}


class WSSLLoss(nn.Module):
    """`alpha * log_cosh + (1 - alpha) * (1 - SSIM)` over the whole image (the paper, section 3.3.3).

    Args:
        alpha: share of log-cosh, in [0, 1]. 1 is log-cosh alone, 0 is SSIM alone.
        ssim: `fast`, or `kornia` for the reference implementation of SSIM.

    Raises:
        ValueError: alpha is outside [0, 1], or the implementation is unknown.
    """

    def __init__(self, alpha: float = 0.84, ssim: str = "fast") -> None:
        super().__init__()
        if ssim not in IMPLEMENTATIONS:
            raise ValueError(f"ssim={ssim!r} is not one of {', '.join(IMPLEMENTATIONS)}")
        self.ssim = ssim
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha={alpha} is not between 0 and 1")
        self.alpha = alpha

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The weighted loss, a scalar, of images `(B, 3, H, W)` in [0, 1]."""
        return self.parts(prediction, target)["loss"]

    def parts(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The total under `loss`, with those of `log_cosh` and `ssim_loss` that have a share in it."""
        parts = {}
        if self.alpha > 0.0:
            parts["log_cosh"] = log_cosh(prediction, target)
        if self.alpha < 1.0:
            parts["ssim_loss"] = ssim_loss(prediction, target, self.ssim)
        shares = {"log_cosh": self.alpha, "ssim_loss": 1.0 - self.alpha}
        parts["loss"] = sum((shares[name] * part for name, part in parts.items()), start=prediction.new_zeros(()))
        return parts
