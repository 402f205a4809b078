"""Fusion of several sensors: their decoder features, each under its own expert, become one map of scores.

After MLE-SAM (arXiv 2412.04220): two fused paths in parallel, the uniform mean over the sensors that are present and a
mean weighted by a router, and two decoders, a main one and an auxiliary one over several scales, whose scores are
summed. [choice] here: the features are those that the base's classifier reads, so any base can be fused; what each
expert's own classifier says is fused with the same weights and the decoders only correct it, the more the more sensors
there are. So an untrained head is the mean of the experts, and one sensor alone is left to its own expert. All weights
come in as one vector, like an expert.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from mile_edge.bundle.fusion import AUX_SCALES, FusionLayout
from mile_edge.bundle.layout import UNUSED_BIAS

# Of a class that an expert knows: one pixel on which it is surely wrong must not outvote the others for ever.
FLOOR = -12.0
_CLOSED = -1e9


class Fusion(nn.Module):
    """Decoder features and scores of a batch to fused scores of groups of it.

    Args:
        layout: which paths there are, and where each weight lies in the vector.
    """

    def __init__(self, layout: FusionLayout) -> None:
        super().__init__()
        self.layout = layout

    def forward(
        self,
        hidden: torch.Tensor,
        scores: torch.Tensor,
        known: torch.Tensor,
        group: torch.Tensor,
        vector: torch.Tensor,
        pooled: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuse.

        Args:
            hidden: (B, H, h, w) what the classifier reads.
            scores: (B, C, h, w) what each sample's own expert makes of it.
            known: (B, C) 1 where that expert knows the class, else 0.
            group: (G, B) 1 where a sample belongs to a group, else 0; whatever has 0 cannot change the group's scores.
            vector: (L,) weights in the layout's order.
            pooled: (B, H) the whole map's :func:`pool`, where ``hidden`` is a cut-out of it.

        Returns:
            scores (G, C, h, w) and each sample's share (G, B), which sums to 1 over a group.
        """
        pooled = pool(hidden) if pooled is None else pooled
        weights = self._weights(vector)
        height, width = hidden.shape[2:]
        features = hidden.flatten(2)
        embedded = weights["embed.weight"] @ features
        embedded = functional.relu(
            embedded + (pooled @ weights["context.weight"].T + weights["embed.bias"])[:, :, None]
        )
        opinion = torch.log_softmax(scores.flatten(2).float(), dim=1).clamp(min=FLOOR) * known[:, :, None]
        member = group.float()
        paths: list[tuple[str, torch.Tensor]] = []
        if self.layout.uniform:
            paths.append(("uniform", (member / member.sum(dim=1, keepdim=True).clamp(min=1))[:, :, None]))
        if self.layout.routed:
            place = weights["route.weight"] @ embedded + (pooled @ weights["route.context"])[:, None]
            routed = place.float()[None] + ((1 - member) * _CLOSED)[:, :, None]
            paths.append(("routed", torch.softmax(routed, dim=1) * member[:, :, None]))
        fused: torch.Tensor | None = None
        mixed: torch.Tensor | None = None
        total: torch.Tensor | None = None
        for name, share in paths:
            path = weights[f"{name}.weight"] @ _mix(embedded, share.to(embedded.dtype))
            fused = path if fused is None else fused + path
            said = _mix(opinion, share) / _mix(known[:, :, None], share).clamp(min=1e-6)
            mixed = said if mixed is None else mixed + said
            total = share.mean(dim=2) if total is None else total + share.mean(dim=2)
        assert fused is not None
        assert mixed is not None
        assert total is not None
        fused = functional.relu(fused + weights["main.bias"][:, None])
        correction = (weights["main.weight"] @ fused + weights["score.bias"][:, None]).float()
        # A lone sensor has nobody to be corrected by: trained corrections of it cost up to two points.
        gain = (1 - 1 / member.sum(dim=1).clamp(min=1))[:, None, None]
        somebody = (group.float() @ known.float()) > 0
        result = torch.where(somebody[:, :, None], mixed / len(paths) + gain * correction, UNUSED_BIAS)
        result = result.reshape(result.shape[0], result.shape[1], height, width)
        if self.layout.auxiliary:
            surroundings = self._auxiliary(fused.reshape(fused.shape[0], -1, height, width), weights)
            result = result + gain[..., None] * surroundings
        return result, total / len(paths)

    def _auxiliary(self, fused: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """Scores from the fused features' surroundings: averaged over blocks, judged there, and enlarged again."""
        size = fused.shape[2:]
        scores: torch.Tensor | None = None
        for scale in AUX_SCALES:
            coarse = functional.avg_pool2d(fused, scale, ceil_mode=True, count_include_pad=False)
            judged = weights[f"aux.{scale}.weight"] @ coarse.flatten(2)
            judged = judged.reshape(judged.shape[0], -1, *coarse.shape[2:]).float()
            judged = functional.interpolate(judged, size=size, mode="bilinear", align_corners=False)
            scores = judged if scores is None else scores + judged
        assert scores is not None
        return scores

    def _weights(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        found, start = {}, 0
        for name, shape in self.layout.shapes.items():
            stop = start + math.prod(shape)
            found[name] = vector[start:stop].reshape(shape)
            start = stop
        return found


def pool(hidden: torch.Tensor) -> torch.Tensor:
    """(B, H, h, w) to the mean over the map (B, H), which tells sensors and weathers apart."""
    return hidden.flatten(2).float().mean(dim=2).to(hidden.dtype)


def _mix(values: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """(B, K, N) under shares (G, B, N) or (G, B, 1) to their weighted sums (G, K, N)."""
    return (share[:, :, None] * values[None]).sum(dim=1)
