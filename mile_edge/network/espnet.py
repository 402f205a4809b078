"""ESPNetv2 for segmentation: Mehta, Rastegari, Shapiro, Hajishirzi, CVPR 2019, arXiv 1811.11431.

A convolutional base of 0.09 to 0.8 million weights, as proof that the base is a parameter. Modules carry the names of
the authors' published checkpoints, so that these load with nothing missing and nothing unexpected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSemanticSegmentation, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput

from mile_edge.network.espnet_blocks import Downsampler, NamedConv, Pyramid, PyramidPool, Weighted, enlarged

# Channels of the encoder's four levels by the paper's scale s (its table 2).
_WIDTHS = {
    0.5: (16, 32, 64, 128),
    1.0: (32, 64, 128, 256),
    1.25: (32, 80, 160, 320),
    1.5: (32, 96, 192, 384),
    2.0: (32, 128, 256, 512),
}
SCALES = tuple(_WIDTHS)
_REPEATS = (3, 7)
# Largest receptive field of a block's branches, level by level: level2_0, level3_0, level3 and level4_0, level4.
_FIELDS = (13, 11, 9, 7)
_DECODER = (64, 48, 32)


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
        self.bu_dec_l1 = PyramidPool(widths[3], planes, _DECODER[0])
        self.bu_dec_l2 = PyramidPool(_DECODER[0], planes, _DECODER[1])
        self.bu_dec_l3 = PyramidPool(_DECODER[1], planes, _DECODER[2])
        self.bu_dec_l4 = PyramidPool(_DECODER[2], planes, int(config.num_labels or 0), last=True)
        self.merge_enc_dec_l2 = Weighted(widths[2], _DECODER[0])
        self.merge_enc_dec_l3 = Weighted(widths[1], _DECODER[1])
        self.merge_enc_dec_l4 = Weighted(widths[0], _DECODER[2])
        self.bu_br_l2 = nn.Sequential(nn.BatchNorm2d(_DECODER[0]), nn.PReLU(_DECODER[0]))
        self.bu_br_l3 = nn.Sequential(nn.BatchNorm2d(_DECODER[1]), nn.PReLU(_DECODER[1]))
        self.bu_br_l4 = nn.Sequential(nn.BatchNorm2d(_DECODER[2]), nn.PReLU(_DECODER[2]))
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        """(B, 3, H, W) normalised pixels to ``logits`` (B, classes, H/2, W/2)."""
        levels = self.base_net(pixel_values)
        y = self.bu_dec_l1(levels.four)
        y = self.bu_dec_l2(self.bu_br_l2(self.merge_enc_dec_l2(levels.three) + enlarged(y, levels.three)))
        y = self.bu_dec_l3(self.bu_br_l3(self.merge_enc_dec_l3(levels.two) + enlarged(y, levels.two)))
        y = self.bu_dec_l4(self.bu_br_l4(self.merge_enc_dec_l4(levels.one) + enlarged(y, levels.one)))
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
        self.level1 = NamedConv(3, one, 3, stride=2)
        self.level2_0 = Downsampler(one, two, _FIELDS[0])
        self.level3_0 = Downsampler(two, three, _FIELDS[1])
        self.level3 = nn.ModuleList(Pyramid(three, three, _FIELDS[2]) for _ in range(_REPEATS[0]))
        self.level4_0 = Downsampler(three, four, _FIELDS[2])
        self.level4 = nn.ModuleList(Pyramid(four, four, _FIELDS[3]) for _ in range(_REPEATS[1]))

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


AutoConfig.register("espnetv2", ESPNetv2Config)
AutoModelForSemanticSegmentation.register(ESPNetv2Config, ESPNetv2ForSemanticSegmentation)
