"""What every gate looks at: mean and standard deviation of the base's features over the frame."""

from __future__ import annotations

import torch
from torch import nn


class PooledFeature(nn.Module):
    """Pools a feature map over its pixels or tokens.

    The map must come from layers that no expert touches, else the feature would depend on the expert it is to choose.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) or (B, N, C) features to (B, 2C) float32: means first, standard deviations second."""
        axes = (2, 3) if features.dim() == 4 else (1,)
        features = features.float()
        mean = features.mean(dim=axes, keepdim=True)
        deviation = (features - mean).square().mean(dim=axes).sqrt()
        return torch.cat([mean.flatten(1), deviation.flatten(1)], dim=1)
