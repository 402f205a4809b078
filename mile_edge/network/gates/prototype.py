"""The prototype gate of MILE: the expert whose stored prototype is nearest to the frame's pooled feature.

MILE-style (arXiv 2605.03555), re-implemented from the abstract and the authors' earlier work. The distances:

=============  ==========================================================================================
mahalanobis    one mean per expert, one covariance pooled over all experts: D^T S^-1 D (the default)
l2             one mean per expert, Euclidean
cosine         one mean per expert, both sides scaled to length one before the Euclidean distance
kmeans         K centres per expert, pooled covariance
gaussian       a mean and a standard deviation per dimension and expert: -2 log likelihood of a diagonal Gaussian
=============  ==========================================================================================
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from mile_edge.errors import RecipeError

KINDS = ("mahalanobis", "l2", "cosine", "kmeans", "gaussian")


class PrototypeGate(nn.Module):
    """Chooses an expert for each sample. Holds no weights: prototypes, whitening and bias are inputs.

    Args:
        kind: one of ``KINDS``.

    Raises:
        RecipeError: the kind is unknown.
    """

    def __init__(self, kind: str = "mahalanobis") -> None:
        super().__init__()
        if kind not in KINDS:
            raise RecipeError(f"gate {kind!r} is unknown; choose one of {', '.join(KINDS)}")
        self.kind = kind

    def forward(
        self, feature: torch.Tensor, prototypes: torch.Tensor, whitening: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances to every expert, and the expert of least distance after the bias.

        Args:
            feature: (B, D) float32.
            prototypes: (E, K, D) float32; for ``gaussian`` K = 2, the mean and one over the standard deviation.
            whitening: (D, D) float32 matrix W with W^T W the inverse of the pooled covariance; the identity for kinds
                without one.
            bias: (B, E) float32, added to the negative distance.

        Returns:
            expert (B,) int64 and distance (B, E) float32.
        """
        distance = (
            self._gaussian(feature, prototypes)
            if self.kind == "gaussian"
            else self._nearest(feature, prototypes, whitening)
        )
        return torch.argmax(bias - distance, dim=1), distance

    def _nearest(self, feature: torch.Tensor, prototypes: torch.Tensor, whitening: torch.Tensor) -> torch.Tensor:
        if self.kind == "cosine":
            feature = functional.normalize(feature, dim=-1)
            prototypes = functional.normalize(prototypes, dim=-1)
        return nearest(feature, prototypes, whitening)

    def _gaussian(self, feature: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
        mean, precision = prototypes[:, 0], prototypes[:, 1]
        scaled = (feature[:, None, :] - mean[None]) * precision[None]
        return scaled.square().sum(dim=-1) - 2 * torch.log(precision).sum(dim=-1)


def nearest(feature: torch.Tensor, prototypes: torch.Tensor, whitening: torch.Tensor) -> torch.Tensor:
    """Distance (B, E) of features (B, D) to the nearest of each expert's prototypes (E, K, D), both whitened."""
    # The difference first, then the whitening: whitened coordinates are large and nearly equal.
    difference = (feature[:, None, None, :] - prototypes[None]) @ whitening.T
    return difference.square().sum(dim=-1).amin(dim=-1).sqrt()
