"""Mean IoU of a network on labelled frames, at the labels' own resolution."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mile_edge.data.folder import VOID, LabelledFrame
from mile_edge.network.pixels import to_pixels


@torch.inference_mode()
def confusion_matrix(
    network: nn.Module, frames: Iterable[LabelledFrame], size: tuple[int, int], num_classes: int
) -> np.ndarray:
    """Pixels by true class (row) and predicted class (column), (classes, classes) int64.

    Args:
        network: (B, 3, H, W) normalised pixels to (B, classes, h, w) scores.
        size: (height, width) the network runs at; scores are enlarged to each label.
    """
    total = np.zeros((num_classes, num_classes), np.int64)
    for sample in frames:
        if sample.label is None:
            continue
        predicted = predict(network, sample.frame, size, sample.label.shape)
        known = sample.label != VOID
        pairs = sample.label[known].astype(np.int64) * num_classes + predicted[known]
        total += np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return total


def predict(network: nn.Module, frame: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to a mask of ``shape``, uint8: decided at the network's size, then enlarged like on the robot."""
    scores = network(to_pixels(frame[None], size))
    mask = functional.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False).argmax(dim=1)
    return functional.interpolate(mask[:, None].float(), size=shape, mode="nearest-exact")[0, 0].byte().numpy()


def iou(confusion: np.ndarray) -> np.ndarray:
    """IoU per class (classes,), NaN for a class that is neither labelled nor predicted nowhere."""
    hit = np.diag(confusion).astype(float)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit / union


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU over the classes that occur in the labels; NaN where nothing is labelled."""
    present = confusion.sum(axis=1) > 0
    return float(iou(confusion)[present].mean()) if present.any() else float("nan")
