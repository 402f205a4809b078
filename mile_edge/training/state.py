"""The weights of a run, their running average, the best so far, and what of the optimiser must outlive a kill."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from mile_edge.data.folder import LabelledFrame
from mile_edge.replay.scores import mean_iou
from mile_edge.training.evaluate import confusion_matrix
from mile_edge.training.optimiser import Optimiser

# Of AdamW, and of Muon.
_KEYS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


class TrainingState:
    """Everything that a resumed run needs: weights, their average, the best so far, and the optimiser's moments."""

    def __init__(
        self,
        network: nn.Module,
        parameters: dict[str, nn.Parameter],
        optimiser: Optimiser,
        decay: float,
        train_statistics: bool,
    ) -> None:
        self.network, self.optimiser, self.decay = network, optimiser, decay
        self.live: dict[str, torch.Tensor] = dict(parameters)
        if train_statistics:
            self.live |= {n: b for n, b in network.named_buffers() if b.is_floating_point()}
        self.parameters = parameters
        # What a forward pass counts, such as votes for ranks, is no weight: not averaged, but it outlives a kill.
        self.counted = {n: b for n, b in network.named_buffers() if n not in self.live}
        self.average = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self.best = copy.deepcopy(self.average)

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the average towards the live weights; quickly at first, when these are still far from anything good."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self.live.items():
            self.average[name].lerp_(tensor.detach(), 1 - decay)

    def validate(self, frames: Sequence[LabelledFrame], size: tuple[int, int], num_classes: int) -> float:
        """Mean IoU of the averaged weights on held-out frames, NaN without any; the live weights stay as they are."""
        if not frames:
            return float("nan")
        live = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self._write(self.average)
        self.network.eval()
        miou = mean_iou(confusion_matrix(self.network, frames, size, num_classes))
        self._write(live)
        return float("nan") if miou is None else miou

    def keep_best(self) -> None:
        """Remember the averaged weights as the best so far."""
        self.best = {name: tensor.clone() for name, tensor in self.average.items()}

    def put_best(self) -> None:
        """Put the best weights into the network."""
        self._write(self.best)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it by name, for a checkpoint."""
        groups = {"live": self.live, "average": self.average, "best": self.best}
        tensors = {f"{group}.{name}": _here(t) for group, of in groups.items() for name, t in of.items()}
        tensors |= {f"counted.{name}": _here(tensor) for name, tensor in self.counted.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state_of(parameter).items():
                tensors[f"optimiser.{key}.{name}"] = _here(value)
        return tensors

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""
        self._write({name: tensors[f"live.{name}"] for name in self.live})
        for name, tensor in self.counted.items():
            tensor.copy_(tensors.get(f"counted.{name}", tensor))
        self.average = {name: tensors[f"average.{name}"].to(live.device, copy=True) for name, live in self.live.items()}
        self.best = {name: tensors[f"best.{name}"].to(live.device, copy=True) for name, live in self.live.items()}
        for name, parameter in self.parameters.items():
            found = {key: tensors[f"optimiser.{key}.{name}"] for key in _KEYS if f"optimiser.{key}.{name}" in tensors}
            if found:
                self.optimiser.restore(parameter, {key: _there(key, value, parameter) for key, value in found.items()})

    @torch.no_grad()
    def _write(self, values: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.live.items():
            tensor.copy_(values[name])


def _here(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _there(key: str, value: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    # torch's optimisers count their steps on the host.
    return value.clone() if key == "step" else value.to(parameter.device, copy=True)
