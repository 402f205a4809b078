"""The low-rank path beside a frozen linear layer: y = W x + B (A x), for one expert or for one expert per sample.

LoRA: Hu et al., ICLR 2022, arXiv 2106.09685. Here alpha/r is folded into B when an expert is saved.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from mile_edge.errors import RecipeError
from mile_edge.network.low_rank_mix import low_rank_mix
from mile_edge.network.pair_in_row import PairInRow, one_node


def low_rank(
    product: torch.Tensor,
    bias: torch.Tensor,
    x: torch.Tensor,
    bank: torch.Tensor,
    expert: torch.Tensor,
    offset: int,
    rank: int,
) -> torch.Tensor:
    """The frozen layer's product and bias plus each sample's own low-rank term: (B, N, out).

    The ONNX exporter sees one node, ``mile::LowRank``: a fused kernel can take its place by name.

    Args:
        product: (B, N, out) the frozen layer's weight times its input.
        bias: (out,) of the frozen layer.
        x: (B, N, in) its input.
        bank: (E, P) one row of weights per expert.
        expert: (B,) int64 row for each sample.
        offset: where this layer's A starts in a row; B follows it.
        rank: of A (rank, in) and B (out, rank).
    """
    pair = PairInRow(offset, rank, x.shape[-1], product.shape[-1])
    if torch.onnx.is_in_onnx_export():
        attributes = {**pair.attributes(), "rank": rank}
        return one_node("LowRank", (product, bias, x, bank, expert), attributes, product.shape)
    a, b = pair.of(bank[expert])
    return product + ((x @ a.transpose(1, 2)) @ b.transpose(1, 2) + bias)


LowRankFunction = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int], torch.Tensor
]


class LowRankPath(nn.Module, ABC):
    """A frozen layer with a path for one expert, or one per sample, beside it; what runs is in the subclasses.

    In training the path is this module's own A (rank, in) and B (out, rank). After :meth:`route`, the path of each
    sample is read from the bank.
    """

    def __init__(self, frozen: nn.Module, rank: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.rank, self.in_features, self.out_features = rank, in_features, out_features
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.empty(out_features, rank))
        self._bank: torch.Tensor | None = None
        self._expert: torch.Tensor | None = None
        self._weights: torch.Tensor | None = None
        self._offset = 0
        self._held = False
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Forget the expert: the layer is the frozen one again."""

    def trained(self) -> Iterator[nn.Parameter]:
        """What training an expert changes."""
        yield self.lora_A
        yield self.lora_B

    def route(
        self,
        bank: torch.Tensor | None,
        expert: torch.Tensor | None = None,
        offset: int = 0,
        weights: torch.Tensor | None = None,
    ) -> None:
        """Read A and B of each sample from ``bank`` (E, P); ``None`` returns to the module's own.

        Args:
            bank: one row of weights per expert.
            expert: (B,) row of each sample, or (B, K) rows.
            offset: where this layer's A starts in a row.
            weights: (B, K) of the K rows; missing where there is one row for each sample.
        """
        self._bank, self._expert, self._offset, self._held = bank, expert, offset, False
        self._weights = weights

    def hold(self) -> None:
        """Refuse to run until the next :meth:`route`: the gate has not chosen yet."""
        self._held = True

    def _refuse_while_held(self) -> None:
        if self._held:
            raise RecipeError(
                "an adapted layer lies before the tap, where no expert is chosen yet; change `layers` or `tap`"
            )


class LowRankLinear(LowRankPath):
    """A frozen linear layer or convolution with a low-rank path beside it.

    A starts as Kaiming noise and B as zero, so an untrained expert is exactly the base. Beside a convolution with a
    larger kernel the path reads what lies under the kernel's centre, all channels of it, whatever the groups: merged,
    it is an update of the centre's weights. So one product serves every kind of layer.

    Attributes:
        low_rank: what a routed layer computes, :func:`low_rank`; a kernel with the same arguments may take its place.
        rank_gate: of a pool of ranks: (x, z) to what the responses z = A x are multiplied with; nothing by default.
        past_a: (R, in) frozen ranks of earlier tasks, which come before the layer's own; ``past_b`` is (out, R).
    """

    frozen: nn.Linear | nn.Conv2d
    past_a: torch.Tensor | None
    past_b: torch.Tensor | None

    def __init__(self, frozen: nn.Module, rank: int) -> None:
        assert isinstance(frozen, (nn.Linear, nn.Conv2d))
        if isinstance(frozen, nn.Linear):
            super().__init__(frozen, rank, frozen.in_features, frozen.out_features)
        else:
            super().__init__(frozen, rank, frozen.in_channels, frozen.out_channels)
        self.low_rank: LowRankFunction = low_rank

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether a layer is linear, or a convolution whose every output has an input under its kernel's centre."""
        if isinstance(layer, nn.Linear):
            return True
        if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            return False
        sides = zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
        return layer.stride[0] == layer.stride[1] and all(
            kernel % 2 == 1 and padding == dilation * (kernel // 2) for kernel, dilation, padding in sides
        )

    def continue_from(self, past: tuple[torch.Tensor, torch.Tensor] | None, rank_gate: nn.Module | None) -> None:
        """Put the layer's own ranks behind those of earlier tasks, under a gate; until the next :meth:`reset`.

        Args:
            past: A (R, in) and B (out, R); missing where there are none.
            rank_gate: see the class.
        """
        self.rank_gate = rank_gate
        self.register_buffer("past_a", None if past is None else past[0])
        self.register_buffer("past_b", None if past is None else past[1])

    def reset(self) -> None:
        """Forget the expert, and all ranks of earlier tasks: fresh A, zero B."""
        self.continue_from(None, None)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same leading shape as ``x``, its features replaced by ``out_features``.

        Raises:
            RecipeError: the layer runs before the gate has chosen an expert.
        """
        self._refuse_while_held()
        if self._bank is None:
            return self.frozen(x) + self._own_path_beside(x)
        if isinstance(self.frozen, nn.Linear):
            y = self._run(x, x.flatten(1, -2))
            return y.reshape(*x.shape[:-1], self.out_features)
        centres = self._centres(x)
        return self._as_map(self._run(x, centres.flatten(2).transpose(1, 2)), centres)

    def _own_path_beside(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to the frozen layer's output, in its shape."""
        if isinstance(self.frozen, nn.Linear):
            return self._own_path(x)
        centres = self._centres(x)
        return self._as_map(self._own_path(centres.flatten(2).transpose(1, 2)), centres)

    def _centres(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w): what lies under the kernel's centre wherever a convolution puts it."""
        assert isinstance(self.frozen, nn.Conv2d)
        stride = self.frozen.stride[0]
        return x if stride == 1 else x[:, :, ::stride, ::stride]

    def _as_map(self, tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """(B, N, out) tokens as a map (B, out, h, w) of the size of another."""
        return tokens.transpose(1, 2).reshape(like.shape[0], self.out_features, *like.shape[2:])

    def _run(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self._beside(x, tokens) if self._weights is None else self._mixed(x, tokens)

    def _beside(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The frozen layer and one path for each sample beside it: (B, N, out)."""
        product = self._product(x, tokens)
        return self._routed(product, self._bias(product), tokens)

    def _mixed(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The frozen layer with several experts' updates added to its weight: (B, N, out)."""
        assert self._bank is not None
        assert self._expert is not None
        assert self._weights is not None
        samples = self._expert.shape[0]
        whole = tokens if tokens.shape[0] == samples else tokens.reshape(samples, -1, tokens.shape[-1])
        apart = not self._is_product
        frozen = self.frozen.weight
        weight = frozen.new_zeros(self.out_features, self.in_features) if apart else frozen.flatten(1)
        mixed = low_rank_mix(
            whole, weight, self._bias(tokens), self._bank, self._expert, self._weights, self._offset, self.rank
        )
        y = mixed.reshape(*tokens.shape[:-1], self.out_features)
        return y + self._product(x, tokens) if apart else y

    @property
    def _is_product(self) -> bool:
        """Whether the frozen layer is one matrix for every token; the groups and kernels of others stay as they are."""
        frozen = self.frozen
        return isinstance(frozen, nn.Linear) or (frozen.groups, *frozen.kernel_size, *frozen.stride) == (1,) * 5

    def _own_path(self, x: torch.Tensor) -> torch.Tensor:
        a = self.lora_A if self.past_a is None else torch.cat([self.past_a, self.lora_A])
        b = self.lora_B if self.past_b is None else torch.cat([self.past_b, self.lora_B], dim=1)
        narrow = functional.linear(x, a)
        if self.rank_gate is not None:
            narrow = narrow * self.rank_gate(x, narrow)
        return functional.linear(narrow, b)

    def _product(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, out): the frozen weight times the input."""
        if isinstance(self.frozen, nn.Conv2d) and not self._is_product:
            frozen = self.frozen
            bare = partial(functional.conv2d, stride=frozen.stride, padding=frozen.padding, dilation=frozen.dilation)
            return bare(x, frozen.weight, groups=frozen.groups).flatten(2).transpose(1, 2)
        return functional.linear(tokens, self.frozen.weight.flatten(1))

    def _bias(self, product: torch.Tensor) -> torch.Tensor:
        return product.new_zeros(self.out_features) if self.frozen.bias is None else self.frozen.bias

    def _routed(self, product: torch.Tensor, bias: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        assert self._bank is not None
        assert self._expert is not None
        samples = self._expert.shape[0]
        if tokens.shape[0] != samples:
            # Some networks cut each sample into several sequences: (B * parts, N, in), the parts of a sample together.
            whole = [part.reshape(samples, -1, part.shape[-1]) for part in (product, tokens)]
            return self._routed(whole[0], bias, whole[1]).reshape(product.shape)
        return self.low_rank(product, bias, tokens, self._bank, self._expert, self._offset, self.rank)
