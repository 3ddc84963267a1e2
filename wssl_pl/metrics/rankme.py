"""RankMe, the effective rank of a representation (Garrido et al. 2023, arXiv 2210.02885)."""

import torch
from torch import Tensor
from torchmetrics import Metric

EPSILON = 1e-7  # as in the paper, equation 1


def rankme(embeddings: Tensor) -> Tensor:
    """Return RankMe of embeddings: the exponential of the entropy of their normalised singular values.

    With singular values s_k, `p_k = s_k / sum(s) + 1e-7` and `exp(-sum(p_k log p_k))`: 1 where all embeddings are
    multiples of one vector, min(N, D) where all directions are used alike. Nothing is centred.

    Args:
        embeddings: `(N, D)`.

    Returns:
        a scalar, float64.

    Example:
        >>> rankme(torch.eye(4)).round(decimals=3)
        tensor(4., dtype=torch.float64)
    """
    return _effective_rank(torch.linalg.svdvals(embeddings.double()))


class RankMe(Metric):
    """RankMe of embeddings that come in batches, over all processes.

    The state is `Z^T Z` in float64, whose eigenvalues are the squared singular values, so that its size does not depend
    on the number of images, and the states of processes add up. MPS has no float64: keep the metric on the CPU there.


    Args:
        size: D, the length of an embedding.
    """

    full_state_update = False
    gram: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.add_state("gram", torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, embeddings: Tensor) -> None:
        """Add embeddings `(B, D)`."""
        embeddings = embeddings.to(self.gram.device).double()
        self.gram += embeddings.T @ embeddings
        self.count += len(embeddings)

    def compute(self) -> Tensor:
        """Return RankMe, a scalar; NaN if an embedding is not finite or there is none."""
        if self.count == 0 or not self.gram.isfinite().all():
            return self.gram.new_full((), float("nan"))
        squares = torch.linalg.eigvalsh(self.gram).flip(0)[: int(self.count)]
        return _effective_rank(squares.clamp(min=0.0).sqrt())


def _effective_rank(singular_values: Tensor) -> Tensor:
    total = singular_values.sum()
    # Embeddings that are all 0 use no direction; the limit of ever smaller ones along one vector is 1.
    fractions = torch.where(total > 0, singular_values / total, 0.0) + EPSILON
    return torch.where(total > 0, torch.exp(-(fractions * fractions.log()).sum()), 1.0)
