"""How much each class counts in the loss, however rare its pixels are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mile_edge.data.folder import VOID, LabelledFrame
from mile_edge.errors import DataError


def weights_of(frames: Sequence[LabelledFrame], num_classes: int, exponent: float) -> torch.Tensor:
    """:func:`class_weights` of labelled frames.

    Raises:
        DataError: labels beyond the classes.
    """
    counts = np.zeros(256, np.int64)
    for frame in frames:
        counts += np.bincount(np.asarray(frame.label).ravel(), minlength=256)
    beyond = [value for value in np.flatnonzero(counts) if num_classes <= value != VOID]
    if beyond:
        raise DataError(f"labels hold class ids {beyond[:5]}, but there are {num_classes} classes; mend classes.yaml")
    return class_weights(counts, num_classes, exponent)


def class_weights(counts: np.ndarray, num_classes: int, exponent: float) -> torch.Tensor:
    """Cost of each class (num_classes,) from pixels by class id: a power of its inverse frequency, 0.2 to 5."""
    share = np.maximum(counts[:num_classes], 1) / max(1, counts[:num_classes].sum())
    weights = np.clip((1 / (num_classes * share)) ** exponent, 0.2, 5.0) if exponent else np.ones(num_classes)
    return torch.from_numpy(np.where(counts[:num_classes] > 0, weights, 1.0)).float()
