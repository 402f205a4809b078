"""The low-rank path beside a frozen linear layer: y = W x + B (A x), for one expert or for one expert per sample.

LoRA: Hu et al., ICLR 2022, arXiv 2106.09685. Here alpha/r is folded into B when an expert is saved.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


@torch.library.custom_op("mile::low_rank", mutates_args=())
def low_rank(
    frozen: torch.Tensor, x: torch.Tensor, bank: torch.Tensor, expert: torch.Tensor, offset: int, rank: int
) -> torch.Tensor:
    """The frozen layer's output plus each sample's own low-rank term.

    One operator, so that the exporter can write it as the ONNX function ``mile::LowRank`` and a fused kernel can take its place.

    Args:
        frozen: (B, N, out) output of the frozen layer.
        x: (B, N, in) its input.
        bank: (E, P) one row of weights per expert.
        expert: (B,) int64 row for each sample.
        offset: where this layer's A starts in a row; B follows it.
        rank: of A (rank, in) and B (out, rank).
    """
    inputs, outputs = x.shape[-1], frozen.shape[-1]
    middle, end = offset + rank * inputs, offset + rank * (inputs + outputs)
    rows = bank[expert]
    a = rows[:, offset:middle].reshape(-1, rank, inputs)
    b = rows[:, middle:end].reshape(-1, outputs, rank)
    return frozen + (x @ a.transpose(1, 2)) @ b.transpose(1, 2)


@low_rank.register_fake
def _(
    frozen: torch.Tensor, x: torch.Tensor, bank: torch.Tensor, expert: torch.Tensor, offset: int, rank: int
) -> torch.Tensor:
    return torch.empty_like(frozen)


class LowRankLinear(nn.Module):
    """A frozen linear layer (or a convolution with kernel 1) with a low-rank path beside it.

    In training the path is this module's own A (rank, in) and B (out, rank): A starts as Kaiming noise and B as
    zero, so an untrained expert is exactly the base. After :meth:`route`, the path of each sample is read from the bank instead.
    """

    def __init__(self, frozen: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.rank = rank
        self.out_features, self.in_features = frozen.weight.shape[:2]
        self.lora_A = nn.Parameter(torch.empty(rank, self.in_features))
        self.lora_B = nn.Parameter(torch.empty(self.out_features, rank))
        self._bank: torch.Tensor | None = None
        self._expert: torch.Tensor | None = None
        self._offset = 0
        self.reset()

    def reset(self) -> None:
        """Forget the expert: fresh A, zero B."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def route(self, bank: torch.Tensor | None, expert: torch.Tensor | None = None, offset: int = 0) -> None:
        """Read A and B of each sample from ``bank`` (E, P) at ``expert`` (B,); ``None`` returns to the module's own."""
        self._bank, self._expert, self._offset = bank, expert, offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frozen = self.frozen(x)
        if isinstance(self.frozen, nn.Linear):
            return self._add(frozen, x)
        summed = self._add(frozen.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2))
        return summed.transpose(1, 2).reshape(frozen.shape)

    def _add(self, frozen: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if self._bank is None:
            return frozen + functional.linear(functional.linear(x, self.lora_A), self.lora_B)
        tokens = x if x.dim() == 3 else x.flatten(1, -2)
        rows = frozen if frozen.dim() == 3 else frozen.flatten(1, -2)
        return torch.ops.mile.low_rank(rows, tokens, self._bank, self._expert, self._offset, self.rank).view_as(frozen)
