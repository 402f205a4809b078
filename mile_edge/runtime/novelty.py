"""Whether a stream shows a domain that no expert knows: scores of single frames, smoothed, with hysteresis."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mile_edge.bundle.gate import MIXING_KINDS
from mile_edge.errors import ExpertError
from mile_edge.runtime.novelty_model import NoveltyModel

WINDOW = 10
# A frame counts for at most so many limits, so that one broken frame in a window of ten alarms nobody; four do.
_MOST = 3.0
# A novel stream is known again below this share of the limit.
_LEAVE = 0.8
FALLBACKS = ("nearest", "base", "mix")


def check_fallback(fallback: str, kind: str) -> str:
    """The name of a fallback policy that a gate of this kind can follow.

    Raises:
        ExpertError: there is no such policy, or the gate does not mix.
    """
    if fallback not in FALLBACKS:
        raise ExpertError(f"fallback {fallback!r} is unknown; choose {', '.join(FALLBACKS)}")
    if fallback == "mix" and kind not in MIXING_KINDS:
        raise ExpertError(
            f"fallback 'mix' needs a gate that mixes experts and this one is {kind}; choose nearest or base"
        )
    return fallback


@dataclass(frozen=True)
class Verdict:
    """What is said of the samples of a batch.

    Attributes:
        frame: (B,) float32, each frame's own score over the limit; NaN where nothing was calibrated.
        stream: (B,) float32, the same smoothed over the stream's last frames.
        novel: (B,) bool.
    """

    frame: np.ndarray
    stream: np.ndarray
    novel: np.ndarray


@dataclass
class _Stream:
    model: NoveltyModel
    scores: deque[float]
    novel: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class NoveltyMonitor:
    """Remembers the last scores of every stream.

    The mean of the last ``window`` scores over the limit makes a stream novel; below 0.8 of it the stream is known
    again. The limit was set for single frames: a mean of frames of known domains exceeds it more rarely, however alike
    they are.

    Attributes:
        window: frames that are averaged, 1 for none; may be set any time.
        limit: in place of the bundle's, ``None`` for that; may be set any time.
    """

    def __init__(self, window: int = WINDOW, limit: float | None = None) -> None:
        self.window, self.limit = window, limit
        self._streams: dict[Hashable, _Stream] = {}

    def forget(self) -> None:
        """Drop what is known of every stream."""
        self._streams.clear()

    def is_novel(self, stream: Hashable) -> bool:
        """What was last said of a stream; False before its first frame."""
        found = self._streams.get(stream)
        return found is not None and found.novel

    def judge(self, model: NoveltyModel, distance: np.ndarray, streams: Sequence[Hashable]) -> Verdict:
        """Take in a batch. All loaded experts count: pins and restrictions choose who serves, not what is known.

        Args:
            model: of the bundle's state that the batch was gated by. When another comes, an expert has come or gone and
                older scores say nothing any more.
            distance: (B, E).
            streams: whose frames these are, B of them, in order.
        """
        limit = model.limit if self.limit is None else self.limit
        nearest = model.nearest(distance)
        frame = model.score(distance, nearest) / limit
        if model.calibrated:
            # Nobody knows a frame that lies nowhere.
            frame = np.where(np.isfinite(distance[np.arange(len(distance)), nearest]), frame, _MOST)
        said = [self._add(model, stream, float(score)) for stream, score in zip(streams, frame, strict=True)]
        smooth, novel = zip(*said, strict=True)
        return Verdict(frame.astype(np.float32), np.array(smooth, np.float32), np.array(novel, bool))

    def _add(self, model: NoveltyModel, name: Hashable, score: float) -> tuple[float, bool]:
        stream = self._streams.get(name)
        if stream is None or stream.model is not model:
            stream = self._streams[name] = _Stream(model, deque())
        if not np.isfinite(score):
            return score, False
        with stream.lock:
            stream.scores.append(min(score, _MOST))
            while len(stream.scores) > max(1, self.window):
                stream.scores.popleft()
            mean = sum(stream.scores) / len(stream.scores)
            stream.novel = mean > (_LEAVE if stream.novel else 1.0)
            return mean, stream.novel
