"""Several experts at once: their low-rank pairs side by side along the rank, each A scaled by its expert's weight.

SemLA (Qorbani et al., CVPR 2025, arXiv 2503.21780) merges LoRA adapters so (PEFT's ``cat``), once per image; here each
sample of a batch has its own mixture, read from the bank like a single expert is.
"""

from __future__ import annotations

from typing import Any

import torch

from mile_edge.bundle.layout import UNUSED_BIAS


def low_rank_mix(
    product: torch.Tensor,
    bias: torch.Tensor,
    x: torch.Tensor,
    bank: torch.Tensor,
    experts: torch.Tensor,
    weights: torch.Tensor,
    offset: int,
    rank: int,
) -> torch.Tensor:
    """The frozen layer's product and bias plus each sample's own mixture of low-rank terms: (B, N, out).

    The ONNX exporter sees one node, ``mile::LowRankMix``, as :func:`mile_edge.network.low_rank.low_rank` is one.

    Args:
        product: (B, N, out) the frozen layer's weight times its input.
        bias: (out,) of the frozen layer.
        x: (B, N, in) its input.
        bank: (E, P) one row of weights per expert.
        experts: (B, K) int64 rows of each sample.
        weights: (B, K) float32 of these rows.
        offset: where this layer's A starts in a row; B follows it.
        rank: of one expert's A (rank, in) and B (out, rank).
    """
    inputs, outputs = x.shape[-1], product.shape[-1]
    if torch.onnx.is_in_onnx_export():
        middle, end = offset + rank * inputs, offset + rank * (inputs + outputs)
        attributes: dict[str, Any] = {
            "a_start": [offset],
            "a_end": [middle],
            # All rows' A are one long A already; B's rows are put side by side in three steps.
            "a_shape": [0, -1, inputs],
            "b_start": [middle],
            "b_end": [end],
            "b_parts": [0, 0, outputs, rank],
            "b_shape": [0, -1, outputs],
        }
        return torch.onnx.ops.symbolic(
            "mile::LowRankMix",
            (product, bias, x, bank, experts, weights),
            attributes,
            dtype=product.dtype,
            shape=product.shape,
            version=1,
        )
    a, b = mixed_pair(bank, experts, weights, offset, rank, inputs, outputs)
    return product + ((x @ a.transpose(1, 2)) @ b.transpose(1, 2) + bias)


def mixed_pair(
    bank: torch.Tensor,
    experts: torch.Tensor,
    weights: torch.Tensor,
    offset: int,
    rank: int,
    inputs: int,
    outputs: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One A (B, K * rank, in) and one B (B, out, K * rank) whose product is the weighted sum of the experts' B A."""
    middle, end = offset + rank * inputs, offset + rank * (inputs + outputs)
    samples = experts.shape[0]
    rows = bank[experts]
    a = rows[:, :, offset:middle] * weights[:, :, None].to(bank.dtype)
    b = rows[:, :, middle:end].reshape(samples, -1, outputs, rank).transpose(1, 2)
    return a.reshape(samples, -1, inputs), b.reshape(samples, outputs, -1)


def mixed_classifier(
    bank: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor, offset: int, hidden: int, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted mean of the experts' classifiers, (B, classes, hidden) and (B, classes, 1).

    A class that only some of the experts know is scored by those, less the logarithm of their share of the weights, as
    if probabilities were mixed; a class that none of them knows stays as impossible as in a single expert's row.
    """
    middle = offset + hidden * classes
    samples = experts.shape[0]
    rows = bank[experts]
    # Little work, so in fp32 in every network: one rounding at the end.
    weight = rows[:, :, offset:middle].float().reshape(samples, -1, classes, hidden)
    bias = rows[:, :, middle : middle + classes].float()
    share = weights[:, :, None] * (bias > UNUSED_BIAS)
    total = share.sum(dim=1)
    known = total > 0
    share = share / torch.where(known, total, torch.ones_like(total))[:, None]
    mixed = (share[..., None] * weight).sum(dim=1)
    level = torch.where(known, torch.log(torch.where(known, total, torch.ones_like(total))), UNUSED_BIAS)
    offsets = (share * bias).sum(dim=1) + level
    return mixed.to(bank.dtype), offsets[:, :, None].to(bank.dtype)
