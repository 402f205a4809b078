"""How far a build is, and a thread of its own for it, so that an interrupt ends it cleanly."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mile_edge.runtime.tensorrt.api import Api

_Result = TypeVar("_Result")
_LAST_WORDS_S = 1.0


@dataclass(frozen=True)
class BuildProgress:
    """One moment of a build: the phase, and how far it is from 0 to 1."""

    phase: str
    done: float


def aside(stop: threading.Event, work: Callable[[], _Result]) -> _Result:
    """Do the work in another thread: an interrupt raised inside one of TensorRT's callbacks would end the process.

    Args:
        stop: set when the caller is interrupted; the work must then end soon, by itself.

    Raises:
        BaseException: what the work raised, or what interrupted the caller once the work is over.
    """
    done: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.1)
    except BaseException:
        stop.set()
        worker.join()
        # The failure's frames hold TensorRT's objects, and its own threads log a little longer (seen with RTX 1.7): an
        # interpreter that ends before both are through is aborted inside the logger.
        failed.clear()
        done.clear()
        gc.collect()
        time.sleep(_LAST_WORDS_S)
        raise
    if failed:
        raise failed[0]
    return done[0]


def monitor(api: Api, report: Callable[[BuildProgress], None], stop: threading.Event) -> Any:
    """An ``IProgressMonitor`` that reports from TensorRT's threads, one moment at a time, and ends it at ``stop``."""
    trt = api.module

    # Its base is known only once one of several TensorRT modules is chosen.
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        """Turns TensorRT's tree of phases into one share between 0 and 1."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            # Phase -> (where it begins, how much of the whole it is, its steps).
            self._phases: dict[str, tuple[float, float, int]] = {}
            self._at: dict[str, float] = {}
            self._done = 0.0
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                steps = max(1, num_steps)
                if parent_phase is None or parent_phase not in self._phases:
                    start, share = 0.0, 1.0
                else:
                    _, whole, parent_steps = self._phases[parent_phase]
                    start, share = self._at[parent_phase], whole / parent_steps
                self._phases[phase_name], self._at[phase_name] = (start, share, steps), start
                self._tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._phases:
                    start, share, steps = self._phases[phase_name]
                    self._at[phase_name] = start + share * min(1.0, (step + 1) / steps)
                    self._tell(phase_name)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                if phase_name in self._phases:
                    start, share, _ = self._phases.pop(phase_name)
                    self._at[phase_name] = start + share
                    self._tell(phase_name)

        def _tell(self, phase: str) -> None:
            self._done = max(self._done, min(1.0, self._at[phase]))
            report(BuildProgress(phase, self._done))

    return Monitor()
