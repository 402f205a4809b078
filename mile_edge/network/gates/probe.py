"""The linear probe: logistic or ridge regression from pooled features to experts, the mandatory baseline of any gate.

Its weights travel in the ``prototypes`` input, as a Gaussian's precisions do, so the graph gets no further input and an
expert that comes or goes needs no new engine. How they are fitted is in ``mile_edge.runtime.probe``.

=====  ===============================================================================================================
ridge  least squares to one-hot targets, in closed form from the mean and scatter that every expert file carries
       anyway: not a byte more is stored
probe  multinomial logistic regression on the pooled features that every expert file keeps for it (64 vectors of D
       numbers); frames themselves never meet, but unlike with a prototype, all experts' vectors are fitted together
=====  ===============================================================================================================
"""

from __future__ import annotations

import torch
from torch import nn

KINDS = ("ridge", "probe")


class LinearProbe(nn.Module):
    """The expert of the largest logit. Holds no weights: they are inputs."""

    def forward(
        self, feature: torch.Tensor, prototypes: torch.Tensor, whitening: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Minus the logit of every expert, and the expert for which it is least after the bias.

        As a measure of novelty this is the maximum logit (Hendrycks et al., ICML 2022, arXiv 1911.11132).

        Args:
            feature: (B, D) float32.
            prototypes: (E, 2, D) float32: a point where the expert's logit is zero, and the logit's gradient.
            whitening: (D, D) float32, not read.
            bias: (B, E) float32, added to the logit.

        Returns:
            expert (B,) int64 and distance (B, E) float32.
        """
        point, weight = prototypes[:, 0], prototypes[:, 1]
        # From a point near the data: raw features are large beside their differences.
        distance = ((point[None] - feature[:, None, :]) * weight[None]).sum(dim=-1)
        return torch.argmax(bias - distance, dim=1), distance
