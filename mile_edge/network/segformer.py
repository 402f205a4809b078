"""SegFormer's all-MLP decoder in another order of operations: the same function for a third of the multiplications."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional


def reduce_before_upsampling(model: Any) -> None:
    """Make the decoder of a ``SegformerForSemanticSegmentation`` mix channels before it enlarges the maps.

    The published order is project, upsample, concatenate, fuse with a 1x1 convolution. Upsampling works on each
    channel alone and the convolution on each pixel alone, so they commute: each stage's slice of the convolution can
    be applied at that stage's own small size and the enlarged results be summed. Weights keep their names and values.
    """
    model.decode_head.forward = types.MethodType(_forward, model.decode_head)


def _forward(head: Any, encoder_hidden_states: Sequence[torch.Tensor], **_: object) -> torch.Tensor:
    finest = encoder_hidden_states[0]
    size = finest.shape[2:]
    # The published head concatenates from the coarsest stage to the finest.
    slices = head.linear_fuse.weight.chunk(len(encoder_hidden_states), dim=1)[::-1]
    fused: torch.Tensor | None = None
    for features, project, weight in zip(encoder_hidden_states, head.linear_projections, slices, strict=True):
        height, width = features.shape[2:]
        mixed = functional.linear(project(features), weight.flatten(1))
        mixed = mixed.transpose(1, 2).reshape(features.shape[0], -1, height, width)
        if features is not finest:
            mixed = functional.interpolate(mixed, size=size, mode="bilinear", align_corners=False)
        fused = mixed if fused is None else fused + mixed
    return head.classifier(head.dropout(head.activation(head.batch_norm(fused))))
