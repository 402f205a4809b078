"""The expert's own kernel beside the network's first convolution, added after the gate has read the frozen product.

Behind an early tap no expert reaches the first stage. At the first convolution's product the gate can choose before
anything is adapted, so this kernel, 4,704 numbers in SegFormer-B0, may belong to the expert as well, and every layer
after it. What that gains is in docs/results.md: 0.4 points on the street's depth, nothing sure on CamVid's dusk.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from mile_edge.network.low_rank import LowRankPath
from mile_edge.network.low_rank_mix import mixed_pair
from mile_edge.network.pair_in_row import PairInRow

# A step of the kernel is this much smaller than one of the low-rank pairs: it stands at the root of everything.
_STEP = 0.1


class LowRankEntry(LowRankPath):
    """A frozen convolution that overlaps itself by at most one stride, with a path of full rank beside it.

    It is a pair like any other, A (out, in * kernel * kernel) and B (out, out), so that files and bank rows hold it as
    they hold the rest. B stays a fraction of the identity, and A starts as zero: an untrained expert is the base.

    The frozen product is computed before an expert is needed: a hook on ``frozen`` may choose one and call
    :meth:`route` while the layer runs.
    """

    frozen: nn.Conv2d

    def __init__(self, frozen: nn.Conv2d) -> None:
        self._kernel, self._stride = frozen.kernel_size[0], frozen.stride[0]
        self._padding = (int(frozen.padding[0]), int(frozen.padding[1]))
        inputs = frozen.in_channels * self._kernel**2
        super().__init__(frozen, frozen.out_channels, inputs, frozen.out_channels)

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether a layer is such a convolution."""
        return (
            isinstance(layer, nn.Conv2d)
            and layer.groups == 1
            and layer.dilation == (1, 1)
            and layer.kernel_size[0] == layer.kernel_size[1]
            and layer.stride[0] == layer.stride[1]
            and layer.stride[0] < layer.kernel_size[0] <= 2 * layer.stride[0]
            and not isinstance(layer.padding, str)
        )

    def reset(self) -> None:
        """Forget the expert: zero A, and B as it stays."""
        nn.init.zeros_(self.lora_A)
        with torch.no_grad():
            self.lora_B.copy_(_STEP * torch.eye(self.out_features))

    def trained(self) -> Iterator[nn.Parameter]:
        """A; with B free as well the same kernel could be written in many ways."""
        yield self.lora_A

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, H, W) to (B, out, h, w).

        Raises:
            RecipeError: no expert is chosen when the frozen product is there.
        """
        product = self.frozen(x)
        self._refuse_while_held()
        if self._bank is None:
            kernels = self.lora_A.reshape(self.rank, -1, self._kernel, self._kernel)
            narrow = functional.conv2d(x, kernels, stride=self._stride, padding=self._padding)
            return product + functional.conv2d(narrow, self.lora_B[:, :, None, None])
        assert self._expert is not None
        pair = PairInRow(self._offset, self.rank, self.in_features, self.out_features)
        if self._weights is not None:
            # Kernels are mixed, not the maps that each would make: these are far larger.
            a, b = mixed_pair(self._bank, self._expert, self._weights, pair)
            mixed = self._convolve(x, (b @ a).flatten(1), product.shape[2], product.shape[3])
            return product + mixed.reshape(product.shape)
        a, b = pair.of(self._bank.index_select(0, self._expert))
        narrow = self._convolve(x, a, product.shape[2], product.shape[3])
        return product + (b @ narrow).reshape(product.shape)

    def _convolve(self, x: torch.Tensor, a: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Each sample's own kernels (B, rank * in * k * k) over its own frame: (B, rank, height * width).

        No runtime has a convolution whose kernel differs from sample to sample. Cut into cells of one stride, a frame
        is a map of vectors, and a kernel of at most two strides is four matrices, one for each of 2x2 neighbouring
        cells: one matrix product over all cells and three sums of shifted maps.
        """
        stride, channels = self._stride, self.frozen.in_channels
        (top, left), grid = self._padding, (height + 1, width + 1)
        below = grid[0] * stride - x.shape[2] - top
        right = grid[1] * stride - x.shape[3] - left
        cells = functional.pixel_unshuffle(functional.pad(x, (left, right, top, below)), stride).flatten(2)
        missing = 2 * stride - self._kernel
        kernels = functional.pad(a.reshape(-1, channels, self._kernel, self._kernel), (0, missing, 0, missing))
        quarters = kernels.reshape(-1, self.rank, channels, 2, stride, 2, stride).permute(0, 3, 5, 1, 2, 4, 6)
        maps = quarters.reshape(-1, 4 * self.rank, channels * stride**2) @ cells
        corner, beside, under, across = maps.reshape(-1, 4, self.rank, *grid).unbind(1)
        narrow = corner[:, :, :-1, :-1] + beside[:, :, :-1, 1:] + under[:, :, 1:, :-1] + across[:, :, 1:, 1:]
        return narrow.flatten(2)
