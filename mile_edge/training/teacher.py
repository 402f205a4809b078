"""A teacher: a whole network, trained on the same task, whose scores an expert learns beside the labels.

Distillation: Hinton, Vinyals, Dean, 2015, arXiv 1503.02531, at temperature 1. An expert's few numbers learn from a few
dozen frames; what the whole network would say of every random view of them, void pixels included, is far more to learn
from than the labels alone. What it gains is in docs/results.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from mile_edge.errors import DataError
from mile_edge.network.base import Base, load_base
from mile_edge.training.device import reduced_precision

# Of the loss; the rest is the labels'.
SHARE = 0.5


class Teacher:
    """A frozen network whose scores are part of the loss.

    Args:
        network: with the student's classes, in its order.
    """

    def __init__(self, network: Base) -> None:
        self.network = network.eval().requires_grad_(False)

    def to(self, place: torch.device) -> None:
        """Move the network to a device."""
        self.network.to(place)

    def share_in(self, loss: torch.Tensor, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The loss of the labels and the teacher's, as one.

        Args:
            loss: of the labels.
            pixels: (B, 3, H, W) normalised.
            scores: (B, classes, h, w) of the student, at its own resolution.
        """
        kind = pixels.device.type
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=reduced_precision(kind)):
            said = self.network(pixel_values=pixels).logits
        said = said.float()
        if said.shape[2:] != scores.shape[2:]:
            said = functional.interpolate(said, size=scores.shape[2:], mode="bilinear", align_corners=False)
        known, learnt = functional.log_softmax(said, 1), functional.log_softmax(scores.float(), 1)
        apart = functional.kl_div(learnt, known, reduction="none", log_target=True).sum(1).mean()
        return (1 - SHARE) * loss + SHARE * apart


def load_teacher(source: str, classes: Sequence[str]) -> Teacher:
    """A teacher for a task.

    Args:
        source: folder of a network that was trained on the same classes, see
            :func:`mile_edge.network.base.load_base`.
        classes: names, in the task's order.

    Raises:
        DataError: it knows other classes, or the same in another order.
        RecipeError: it cannot be loaded.
    """
    network = load_base(source)
    known = {int(index): name for index, name in (network.config.id2label or {}).items()}
    names = [known[index] for index in sorted(known)]
    if names != list(classes):
        raise DataError(
            f"teacher {source!r} knows the classes {', '.join(names)} and the data has {', '.join(classes)}; "
            "train one on this data with `mile-edge train base`"
        )
    return Teacher(network)
