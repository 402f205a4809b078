"""How far an activation reaches: the threshold T beyond which int8 saturates, so that one step is T / 127.

onnxruntime.quantization holds the same three methods, but its collectors keep every tensor of every frame, print to
standard output, and search the entropy bin by bin in Python; here a tensor is counted once and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from mile_edge.errors import DataError, RecipeError

METHODS = ("percentile", "entropy", "minmax")
LEVELS = 127
_BINS = 4096
# Levels of one sign: what a threshold's part of the histogram is squeezed into when the loss is measured.
_SQUEEZED = 128


class AbsoluteHistogram:
    """Counts of absolute values in 4096 bins, whose width doubles whenever a larger value comes.

    >>> counts = AbsoluteHistogram()
    >>> counts.add(np.array([0.5, -1.0], np.float32))
    >>> counts.add(np.array([-3.0], np.float32))
    >>> counts.largest
    3.0
    """

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)
        self.reach = 0.0
        self.largest = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count one tensor.

        Raises:
            DataError: a value is NaN or infinite.
        """
        magnitudes = np.abs(values.reshape(-1), dtype=np.float32)
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise DataError(
                "the network's activations hold NaN or infinity on these frames; check the bundle with them"
            )
        if largest == 0.0:
            self.counts[0] += magnitudes.size
            return
        if self.reach == 0.0:
            self.reach = largest
        while self.reach < largest:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, np.int64)])
            self.reach *= 2
        self.largest = max(self.largest, largest)
        places = np.minimum(magnitudes * np.float32(_BINS / self.reach), _BINS - 1).astype(np.int32)
        self.counts += np.bincount(places, minlength=_BINS)

    def percentile(self, share: float) -> float:
        """The value below which ``share`` percent of all magnitudes lie, to a bin's width."""
        cumulated = np.cumsum(self.counts)
        place = int(np.searchsorted(cumulated, cumulated[-1] * share / 100))
        return min(self.largest, (min(place, _BINS - 1) + 1) * self.reach / _BINS)

    def entropy(self) -> float:
        """The threshold whose 128 levels lose the least information, by the Kullback-Leibler divergence.

        Migacz, "8-bit inference with TensorRT", GTC 2017: what is clipped counts as the last level.
        """
        counts = self.counts.astype(np.float64)
        # Exact zeros (after ReLU or padding) are exact in int8 as well, and would drown everything else.
        counts[0] = min(counts[0], counts[1])
        best, threshold = np.inf, self.largest
        beyond = np.cumsum(counts[::-1])[::-1]
        for end in range(_SQUEEZED, _BINS + 1, _SQUEEZED // 8):
            kept = counts[:end].copy()
            if not kept.any():
                continue
            squeezed = _squeeze(kept)
            if end < _BINS:
                kept[-1] += beyond[end]
            loss = _divergence(kept, squeezed)
            if loss < best:
                best, threshold = loss, end * self.reach / _BINS
        return min(self.largest, threshold)


def _squeeze(counts: np.ndarray) -> np.ndarray:
    """Counts as 128 levels would show them, spread evenly over each level's bins that were not empty."""
    level = np.arange(len(counts)) * _SQUEEZED // len(counts)
    filled = counts > 0
    total = np.bincount(level, counts, _SQUEEZED)
    bins = np.bincount(level, filled, _SQUEEZED)
    return np.where(filled, (total / np.maximum(bins, 1))[level], 0.0)


def _divergence(true: np.ndarray, other: np.ndarray) -> float:
    p, q = true / true.sum(), other / other.sum()
    there = p > 0
    # A last bin that only holds what was clipped is empty in q: as good as impossible, so nearly infinitely wrong.
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))).sum())


def threshold(histogram: AbsoluteHistogram, method: str, percentile: float) -> float:
    """T of one activation; 0 for one that is always zero.

    Raises:
        RecipeError: the method is unknown.
    """
    if method == "minmax" or histogram.largest == 0.0:
        return histogram.largest
    if method == "percentile":
        return histogram.percentile(percentile)
    if method == "entropy":
        return histogram.entropy()
    raise RecipeError(f"ranges {method!r} are unknown; choose {', '.join(METHODS)}")


def collect(
    run: Callable[[np.ndarray], Iterable[np.ndarray]],
    names: tuple[str, ...],
    frames: Iterable[np.ndarray],
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, AbsoluteHistogram]:
    """Histograms of activations over frames.

    Args:
        run: from one batch of frames to the activations of ``names``, in this order.
        frames: (1, H, W, 3) uint8 each.
        report: called after each frame with the number done.
    """
    histograms = {name: AbsoluteHistogram() for name in names}
    for done, frame in enumerate(frames, 1):
        for histogram, values in zip(histograms.values(), run(frame), strict=True):
            histogram.add(values)
        report(done)
    return histograms
