"""The segmenter's part for experts that come, are watched, go live, and go."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle, ShadowPlan, Trust, set_fusion_head
from mile_edge.bundle.candidate import Candidate
from mile_edge.bundle.commit import MANIFEST
from mile_edge.errors import BackendError
from mile_edge.runtime.backends import Backend
from mile_edge.runtime.bank import Bank, GateState
from mile_edge.runtime.giving_way import giving_way
from mile_edge.runtime.shadow import Comparison, Sample, ShadowWatch, pass_inputs
from mile_edge.runtime.shadow_report import ShadowReport

# A shadow pass waits so long, in seconds, for a moment without a live frame; frames back to back leave none.
_PAUSE_S = 1.0
CLOSED = "the segmenter is closed; open the bundle again"


class ExpertChanges(ABC):
    """What :class:`mile_edge.runtime.segmenter.Segmenter` does when its bundle changes.

    Attributes:
        trust: what an expert file must show before it is taken; may be set any time.
    """

    trust: Trust
    _bundle: Bundle
    _bank: Bank
    _backend: Backend
    _change: threading.Lock
    _idle: threading.Condition
    _in_flight: dict[int, GateState]
    _pins: dict[Hashable, str]
    _closed: bool

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, int]:
        """Row of the bank of each loaded expert."""

    @abstractmethod
    def _frame(self) -> AbstractContextManager[GateState]: ...

    @abstractmethod
    def _follow_fusion(self, bundle: Bundle) -> None: ...

    def _open_changes(self, bundle: Bundle, shadow: bool) -> None:
        self.trust = Trust()
        # Nothing yet: what was changed while the bundle was being opened must not be missed.
        self._seen: tuple[int, ...] = ()
        self._shadow = ShadowWatch(self._shadow_pass, self._settle, shadow)
        self._shadow.follow(bundle)

    def add_expert(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        sha256: str = "",
        replaces: bool = False,
        downgrade: bool = False,
        shadow: int | ShadowPlan | None = None,
    ) -> str:
        """Add an expert file to the bundle and to the running bank; the next frame may use it, none is delayed.

        Args:
            path: the file; :attr:`trust` says what it must show.
            name: another name than the file's own.
            sha256: what the file's bytes must have; empty where nobody said.
            replaces: take the place of the expert of that name. In a full bundle there is no row for both: until the
                disk has the new one, frames that may go to this expert only, by a pin or ``only``, go to the base.
            downgrade: take it although a newer version of its name was here.
            shadow: compare it with the live choice on so many frames before it goes live, see `ShadowPlan`.

        Returns:
            the expert's name.

        Raises:
            ExpertError: the file is refused or does not fit this bundle; nothing has changed.
            BundleError: the bundle is full or cannot be written; nothing has changed.
            BackendError: the segmenter is closed.
        """
        plan = ShadowPlan(shadow) if isinstance(shadow, int) else shadow
        with self._changing():
            return self._bundle.add(
                path,
                name,
                trust=self.trust,
                sha256=sha256,
                replaces=replaces,
                downgrade=downgrade,
                shadow=plan,
                around=self._taking_over,
            ).newest

    @property
    def shadow(self) -> ShadowReport | None:
        """What is known of the expert in shadow, or of the last one; None where there was none."""
        return self._shadow.report()

    def wait_for_shadow(self, seconds: float | None = None) -> bool:
        """Until no frame is being compared in shadow; False when that took longer."""
        return self._shadow.wait(seconds)

    def promote(self) -> None:
        """Put the expert in shadow live at once, the one that :attr:`shadow` tells of.

        Raises:
            BundleError: there is none, or another one since, or the bundle cannot be written; nothing has changed.
            BackendError: the segmenter is closed.
        """
        with self._changing():
            self._bundle.promote(self._summary(), self._shadow.candidate, self._taking_over)

    def withdraw(self) -> None:
        """Drop the expert in shadow, the one that :attr:`shadow` tells of.

        Raises:
            BundleError: there is none, or another one since, or the bundle cannot be written; nothing has changed.
            BackendError: the segmenter is closed.
        """
        with self._changing():
            self._bundle.withdraw(self._summary(), self._shadow.candidate, self._taking_over)

    def rollback(self, state: str | None = None) -> None:
        """Go back to a state that the bundle keeps, by default the one before the last change; no frame is delayed.

        Raises:
            BundleError: no such state is kept, or the bundle cannot be written; nothing has changed.
            BackendError: the segmenter is closed.
        """
        with self._changing():
            self._bundle.rollback(state, self._taking_over)

    def remove_expert(self, name: str) -> None:
        """Take an expert out of the gate, the bank and the bundle; the others' masks stay bit-identical.

        Raises:
            BundleError: no such expert, it is the base, or the bundle cannot be written; nothing has changed.
            BackendError: the segmenter is closed.
        """
        with self._changing():
            self._bundle.remove(name, self._taking_over)

    def set_fusion_head(self, path: str | os.PathLike[str]) -> None:
        """Put a trained fusion head into the bundle and use it from the next moment on; no engine is built anew.

        Raises:
            FusionError: the file is no fusion head, or does not fit; nothing has changed.
            BundleError: the bundle has no fusion, or cannot be written; nothing has changed.
            BackendError: the segmenter is closed.
        """
        with self._changing():
            # With it comes what other processes changed meanwhile: the bank and the gate take that over, too.
            self._publish(set_fusion_head(self._bundle, path))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, and frames first.

        Raises:
            BackendError: the segmenter is closed.
        """
        with self._change, giving_way():
            if self._closed:
                raise BackendError(CLOSED)
            yield

    def refresh(self) -> bool:
        """Take over what another process has changed in the bundle's folder since; no frame is delayed.

        Where nothing was changed it costs one look at one file, so that it may be called often. An expert whose row a
        device refused, the old one with the new one, is written again.

        Returns:
            whether anything was new.

        Raises:
            BundleError: the folder is damaged, or was exported anew; frames go on as before.
        """
        with self._change:
            seen = _seen(self._bundle)
            if self._closed or not seen or (seen == self._seen and self._bank.whole):
                return False
            with giving_way():
                bundle = self._bundle.current()
                changed = bundle.manifest != self._bundle.manifest or not self._bank.whole
                if changed:
                    self._publish(bundle)
            self._seen = seen
            return changed

    @contextmanager
    def _taking_over(self, bundle: Bundle) -> Iterator[None]:
        """Around a change on the disk: neither disk nor bank has what the other one refuses."""
        with self._bank.publishing(bundle, self._drained, self._backend.write_row):
            yield
        self._bundle = bundle
        with self._idle:
            self._pins = {stream: pinned for stream, pinned in self._pins.items() if pinned in self.rows}
        self._follow_fusion(bundle)
        self._shadow.follow(bundle)

    def _publish(self, bundle: Bundle) -> None:
        """Take over what the disk has already."""
        with self._taking_over(bundle):
            pass

    def _shadow_pass(self, name: str, sample: Sample) -> Comparison | None:
        """One pass for the candidate; no live frame is in flight when it begins, unless they never pause."""
        with self._idle:
            self._idle.wait_for(lambda: not self._in_flight, _PAUSE_S)
        with self._frame() as state:
            if state.shadow is None or name not in state.shadow.rows:
                return None
            started = time.perf_counter()
            forced, judged, row = pass_inputs(state, name, sample.bias)
            mask, _, _, distance = self._backend.run(sample.frame, state.shadow, forced[None])
            spent = time.perf_counter() - started
        return Comparison(np.asarray(mask[0]), bool(np.argmax(judged - distance[0]) == row), spent * 1e3)

    def _settle(self, candidate: Candidate, report: ShadowReport) -> str:
        """At the end of a shadow run: live, or withdrawn when it did not show what its plan asks for."""
        with self._changing():
            now = self._bundle.current()
            if now.manifest.candidate != candidate:
                # Another process took it out meanwhile: what is there now is no business of this run.
                self._publish(now)
                return "left"
            if report.passes:
                self._bundle.promote(report.summary(), candidate, self._taking_over)
                return "live"
            self._bundle.withdraw(report.summary(), candidate, self._taking_over)
            return "withdrawn"

    def _summary(self) -> dict[str, Any]:
        """What the run going on has found."""
        report = None if self._shadow.candidate is None else self._shadow.report()
        return {} if report is None else report.summary()

    def _drained(self) -> None:
        """Wait until every frame in flight began under the present state: what that state freed, nobody reads."""
        current = self._bank.state
        with self._idle:
            self._idle.wait_for(lambda: all(state is current for state in self._in_flight.values()))


def _seen(bundle: Bundle) -> tuple[int, ...]:
    """Which manifest lies in the folder: a change puts another file in its place. Nothing where there is none."""
    try:
        status = (bundle.path / MANIFEST).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
