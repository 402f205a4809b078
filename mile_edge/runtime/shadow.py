"""An expert in shadow: what would it have said on some frames whose masks are out, and would it have been asked?

The graph is one and experts are its inputs, so a shadow pass is one more pass of the same graph with the candidate's
row open and all others shut, and with the prototypes and the whitening that the gate would have if the candidate were
live. Its distances tell whom the gate would have chosen, its mask how the candidate agrees with the live choice. The
live frames keep their own inputs and do not change by a bit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle, ShadowPlan
from mile_edge.bundle.candidate import Candidate
from mile_edge.errors import MileError
from mile_edge.runtime.bank import GateState
from mile_edge.runtime.gate_inputs import NEVER
from mile_edge.runtime.shadow_report import ShadowReport, agreement, per_class

# Latencies of the newest passes are kept, so that a long run does not grow.
KEPT = 4096


@dataclass(frozen=True)
class Sample:
    """One live frame to be compared, in copies of its own.

    frame: (1, h, w, 3) uint8 at the network's size; mask: (h, w) uint8, the live choice; bias: (E,) float32, the live
    gate's before any fallback.
    """

    frame: np.ndarray
    mask: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """What one shadow pass found: the candidate's mask (h, w) uint8, whether the gate would have picked it, its ms."""

    mask: np.ndarray
    picked: bool
    milliseconds: float


def pass_inputs(state: GateState, name: str, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """What a shadow pass reads, and by what its distances are judged.

    Args:
        state: of the live gate, with the candidate's beside it.
        name: the candidate's.
        bias: (E,) float32 of the live frame.

    Returns:
        (E,) float32 that shuts all rows but the candidate's; (E,) float32 of the gate had it been live; its row.
    """
    assert state.shadow is not None
    row = state.shadow.rows[name]
    forced = np.full_like(bias, NEVER)
    forced[row] = 0
    judged = bias.copy()
    old = state.rows.get(name)
    # A frame that was for certain experts only would not have been for a new one.
    restricted = (bias[state.bias > NEVER / 2] <= NEVER / 2).any()
    judged[row] = NEVER if restricted else 0
    if old is not None:
        # It would take the place of the one of its name, pinned or not.
        judged[row], judged[old] = bias[old], NEVER
    judged[state.shadow.bias <= NEVER / 2] = NEVER
    return forced, judged, row


class ShadowRun:
    """Compares, counts, and settles when the plan's frames are done; on a thread of its own.

    Args:
        name: the candidate's.
        plan: its plan.
        classes: names of the classes, by id, as they are once it is live.
        compare: runs one shadow pass; None when the candidate is gone.
        settle: called with the report when the frames are done; makes the candidate live or withdraws it, says which.
    """

    def __init__(
        self,
        name: str,
        plan: ShadowPlan,
        classes: tuple[str, ...],
        compare: Callable[[Sample], Comparison | None],
        settle: Callable[[ShadowReport], str],
    ) -> None:
        self._name, self._plan, self._classes = name, plan, classes
        self._compare, self._settle = compare, settle
        self._wake = threading.Condition()
        self._waiting: Sample | None = None
        self._busy = False
        self._outcome, self._problem = "running", ""
        self._seen = self._skipped = self._compared = self._picked = 0
        self._pairs = np.zeros((2, len(classes), len(classes)), np.int64)
        self._milliseconds: deque[float] = deque(maxlen=KEPT)
        self._thread = threading.Thread(target=self._run, name=f"mile_edge shadow {name}", daemon=True)
        self._thread.start()

    def offer(self, frames: np.ndarray, masks: np.ndarray, bias: np.ndarray) -> None:
        """Take what is due of a batch: (B, h, w, 3) uint8, (B, h, w) uint8 and (B, E) float32; never waits long."""
        for place in range(len(frames)):
            with self._wake:
                self._seen += 1
                if self._seen % self._plan.every or self._outcome != "running":
                    continue
                if self._busy:
                    self._skipped += 1
                    continue
                self._busy = True
            sample = Sample(frames[place : place + 1].copy(), masks[place].copy(), bias[place].copy())
            with self._wake:
                self._waiting = sample
                self._wake.notify_all()

    def report(self) -> ShadowReport:
        """What is known now."""
        with self._wake:
            everything = self._pairs.sum(axis=0)
            times = list(self._milliseconds)
            return ShadowReport(
                self._name,
                self._plan,
                self._compared,
                self._picked,
                agreement(everything),
                agreement(self._pairs[1]),
                per_class(everything, self._classes),
                {f"p{rank}": float(np.percentile(times, rank)) for rank in (50, 95)} if times else {},
                self._skipped,
                self._outcome,
                self._problem,
            )

    def wait(self, seconds: float | None = None) -> bool:
        """Until nothing is being compared or settled; False when that took longer."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._busy, seconds)

    def end(self) -> None:
        """Compare no more; a pass that is running is left to finish by itself."""
        with self._wake:
            if self._outcome == "running":
                self._outcome = "left"
            self._wake.notify_all()

    def join(self) -> None:
        """Wait for the thread, after `end`."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting is not None or self._outcome != "running")
                if self._outcome != "running":
                    # A sample that came last is compared no more, and nobody is to wait for it.
                    self._busy = False
                    self._wake.notify_all()
                    return
                sample, self._waiting = self._waiting, None
            try:
                assert sample is not None
                self._one(sample)
            except MileError as error:
                # A pass that failed, or a disk that refused: the live frames go on, and the next sample tries again.
                with self._wake:
                    self._problem = str(error)
            except Exception as error:
                # Nobody sees a thread die: the run is over, and its report says of what.
                with self._wake:
                    self._outcome, self._problem = "left", f"the comparison failed: {error!r}"
            finally:
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()

    def _one(self, sample: Sample) -> None:
        found = self._compare(sample)
        if found is None:
            return
        count = len(self._classes)
        if max(sample.mask.max(), found.mask.max()) >= count:
            # A class that came meanwhile: this run is about to be begun anew.
            return
        pairs = np.bincount(
            sample.mask.ravel().astype(np.int64) * count + found.mask.ravel(), minlength=count * count
        ).reshape(count, count)
        with self._wake:
            self._pairs[int(found.picked)] += pairs
            self._compared += 1
            self._picked += found.picked
            self._milliseconds.append(found.milliseconds)
            done = self._compared >= self._plan.frames
        if done:
            outcome = self._settle(self.report())
            with self._wake:
                self._outcome, self._problem = outcome, ""


class ShadowWatch:
    """The run of whatever candidate a bundle has; the newest run's report stays readable after it.

    Args:
        compare: runs one shadow pass.
        settle: makes this candidate live or withdraws it, and no other; says which.
        runs: False leaves every candidate as it is.
    """

    def __init__(
        self,
        compare: Callable[[str, Sample], Comparison | None],
        settle: Callable[[Candidate, ShadowReport], str],
        runs: bool = True,
    ) -> None:
        self._compare, self._settle, self._runs = compare, settle, runs
        self._run: ShadowRun | None = None
        self._of: tuple[object, ...] = ()
        self._lock, self._closed = threading.Lock(), False
        #: Whom the run going on is about; None while there is none.
        self.candidate: Candidate | None = None

    def follow(self, bundle: Bundle) -> None:
        """Begin or end the run as the bundle has a candidate or none; the same one under the same classes goes on."""
        if not self._runs:
            return
        view = bundle.as_if_live()
        candidate = bundle.manifest.candidate
        of = () if view is None else (candidate, view.manifest.classes)
        if of == self._of:
            return
        with self._lock:
            # A change that was going on when the segmenter was closed: nobody would end what it began.
            if self._closed:
                return
            before, self._of, self.candidate = self._run, of, candidate
            if view is not None and candidate is not None:
                classes = tuple(label.name for label in view.manifest.classes)
                compare, settle = partial(self._compare, candidate.name), partial(self._settle, candidate)
                self._run = ShadowRun(candidate.name, candidate.plan, classes, compare, settle)
        # Whoever waits for the old one finds the new one in its place.
        if before is not None:
            before.end()

    @property
    def goes_on(self) -> bool:
        """Whether there is a run to offer frames to."""
        return bool(self._of) and self._run is not None

    def offer(self, frames: Any, masks: Any, bias: np.ndarray) -> None:
        """As `ShadowRun.offer`; frames and masks on a device are not taken."""
        if self.goes_on and self._run is not None and isinstance(frames, np.ndarray) and isinstance(masks, np.ndarray):
            self._run.offer(frames, masks, bias)

    def report(self) -> ShadowReport | None:
        """Of the run going on, or of the last one; None before the first."""
        return None if self._run is None else self._run.report()

    def wait(self, seconds: float | None = None) -> bool:
        """As `ShadowRun.wait`."""
        return self._run is None or self._run.wait(seconds)

    def close(self) -> None:
        """End the run, wait for its thread, and begin none any more."""
        with self._lock:
            self._closed = True
        if self._run is not None:
            self._run.end()
            self._run.join()
