"""Where a layer's low-rank pair lies in a bank's row, and how the ONNX exporter is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class PairInRow:
    """A (rank, in), flattened, and B (out, rank) behind it.

    Attributes:
        offset: where A starts in a row.
        rank, inputs, outputs: of the pair.
    """

    offset: int
    rank: int
    inputs: int
    outputs: int

    @property
    def middle(self) -> int:
        """Where A ends and B starts."""
        return self.offset + self.rank * self.inputs

    @property
    def end(self) -> int:
        """Where B ends."""
        return self.middle + self.rank * self.outputs

    def of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A (B, rank, in) and B (B, out, rank) out of rows (B, P)."""
        a = rows[:, self.offset : self.middle].reshape(-1, self.rank, self.inputs)
        return a, rows[:, self.middle : self.end].reshape(-1, self.outputs, self.rank)

    def attributes(self) -> dict[str, Any]:
        """What a node that cuts the pair out of a row itself has to know."""
        return {
            "a_start": [self.offset],
            "a_end": [self.middle],
            "a_shape": [-1, self.rank, self.inputs],
            "b_start": [self.middle],
            "b_end": [self.end],
            "b_shape": [-1, self.outputs, self.rank],
        }


def one_node(
    name: str, inputs: tuple[torch.Tensor, ...], attributes: Mapping[str, Any], shape: Sequence[int]
) -> torch.Tensor:
    """What the ONNX exporter sees in place of torch's operations: one node ``mile::name``, of its first input's type.

    ``mile_edge.export`` adds the body as a model-local function, so that a fused kernel can take its place by name.
    """
    return torch.onnx.ops.symbolic(
        f"mile::{name}", inputs, dict(attributes), dtype=inputs[0].dtype, shape=shape, version=1
    )
