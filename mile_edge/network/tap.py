"""Where the gate looks: at the first convolution, after an early stage, or at the last one of an extra pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mile_edge.bundle.manifest import TAPS
from mile_edge.errors import RecipeError
from mile_edge.network.base import BaseDescription
from mile_edge.network.gates.feature import PooledFeature
from mile_edge.network.low_rank import LowRankPath


class Tap:
    """The place in a base network whose features choose the expert.

    ``entry`` lies at the frozen product of the first convolution, through the normalisation that follows it: no layer
    lies before it, so experts may adapt every one. ``early`` lies after a stage or two that no expert adapts. ``full``
    reads the last stage, which takes a pass of its own.

    Args:
        base: the network, before or after a pool was made of it.
        description: its parts.
        place: one of :data:`TAPS`.

    Raises:
        RecipeError: there is no such place.
    """

    def __init__(self, base: nn.Module, description: BaseDescription, place: str) -> None:
        if place not in TAPS:
            raise RecipeError(f"tap {place!r} is unknown; choose entry or early (one pass) or full (two passes)")
        self.own_pass = place == "full"
        self._base, self._pooled = base, PooledFeature()
        name = {"entry": description.entry, "early": description.early_tap, "full": description.full_tap}[place]
        module = base.get_submodule(name)
        self._module = module.frozen if isinstance(module, LowRankPath) else module
        self._norm = description.entry_norm if place == "entry" else None

    def on_feature(self, use: Callable[[torch.Tensor], None]) -> RemovableHandle:
        """Call ``use`` with the pooled feature (B, D) float32 at every pass, until the handle is removed."""

        def read(_module: nn.Module, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            features = output[0] if isinstance(output, tuple) else output
            if self._norm is not None:
                # Looked up now: a network made half precision has another module in its place.
                features = self._base.get_submodule(self._norm)(features.flatten(2).transpose(1, 2))
            use(self._pooled(features))

        return self._module.register_forward_hook(read)
