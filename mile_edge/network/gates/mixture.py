"""Soft mixing: not one expert but several, each with a weight of its own.

=======  =============================================================================================================
semla    the K nearest experts, w = softmax(1 / (d * tau)) over their distances d (Qorbani et al., CVPR 2025,
         arXiv 2503.21780; their code has tau 0.05, K 5 and Euclidean distances of CLIP features). Here d is the pooled
         Mahalanobis distance of the prototype gate, and each frame is mixed for itself
uniform  every expert of the bundle with the same weight, whatever the frame: the control for any mixture
=======  =============================================================================================================

The distances, the nearest expert and all inputs are those of the prototype gate. With K = 1 it *is* the prototype gate;
with tau towards infinity and K = E it is uniform.
"""

from __future__ import annotations

import torch
from torch import nn

KINDS = ("semla", "uniform")
# A row whose bias is lower takes no part: free rows, and those that a pin or a restriction has closed.
CLOSED = -1e29
_NOTHING = -1e30
_NEAREST = 1e-6


class Mixture(nn.Module):
    """From distances to rows of the bank and their weights.

    Args:
        top_k: K; every row where missing.
        tau: of the softmax; equal weights where missing.
    """

    def __init__(self, top_k: int | None, tau: float | None) -> None:
        super().__init__()
        self.top_k, self.tau = top_k, tau

    def forward(self, distance: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which rows, and how much of each.

        Args:
            distance: (B, E) float32, not negative.
            bias: (B, E) float32. It decides who is among the K, and closes rows; weights do not depend on it.

        Returns:
            rows (B, K) int64, nearest first, and weights (B, K) float32 that sum to 1, 0 for closed rows.
        """
        if self.top_k is None:
            rows = torch.arange(distance.shape[1], device=distance.device).expand(distance.shape)
        else:
            rows = torch.topk(bias - distance, self.top_k, dim=1).indices
        near = distance.gather(1, rows)
        likeness = torch.zeros_like(near) if self.tau is None else 1 / (near.clamp(min=_NEAREST) * self.tau)
        taking_part = bias.gather(1, rows) > CLOSED
        return rows, torch.softmax(torch.where(taking_part, likeness, _NOTHING), dim=1)
