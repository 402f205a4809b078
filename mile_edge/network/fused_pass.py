"""The one pass with fusion at its end: per-sensor masks and the fused masks of groups of samples, at once."""

from __future__ import annotations

import torch
from torch import nn

from mile_edge.bundle.fusion import FusionLayout
from mile_edge.bundle.layout import UNUSED_BIAS
from mile_edge.errors import RecipeError
from mile_edge.network.fusion import Fusion
from mile_edge.network.one_pass import INPUTS, OUTPUTS, OnePass, decide

FUSED_INPUTS = (*INPUTS, "group", "fusion")
FUSED_OUTPUTS = (*OUTPUTS, "fused_mask", "fused_confidence", "fused_share")


class FusedPass(nn.Module):
    """:class:`OnePass` with two more inputs, who belongs together and the head's weights, and three more outputs.

    Args:
        network: the pass over single frames.
        kind: one of ``bundle.fusion.FUSIONS``.
        width: numbers per pixel that are fused.
    """

    def __init__(self, network: OnePass, kind: str, width: int) -> None:
        super().__init__()
        self.network = network
        self.layout = FusionLayout(kind, width, network.layout.hidden, network.layout.max_classes)
        self.fusion = Fusion(self.layout)

    def forward(
        self,
        frames: torch.Tensor,
        bank: torch.Tensor,
        prototypes: torch.Tensor,
        whitening: torch.Tensor,
        gate_bias: torch.Tensor,
        group: torch.Tensor,
        fusion: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """One pass over a batch of frames of several sensors.

        Args:
            frames, bank, prototypes, whitening, gate_bias: as :meth:`OnePass.forward`.
            group: (G, B) float32, 1 where a sample belongs to a group.
            fusion: (L,) float32, the head's weights.

        Returns:
            what :meth:`OnePass.forward` returns, and fused_mask (G, H, W) uint8, fused_confidence (G, H, W) uint8,
            fused_share (G, B) float32.
        """
        hidden, scores, known, expert, distance = self.features(frames, bank, prototypes, whitening, gate_bias)
        fused, share = self.fusion(hidden, scores, known, group, fusion.to(hidden.dtype))
        size = self.network.size
        mask, confidence = decide(scores, size)
        return mask, confidence, expert.to(torch.int32), distance, *decide(fused, size), share

    def features(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What is fused: features (B, H, h, w), scores (B, C, h, w), known (B, C), and expert (B,), distance (B, E).

        Args:
            inputs: of :meth:`OnePass.forward`, in its order.
        """
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.network.head.watch(lambda hidden, bias: kept.append((hidden, bias)))
        try:
            scores, expert, distance = self.network.segment(*inputs)
        finally:
            self.network.head.watch(None)
        if not kept:
            raise RecipeError("the classifier never ran, so there is nothing to fuse; it must lie in the forward pass")
        # The last: a tap with a pass of its own runs the classifier twice.
        hidden, bias = kept[-1]
        return hidden, scores, (bias > UNUSED_BIAS / 2).float(), expert, distance
