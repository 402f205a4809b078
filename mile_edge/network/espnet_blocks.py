"""What ESPNetv2 is built of: pyramids of dilated convolutions, their pooling, and resizing that ONNX can say.

Modules carry the names of the authors' published checkpoints; the network itself is in :mod:`mile_edge.network.espnet`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_BRANCHES = 4
_PYRAMID = (2.0, 1.5, 1.0, 0.5, 0.1)
_SMALLEST_MAP = 5


class Pyramid(nn.Module):
    """EESP, the extremely efficient spatial pyramid: reduce, split into dilated branches, add them up, merge."""

    def __init__(self, inputs: int, outputs: int, field: int, stride: int = 1) -> None:
        super().__init__()
        width = outputs // _BRANCHES
        # Branch i sees 3 + 2i pixels; beyond the limit it falls back to 3, and all are ordered by what they see.
        seen = sorted(size if size <= field else 3 for size in range(3, 3 + 2 * _BRANCHES, 2))
        self.proj_1x1 = NamedConv(inputs, width, 1, groups=_BRANCHES)
        self.spp_dw = nn.ModuleList(_Dilated(width, stride, (size - 1) // 2) for size in seen)
        self.conv_1x1_exp = NamedConv(outputs, outputs, 1, groups=_BRANCHES, activated=False)
        self.br_after_cat = _NamedNorm(outputs)
        self.module_act = nn.PReLU(outputs)
        self._halves = stride == 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W), or half the height and width with stride 2."""
        reduced = self.proj_1x1(x)
        branches: list[torch.Tensor] = []
        for branch in self.spp_dw:
            y = branch(reduced)
            # Each branch adds the ones that see less: this hides the grid that dilation leaves.
            branches.append(y + branches[-1] if branches else y)
        merged = self.conv_1x1_exp(self.br_after_cat(torch.cat(branches, dim=1)))
        if self._halves:
            return merged
        return self.module_act(merged + x if merged.shape[1] == x.shape[1] else merged)


class Downsampler(nn.Module):
    """Half the size, more channels: an average beside a strided pyramid, and the input image once more."""

    def __init__(self, inputs: int, outputs: int, field: int) -> None:
        super().__init__()
        self.eesp = Pyramid(inputs, outputs - inputs, field, stride=2)
        self.inp_reinf = nn.Sequential(NamedConv(3, 3, 3), NamedConv(3, outputs, 1, activated=False))
        self.act = nn.PReLU(outputs)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W), with the frame (B, 3, ...), to (B, outputs, H/2, W/2)."""
        average = _halved(x)
        y = torch.cat([average, self.eesp(x)], dim=1)
        while image.shape[2] > average.shape[2]:
            image = _halved(image)
        return self.act(y + self.inp_reinf(image))


class PyramidPool(nn.Module):
    """Efficient pyramid pooling: one depthwise convolution per scale, shuffled and merged."""

    def __init__(self, inputs: int, planes: int, outputs: int, *, last: bool = False) -> None:
        super().__init__()
        self.projection_layer = _Listed("cbr", inputs, planes, 1)
        self.stages = nn.ModuleList(
            nn.Conv2d(planes, planes, 3, padding=1, groups=planes, bias=False) for _ in _PYRAMID
        )
        together = planes * len(_PYRAMID)
        self.merge_layer = nn.Sequential(
            _Listed("br", together),
            nn.ChannelShuffle(len(_PYRAMID)),
            _Listed("cbr", together, planes, 3, groups=planes),
            nn.Conv2d(planes, outputs, 1, bias=last),
        )
        self.br = nn.Identity() if last else _Listed("br", outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        x = self.projection_layer(x)
        size = (x.shape[2], x.shape[3])
        maps = [self._at(scale, stage, x, size) for scale, stage in zip(_PYRAMID, self.stages, strict=True)]
        return self.br(self.merge_layer(torch.cat(maps, dim=1)))

    @staticmethod
    def _at(scale: float, stage: nn.Module, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        height, width = (max(_SMALLEST_MAP, math.ceil(side * scale)) for side in size)
        if scale < 1:
            return _resized(stage(averaged(x, (height, width))), size)
        if scale > 1:
            return averaged(stage(_resized(x, (height, width))), size)
        return stage(x)


class Weighted(nn.Module):
    """A level of the encoder on its way to the decoder, each channel weighted by the whole frame."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.Sigmoid())
        self.expansion_layer = _Listed("cbr", inputs, outputs, 3, groups=math.gcd(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        return self.expansion_layer(x) * self.wt_layer(x)


class NamedConv(nn.Module):
    """Convolution and batch norm, and PReLU where ``activated``; the checkpoint's names ``conv``, ``bn``, ``act``."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activated: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.PReLU(outputs) if activated else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W), smaller by the stride."""
        return self.act(self.bn(self.conv(x)))


class _NamedNorm(nn.Module):
    """Batch norm and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn, self.act = nn.BatchNorm2d(channels), nn.PReLU(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(x))


class _Dilated(nn.Module):
    """A depthwise 3x3 convolution, dilated."""

    def __init__(self, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _Listed(nn.Module):
    """Convolution, batch norm and PReLU (``cbr``) or the last two (``br``), numbered as in the checkpoint."""

    def __init__(self, name: str, inputs: int, outputs: int | None = None, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        channels = outputs or inputs
        layers: list[nn.Module] = [nn.BatchNorm2d(channels), nn.PReLU(channels)]
        if outputs is not None:
            layers.insert(0, nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False))
        self._name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(self._name)(x)


def _halved(x: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(x, kernel_size=3, stride=2, padding=1)


def enlarged(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``x`` at the height and width of ``like``."""
    return _resized(x, (like.shape[2], like.shape[3]))


def _resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    # The checkpoints were trained with aligned corners.
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


def averaged(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Adaptive average pooling as two matrix products: ONNX has no pooling whose windows differ in size."""
    rows, columns = (torch.from_numpy(_windows(f, p)).to(x) for f, p in zip(x.shape[2:], size, strict=True))
    return rows @ x @ columns.transpose(0, 1)


def _windows(full: int, part: int) -> np.ndarray:
    """(part, full) matrix of averages over ``part`` windows, as ``adaptive_avg_pool2d`` lays them.

    In NumPy, so that an exporter sees one constant instead of every assignment.
    """
    matrix = np.zeros((part, full), np.float32)
    for index in range(part):
        start, end = index * full // part, -(-(index + 1) * full // part)
        matrix[index, start:end] = 1 / (end - start)
    return matrix
