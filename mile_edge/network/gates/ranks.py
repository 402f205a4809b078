"""What gates within a layer have in common: they weigh ranks, not experts, and are asked at every adapted layer."""

from __future__ import annotations

from torch import nn


class RankGate(nn.Module):
    """Maps a layer's input x (..., in) and responses z = A x (..., R) to what the responses are multiplied with.

    It is in training mode while a task is learned, although the frozen network around it is not.
    """
