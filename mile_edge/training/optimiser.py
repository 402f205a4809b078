"""What moves the weights: AdamW, or Muon for matrices and AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from mile_edge.errors import RecipeError

OPTIMISERS = ("adamw", "muon")
# Below this a matrix has so few directions that making them equally strong gains nothing; the pairs of an expert of
# rank 8 do gain: on the street's depth 0.487 mIoU after 300 steps, AdamW 0.466, full fine-tuning 0.503.
_SMALLEST_SIDE = 8
# Muon's steps have the size of AdamW's, but no second moment to shrink them: weights are held back more.
_MUON_DECAY = 0.05


class Optimiser:
    """One or two of torch's optimisers under one roof.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon; step size matched to AdamW's as in Liu et al.,
    2025, arXiv 2502.16982) makes all directions of a matrix's step equally strong. On 305 CamVid frames, 600 steps from
    random weights came to 0.304 mIoU on another drive against AdamW's 0.262.

    Args:
        kind: "adamw" or "muon".
        parameters: everything that is trained.
        lr: learning rate, the same for both.
        weight_decay: of AdamW.

    Raises:
        RecipeError: the kind is unknown.
    """

    def __init__(self, kind: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        if kind not in OPTIMISERS:
            raise RecipeError(f"optimiser {kind!r} is unknown; choose {' or '.join(OPTIMISERS)}")
        every = list(parameters)
        matrices = [each for each in every if kind == "muon" and each.ndim == 2 and min(each.shape) >= _SMALLEST_SIDE]
        chosen = {id(each) for each in matrices}
        others = [each for each in every if id(each) not in chosen]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, lr=lr, weight_decay=_MUON_DECAY, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay))
        self._part_of = {
            parameter: part for part in self._parts for group in part.param_groups for parameter in group["params"]
        }

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return list(self._part_of)

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = lr

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the weights."""
        for part in self._parts:
            part.step()

    def state_of(self, parameter: nn.Parameter) -> Mapping[str, Any]:
        """What must outlive a kill: tensors by name, none before the first step."""
        return self._part_of[parameter].state.get(parameter, {})

    def restore(self, parameter: nn.Parameter, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_of` gave."""
        self._part_of[parameter].state[parameter] = dict(state)
