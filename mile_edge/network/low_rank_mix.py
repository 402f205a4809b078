"""Several experts at once: the weighted sum of their updates B A, added to the frozen weight of each sample.

SemLA (Qorbani et al., CVPR 2025, arXiv 2503.21780) puts adapters side by side along the rank, each A scaled by its
expert's weight (PEFT's ``cat``), once per image. So does this, for every sample of a batch and from the bank, but the
product B A is taken first: weights are small beside most feature maps. On a CPU a merged layer costs about what the
frozen one does, where a path for three experts beside it takes up to twice as long (docs/methods.md).
"""

from __future__ import annotations

import torch

from mile_edge.bundle.layout import UNUSED_BIAS
from mile_edge.network.pair_in_row import PairInRow, one_node


def low_rank_mix(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    bank: torch.Tensor,
    experts: torch.Tensor,
    weights: torch.Tensor,
    offset: int,
    rank: int,
) -> torch.Tensor:
    """A linear layer under each sample's own mixture of low-rank updates: (B, N, out).

    The ONNX exporter sees one node, ``mile::LowRankMix``, as :func:`mile_edge.network.low_rank.low_rank` is one.

    Args:
        x: (B, N, in) the layer's input.
        weight: (out, in) frozen.
        bias: (out,) frozen.
        bank: (E, P) one row of weights per expert.
        experts: (B, K) int64 rows of each sample.
        weights: (B, K) float32 of these rows.
        offset: where this layer's A starts in a row; B follows it.
        rank: of one expert's A (rank, in) and B (out, rank).
    """
    outputs, inputs = weight.shape
    pair = PairInRow(offset, rank, inputs, outputs)
    if torch.onnx.is_in_onnx_export():
        attributes = {
            **pair.attributes(),
            # All rows' A are one long A already; B's rows are put side by side in three steps.
            "a_shape": [0, -1, inputs],
            "b_parts": [0, 0, outputs, rank],
            "b_shape": [0, -1, outputs],
        }
        read = (x, weight.t(), bias, bank, experts, weights)
        return one_node("LowRankMix", read, attributes, (*x.shape[:-1], outputs))
    a, b = mixed_pair(bank, experts, weights, pair)
    return x @ (weight + b @ a).transpose(1, 2) + bias


def mixed_pair(
    bank: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor, pair: PairInRow
) -> tuple[torch.Tensor, torch.Tensor]:
    """One A (B, K * rank, in) and one B (B, out, K * rank) whose product is the weighted sum of the experts' B A."""
    samples = experts.shape[0]
    rows = bank[experts]
    a = rows[:, :, pair.offset : pair.middle] * weights[:, :, None].to(bank.dtype)
    b = rows[:, :, pair.middle : pair.end].reshape(samples, -1, pair.outputs, pair.rank).transpose(1, 2)
    return a.reshape(samples, -1, pair.inputs), b.reshape(samples, pair.outputs, -1)


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
