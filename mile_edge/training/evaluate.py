"""Mean IoU of a network on labelled frames, at the labels' own resolution."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mile_edge.data.folder import LabelledFrame
from mile_edge.network.pixels import to_pixels
from mile_edge.replay.scores import confusion
from mile_edge.runtime.resize import restore


@torch.inference_mode()
def confusion_matrix(
    network: nn.Module, frames: Iterable[LabelledFrame], size: tuple[int, int], num_classes: int
) -> np.ndarray:
    """Pixels by true class (row) and predicted class (column), see :func:`mile_edge.replay.scores.confusion`.

    Args:
        network: (B, 3, H, W) normalised pixels to (B, classes, h, w) scores.
        size: (height, width) the network runs at; masks are enlarged to each label as on the robot.
    """
    total = np.zeros((num_classes, num_classes + 1), np.int64)
    for sample in frames:
        if sample.label is not None:
            predicted = predict(network, sample.frame, size, sample.label.shape)
            total += confusion(sample.label, predicted, num_classes)
    return total


def predict(network: nn.Module, frame: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to a mask of ``shape``, uint8: decided at the network's size, then enlarged like on the robot."""
    place = next((parameter.device for parameter in network.parameters()), None)
    scores = network(to_pixels(frame[None], size).to(place))
    mask = functional.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False).argmax(dim=1)
    return restore(mask.byte().cpu().numpy(), shape)[0]
