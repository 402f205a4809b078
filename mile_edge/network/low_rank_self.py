"""A layer whose ranks activate themselves: y = W x + B (w * z), z = A x, the weights w told from z (MoRA).

What the weights are is in :mod:`mile_edge.network.gates.self_activated`; here is where they meet a bank's row. A row
holds the ranks of all tasks so far, and zeros where there are none yet, so a task that adds ranks is one row copied.
"""

from __future__ import annotations

import torch

from mile_edge.network.gates.self_activated import SelfActivated
from mile_edge.network.low_rank import LowRankFunction
from mile_edge.network.pair_in_row import PairInRow, one_node


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
        pair = PairInRow(offset, rank, x.shape[-1], product.shape[-1])
        if torch.onnx.is_in_onnx_export():
            attributes = {
                **pair.attributes(),
                "top_k": [min(gate.top_k, rank)],
                "tau": gate.tau,
                "delta": gate.delta,
            }
            return one_node("LowRankSelf", (product, bias, x, bank, expert), attributes, product.shape)
        a, b = pair.of(bank[expert])
        narrow = x @ a.transpose(1, 2)
        return product + ((narrow * gate(x, narrow)) @ b.transpose(1, 2) + bias)

    return beside
