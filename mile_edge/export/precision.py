"""fp16 networks whose normalisation stays in fp32: half-precision LayerNorm can collapse a network's accuracy."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from mile_edge.network.pool import replace_module


class Float32LayerNorm(nn.Module):
    """LayerNorm that computes in fp32 whatever its input is."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.shape = layer.weight, layer.bias, layer.eps, layer.normalized_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape and type out as in."""
        y = functional.layer_norm(x.float(), self.shape, self.weight.float(), self.bias.float(), self.eps)
        return y.to(x.dtype)


def to_half(network: nn.Module) -> nn.Module:
    """Weights to fp16, LayerNorm in fp32; in place."""
    network.half()
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.LayerNorm):
            replace_module(network, name, Float32LayerNorm(module).float())
    return network
