"""Intersection over union against labels, gathered frame by frame.

IoU of a class = pixels that are it in truth and prediction, over pixels that are it in either; void pixels (255) of the
truth count nowhere. The mean is taken over the classes that occur in the truth, after all pixels of all frames were
added up: a class that a set of frames never shows neither helps nor hurts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from mile_edge.errors import DataError

VOID = 255


def _validate(truth: np.ndarray, mask: np.ndarray) -> None:
    if truth.shape != mask.shape or truth.ndim != 2 or truth.dtype != np.uint8 or mask.dtype != np.uint8:
        raise DataError(
            f"A label {truth.dtype} {truth.shape} cannot be compared with a mask {mask.dtype} {mask.shape}; both must "
            "be (H, W) uint8 of one size."
        )


def _update(truth: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    # One count over all pairs of bytes: leaving out the void pixels first would take twice as long.
    pairs = (truth.astype(np.uint16) << 8) | mask
    counts = np.bincount(pairs.reshape(-1), minlength=1 << 16).reshape(256, 256)[:classes]
    return np.concatenate((counts[:, :classes], counts[:, classes:].sum(axis=1, keepdims=True)), axis=1)


def _compute(confusion: np.ndarray) -> np.ndarray:
    classes = len(confusion)
    hits = np.diagonal(confusion).astype(np.float64)
    truth = confusion.sum(axis=1)
    union = truth + confusion[:, :classes].sum(axis=0) - hits
    return np.where(truth > 0, hits / np.maximum(union, 1), np.nan)


def confusion(truth: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by true and predicted class.

    Args:
        truth: (H, W) uint8 class ids, 255 = void.
        mask: (H, W) uint8 class ids.
        classes: size of the label space C.

    Returns:
        (C, C + 1) int64: row = truth, column = prediction, the last for ids outside the label space.

    Raises:
        DataError: shapes or types do not fit.

    >>> confusion(np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 1]], np.uint8), 2).tolist()
    [[1, 0, 0], [1, 0, 0]]
    """
    _validate(truth, mask)
    return _update(truth, mask, classes)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """IoU per class (C,) float64 from a confusion (C, C + 1); NaN for classes that the truth never shows.

    >>> class_iou(np.array([[3, 1, 0], [0, 4, 0]])).tolist()
    [0.75, 0.8]
    """
    return _compute(counts)


def mean_iou(counts: np.ndarray) -> float | None:
    """Mean IoU over the classes in the truth, None where there is no labelled pixel.

    >>> mean_iou(np.array([[3, 1, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0]]))
    0.775
    """
    values = _compute(counts)
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else None


class LabelScores:
    """Confusions by topic and domain, so that any grouping can be scored at the end."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._counts: dict[tuple[str, str], np.ndarray] = defaultdict(
            lambda: np.zeros((classes, classes + 1), np.int64)
        )

    def add(self, topic: str, domain: str, truth: np.ndarray, mask: np.ndarray) -> float | None:
        """Add one labelled frame; (H, W) uint8 each.

        Returns:
            The frame's own mean IoU, None where it is all void.
        """
        counts = confusion(truth, mask, self._classes)
        self._counts[topic, domain] += counts
        return mean_iou(counts)

    @property
    def counts(self) -> Mapping[tuple[str, str], np.ndarray]:
        """The confusion (C, C + 1) of each (topic, domain)."""
        return self._counts

    def merge(self, topic: str, domain: str, counts: np.ndarray) -> None:
        """Add a confusion (C, C + 1) that was counted elsewhere."""
        self._counts[topic, domain] += counts

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains with labels, in the order in which they came."""
        return tuple(dict.fromkeys(domain for _, domain in self._counts))

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics with labels, in the order in which they came."""
        return tuple(dict.fromkeys(topic for topic, _ in self._counts))

    def of(self, *, topic: str | None = None, domain: str | None = None) -> np.ndarray:
        """The confusion (C, C + 1) of one topic, one domain, or all."""
        chosen: Iterable[np.ndarray] = (
            counts
            for (its_topic, its_domain), counts in self._counts.items()
            if topic in (None, its_topic) and domain in (None, its_domain)
        )
        return sum(chosen, np.zeros((self._classes, self._classes + 1), np.int64))
