"""ESPNetv2 for segmentation: Mehta, Rastegari, Shapiro, Hajishirzi, CVPR 2019, arXiv 1811.11431.

A convolutional base of 0.09 to 0.8 million weights, as proof that the base is a parameter. Modules carry the names of
the authors' published checkpoints, so that these load with nothing missing and nothing unexpected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSemanticSegmentation, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput

# Channels of the encoder's four levels by the paper's scale s (its table 2).
_WIDTHS = {
    0.5: (16, 32, 64, 128),
    1.0: (32, 64, 128, 256),
    1.25: (32, 80, 160, 320),
    1.5: (32, 96, 192, 384),
    2.0: (32, 128, 256, 512),
}
SCALES = tuple(_WIDTHS)
_BRANCHES = 4
_REPEATS = (3, 7)
# Largest receptive field of a block's branches, level by level: level2_0, level3_0, level3 and level4_0, level4.
_FIELDS = (13, 11, 9, 7)
_DECODER = (64, 48, 32)
_PYRAMID = (2.0, 1.5, 1.0, 0.5, 0.1)
_SMALLEST_MAP = 5


class ESPNetv2Config(PreTrainedConfig):
    """Configuration in Hugging Face's form: ``scale`` is the paper's s, ``num_labels`` the length of the scores."""

    model_type = "espnetv2"
    scale: float = 2.0
    projection: int = 10


@dataclass
class _Levels:
    """What the decoder takes from the encoder, at 1/2, 1/4, 1/8 and 1/16 of the frame."""

    one: torch.Tensor
    two: torch.Tensor
    three: torch.Tensor
    four: torch.Tensor


class ESPNetv2ForSemanticSegmentation(PreTrainedModel):
    """Encoder, and a decoder of efficient pyramid pooling; scores at half the frame's resolution."""

    config_class = ESPNetv2Config
    main_input_name = "pixel_values"

    def __init__(self, config: ESPNetv2Config) -> None:
        super().__init__(config)
        widths, planes = _WIDTHS[config.scale], config.projection
        self.base_net = _Encoder(widths)
        self.bu_dec_l1 = _PyramidPool(widths[3], planes, _DECODER[0])
        self.bu_dec_l2 = _PyramidPool(_DECODER[0], planes, _DECODER[1])
        self.bu_dec_l3 = _PyramidPool(_DECODER[1], planes, _DECODER[2])
        self.bu_dec_l4 = _PyramidPool(_DECODER[2], planes, int(config.num_labels or 0), last=True)
        self.merge_enc_dec_l2 = _Weighted(widths[2], _DECODER[0])
        self.merge_enc_dec_l3 = _Weighted(widths[1], _DECODER[1])
        self.merge_enc_dec_l4 = _Weighted(widths[0], _DECODER[2])
        self.bu_br_l2 = nn.Sequential(nn.BatchNorm2d(_DECODER[0]), nn.PReLU(_DECODER[0]))
        self.bu_br_l3 = nn.Sequential(nn.BatchNorm2d(_DECODER[1]), nn.PReLU(_DECODER[1]))
        self.bu_br_l4 = nn.Sequential(nn.BatchNorm2d(_DECODER[2]), nn.PReLU(_DECODER[2]))
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        """(B, 3, H, W) normalised pixels to ``logits`` (B, classes, H/2, W/2)."""
        levels = self.base_net(pixel_values)
        y = self.bu_dec_l1(levels.four)
        y = self.bu_dec_l2(self.bu_br_l2(self.merge_enc_dec_l2(levels.three) + _enlarged(y, levels.three)))
        y = self.bu_dec_l3(self.bu_br_l3(self.merge_enc_dec_l3(levels.two) + _enlarged(y, levels.two)))
        y = self.bu_dec_l4(self.bu_br_l4(self.merge_enc_dec_l4(levels.one) + _enlarged(y, levels.one)))
        return SemanticSegmenterOutput(logits=y)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def espnet_config(scale: float, classes: int, projection: int = 10) -> ESPNetv2Config:
    """A configuration for one of :data:`SCALES`."""
    config = ESPNetv2Config(scale=scale, projection=projection)
    config.num_labels = classes
    return config


def config_of_checkpoint(weights: Mapping[str, torch.Tensor]) -> ESPNetv2Config | None:
    """The configuration that the authors' checkpoint was made with, ``None`` where it is no ESPNetv2."""
    try:
        widths = (len(weights["base_net.level1.conv.weight"]), len(weights["base_net.level2_0.act.weight"]))
        classes, planes = weights["bu_dec_l4.merge_layer.3.weight"].shape[:2]
    except KeyError:
        return None
    scale = next((scale for scale, known in _WIDTHS.items() if known[:2] == widths), None)
    return None if scale is None else espnet_config(scale, classes, planes)


class _Encoder(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, two, three, four = widths
        self.level1 = _NamedConv(3, one, 3, stride=2)
        self.level2_0 = _Downsampler(one, two, _FIELDS[0])
        self.level3_0 = _Downsampler(two, three, _FIELDS[1])
        self.level3 = nn.ModuleList(_Pyramid(three, three, _FIELDS[2]) for _ in range(_REPEATS[0]))
        self.level4_0 = _Downsampler(three, four, _FIELDS[2])
        self.level4 = nn.ModuleList(_Pyramid(four, four, _FIELDS[3]) for _ in range(_REPEATS[1]))

    def forward(self, pixels: torch.Tensor) -> _Levels:
        one = self.level1(pixels)
        two = self.level2_0(one, pixels)
        three = self.level3_0(two, pixels)
        for block in self.level3:
            three = block(three)
        four = self.level4_0(three, pixels)
        for block in self.level4:
            four = block(four)
        return _Levels(one, two, three, four)


class _Pyramid(nn.Module):
    """EESP, the extremely efficient spatial pyramid: reduce, split into dilated branches, add them up, merge."""

    def __init__(self, inputs: int, outputs: int, field: int, stride: int = 1) -> None:
        super().__init__()
        width = outputs // _BRANCHES
        # Branch i sees 3 + 2i pixels; beyond the limit it falls back to 3, and all are ordered by what they see.
        seen = sorted(size if size <= field else 3 for size in range(3, 3 + 2 * _BRANCHES, 2))
        self.proj_1x1 = _NamedConv(inputs, width, 1, groups=_BRANCHES)
        self.spp_dw = nn.ModuleList(_Dilated(width, stride, (size - 1) // 2) for size in seen)
        self.conv_1x1_exp = _NamedConv(outputs, outputs, 1, groups=_BRANCHES, activated=False)
        self.br_after_cat = _NamedNorm(outputs)
        self.module_act = nn.PReLU(outputs)
        self._halves = stride == 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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


class _Downsampler(nn.Module):
    """Half the size, more channels: an average beside a strided pyramid, and the input image once more."""

    def __init__(self, inputs: int, outputs: int, field: int) -> None:
        super().__init__()
        self.eesp = _Pyramid(inputs, outputs - inputs, field, stride=2)
        self.inp_reinf = nn.Sequential(_NamedConv(3, 3, 3), _NamedConv(3, outputs, 1, activated=False))
        self.act = nn.PReLU(outputs)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        average = _halved(x)
        y = torch.cat([average, self.eesp(x)], dim=1)
        while image.shape[2] > average.shape[2]:
            image = _halved(image)
        return self.act(y + self.inp_reinf(image))


class _PyramidPool(nn.Module):
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
        x = self.projection_layer(x)
        size = (x.shape[2], x.shape[3])
        maps = [self._at(scale, stage, x, size) for scale, stage in zip(_PYRAMID, self.stages, strict=True)]
        return self.br(self.merge_layer(torch.cat(maps, dim=1)))

    @staticmethod
    def _at(scale: float, stage: nn.Module, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        height, width = (max(_SMALLEST_MAP, math.ceil(side * scale)) for side in size)
        if scale < 1:
            return _resized(stage(_averaged(x, (height, width))), size)
        if scale > 1:
            return _averaged(stage(_resized(x, (height, width))), size)
        return stage(x)


class _Weighted(nn.Module):
    """A level of the encoder on its way to the decoder, each channel weighted by the whole frame."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.Sigmoid())
        self.expansion_layer = _Listed("cbr", inputs, outputs, 3, groups=math.gcd(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expansion_layer(x) * self.wt_layer(x)


class _NamedConv(nn.Module):
    """Convolution and batch norm, and PReLU where ``activated``; the checkpoint's names ``conv``, ``bn``, ``act``."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activated: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.PReLU(outputs) if activated else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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


def _enlarged(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return _resized(x, (like.shape[2], like.shape[3]))


def _resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    # The checkpoints were trained with aligned corners.
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _averaged(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
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


AutoConfig.register("espnetv2", ESPNetv2Config)
AutoModelForSemanticSegmentation.register(ESPNetv2Config, ESPNetv2ForSemanticSegmentation)
