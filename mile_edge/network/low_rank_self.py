"""A layer whose ranks activate themselves: y = W x + B (w * z), z = A x, the weights w told from z (MoRA).

What the weights are is in :mod:`mile_edge.network.gates.self_activated`; here is where they meet a bank's row. A row
holds the ranks of all tasks so far, and zeros where there are none yet, so a task that adds ranks is one row copied.
"""

from __future__ import annotations

from typing import Any

import torch

from mile_edge.network.gates.self_activated import SelfActivated
from mile_edge.network.low_rank import LowRankFunction


def low_rank_self(gate: SelfActivated) -> LowRankFunction:
    """What takes the place of :func:`mile_edge.network.low_rank.low_rank`, with its arguments, under this gate.

    The ONNX exporter sees one node, ``mile::LowRankSelf``.
    """

    def beside(
        product: torch.Tensor,
        bias: torch.Tensor,
        x: torch.Tensor,
        bank: torch.Tensor,
        expert: torch.Tensor,
        offset: int,
        rank: int,
    ) -> torch.Tensor:
        inputs, outputs = x.shape[-1], product.shape[-1]
        middle, end = offset + rank * inputs, offset + rank * (inputs + outputs)
        if torch.onnx.is_in_onnx_export():
            attributes: dict[str, Any] = {
                "a_start": [offset],
                "a_end": [middle],
                "a_shape": [-1, rank, inputs],
                "b_start": [middle],
                "b_end": [end],
                "b_shape": [-1, outputs, rank],
                "top_k": [min(gate.top_k, rank)],
                "tau": gate.tau,
                "delta": gate.delta,
            }
            return torch.onnx.ops.symbolic(
                "mile::LowRankSelf",
                (product, bias, x, bank, expert),
                attributes,
                dtype=product.dtype,
                shape=product.shape,
                version=1,
            )
        rows = bank[expert]
        a = rows[:, offset:middle].reshape(-1, rank, inputs)
        b = rows[:, middle:end].reshape(-1, outputs, rank)
        narrow = x @ a.transpose(1, 2)
        return product + ((narrow * gate(x, narrow)) @ b.transpose(1, 2) + bias)

    return beside
