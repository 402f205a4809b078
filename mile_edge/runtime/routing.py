"""Whom a stream's next frame may go to: pins, restrictions, hysteresis, and what serves it while it is novel."""

from __future__ import annotations

import threading
from abc import ABC
from collections.abc import Hashable, Sequence

import numpy as np

from mile_edge.bundle import Gate
from mile_edge.bundle.gate import MIXING_KINDS
from mile_edge.errors import ExpertError
from mile_edge.runtime import gate_inputs
from mile_edge.runtime.bank import Bank, GateState
from mile_edge.runtime.novelty import NoveltyMonitor, check_fallback


class StreamRouting(ABC):
    """What :class:`mile_edge.runtime.segmenter.Segmenter` knows of streams; the gate reads it as a bias per expert.

    Attributes:
        novelty: which streams no expert knows.
    """

    novelty: NoveltyMonitor
    _bank: Bank
    _idle: threading.Condition

    def _open_routing(self, gate: Gate, hysteresis: float | None, fallback: str | None) -> None:
        self._fallback = check_fallback(fallback or ("mix" if gate.kind in MIXING_KINDS else "nearest"), gate.kind)
        self._hysteresis = hysteresis
        self.novelty = NoveltyMonitor()
        self._last: dict[Hashable, str] = {}
        self._far: dict[Hashable, dict[str, float]] = {}
        self._pins: dict[Hashable, str] = {}

    @property
    def hysteresis(self) -> float:
        """By how much another expert's distance must be smaller before a stream changes to it; may be set any time.

        None sets the bundle's calibrated margin, as it is now and as it will be calibrated again.
        """
        return self._margin(self._bank.state)

    @hysteresis.setter
    def hysteresis(self, margin: float | None) -> None:
        self._hysteresis = margin

    @property
    def fallback(self) -> str:
        """What serves the next frames of a novel stream: "nearest", "base" or "mix"; may be set any time."""
        return self._fallback

    @fallback.setter
    def fallback(self, policy: str) -> None:
        self._fallback = check_fallback(policy, self._bank.state.manifest.gate.kind)

    def pin(self, name: str, stream: Hashable = None) -> None:
        """Use one expert whatever the gate says, for one stream or for all.

        Raises:
            ExpertError: no such expert.
        """
        _check_loaded(self._bank.state, name)
        with self._idle:
            self._pins = {**self._pins, stream: name}

    def auto(self, stream: Hashable = None) -> None:
        """Let the gate choose again, for one stream or for all of them."""
        with self._idle:
            self._pins = {} if stream is None else {key: name for key, name in self._pins.items() if key != stream}

    def _margin(self, state: GateState) -> float:
        return state.manifest.gate.hysteresis if self._hysteresis is None else self._hysteresis

    def _bias(
        self, state: GateState, stream: Hashable, only: Sequence[str] | None, fallback: bool = True
    ) -> np.ndarray:
        """(E,) float32 of a stream's next frame; without `fallback` as if no expert had found the stream novel."""
        pins = self._pins
        pinned = pins.get(stream, pins.get(None))
        if pinned is not None and _is_loaded(state, pinned):
            return self._allowing(state, [pinned])
        last = self._last.get(stream)
        if fallback and self._fallback != "mix" and self.novelty.is_novel(stream):
            only = self._fallen_back(state, stream, only)
        bias = self._allowing(state, only) if only is not None else state.bias.copy()
        if last is not None and last in state.rows:
            bias[state.rows[last]] += self._margin(state)
        return bias

    def _served(self, state: GateState, owners: Sequence[Hashable], names: Sequence[str], distance: np.ndarray) -> None:
        """Remember what a batch says of its streams: who served them, and how far (B, E) each expert lay."""
        self._last.update(zip(owners, names, strict=True))
        if state.manifest.gate.kind in MIXING_KINDS:
            far = [{name: float(each[row]) for name, row in state.rows.items()} for each in distance]
            self._far.update(zip(owners, far, strict=True))

    def _fallen_back(self, state: GateState, stream: Hashable, only: Sequence[str] | None) -> Sequence[str] | None:
        """Who may serve a novel stream, out of those who may anyway."""
        base = state.manifest.experts[0].name
        if self._fallback == "base" and (only is None or base in only):
            return [base]
        if state.manifest.gate.kind not in MIXING_KINDS:
            return only
        # Which expert is nearest is known only after the pass: the last frame's stands for it, whoever served that.
        far = {name: way for name, way in self._far.get(stream, {}).items() if name in state.rows}
        may = [name for name in far if only is None or name in only]
        if not may:
            return only
        last = self._last.get(stream)
        return [min(may, key=lambda name: far[name] - (self._margin(state) if name == last else 0))]

    def _allowing(self, state: GateState, names: Sequence[str]) -> np.ndarray:
        if not names:
            raise ExpertError("no expert may be chosen; name at least one in `only`, or leave it out for all")
        bias = np.full_like(state.bias, gate_inputs.NEVER)
        for name in names:
            _check_loaded(state, name)
        # Those that are being replaced in a full bank have no row for that moment: the base serves who asks for them.
        rows = [state.rows[name] for name in names if name in state.rows]
        bias[rows or state.rows[state.manifest.experts[0].name]] = 0
        return bias


def _is_loaded(state: GateState, name: str) -> bool:
    """Whether the state has an expert, also one whose row is being written anew."""
    return name in state.rows or any(entry.name == name for entry in state.manifest.experts)


def _check_loaded(state: GateState, name: str) -> None:
    if not _is_loaded(state, name):
        raise ExpertError(f"expert {name!r} is not loaded; loaded are {', '.join(state.rows)}")
