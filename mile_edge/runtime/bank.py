"""The bank: one row of memory per expert, at an address that never changes, and the gate's view of who is in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mile_edge.bundle import Bundle, Expert, ExpertEntry, Manifest
from mile_edge.errors import BundleError, MileError
from mile_edge.runtime import gate_inputs
from mile_edge.runtime.novelty_model import NoveltyModel


@dataclass(frozen=True)
class GateState:
    """What one frame sees of the experts, all of it from the same moment.

    Attributes:
        manifest: the bundle at that moment.
        rows: expert name to row of the bank.
        names: expert of each row, ``None`` where the row is free.
        prototypes: (E, K, D) float32.
        whitening: (D, D) float32.
        bias: (E,) float32, 0 for rows that the gate may choose, so low that they never win for the others.
        novelty: tells how novel a frame is by its distances.
        shadow: the same with the bundle's candidate live, for passes whose masks nobody gets; None without one.
    """

    manifest: Manifest
    rows: Mapping[str, int]
    names: tuple[str | None, ...]
    prototypes: np.ndarray
    whitening: np.ndarray
    bias: np.ndarray
    novelty: NoveltyModel
    shadow: GateState | None = None


class Bank:
    """All experts of a bundle as rows of one array.

    Args:
        bundle: the bundle; row 0 is its base.

    Attributes:
        rows: (E, P) float32 or float16, E = capacity + 1. Rows are written before the gate is told of them.
    """

    state: GateState

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        dtype = np.float16 if manifest.network.half else np.float32
        self.rows = np.zeros((manifest.capacity + 1, manifest.low_rank.row_length), dtype)
        # By name and content: a file that was replaced under the same name is another expert and takes another row.
        self._slots: dict[ExpertEntry, int] = {}
        # A candidate's class ids are settled only when it goes live: until then its row may have to be packed again.
        self._ids: dict[ExpertEntry, tuple[int, ...]] = {}
        self._write(bundle, set(), lambda row: None, {})

    def publish(self, bundle: Bundle, drained: Callable[[], None], written: Callable[[int], None]) -> None:
        """Bring rows and gate in line with the bundle; the result becomes :attr:`state`.

        Args:
            bundle: the next state of the bundle this bank was made for.
            drained: waits until no frame is in flight that began before the last published state.
            written: brings a row that was written to where the backend reads it, before the gate is told of it.

        Raises:
            BundleError: the bundle now has another network, or its gate statistics are degenerate; nothing has changed.
            BackendError: a row could not be written; nothing has changed, unless the backend takes no row back either:
                then no frame is given to the experts whose rows were to be written.
        """
        if _network_of(bundle.manifest) != _network_of(self.state.manifest):
            raise BundleError(f"{bundle.path} was exported anew while it was open; open it again")
        drained()
        before, slots, overwritten = self.state, self._slots, dict[int, np.ndarray]()
        in_use = _rows_of(self.state)
        if len(in_use | set(self._kept(bundle).values())) + len(self._new(bundle)) > len(self.rows):
            # Some rows are only free once the frames that still read them are done: let go of them first.
            kept = self._kept(bundle)
            self.state = self._without(kept)
            drained()
            in_use = set(kept.values())
        try:
            self._write(bundle, in_use, written, overwritten)
        except BaseException:
            # What was written into is nobody's until it is as it was: no name may stand for another's numbers.
            self._slots = {entry: row for entry, row in slots.items() if row not in overwritten}
            with contextlib.suppress(MileError):
                for row, numbers in overwritten.items():
                    self.rows[row] = numbers
                    written(row)
                self._slots, self.state = slots, before
            raise

    def _kept(self, bundle: Bundle) -> dict[ExpertEntry, int]:
        wanted = _wanted(bundle)
        return {
            entry: row for entry, row in self._slots.items() if entry in wanted and wanted[entry][1] == self._ids[entry]
        }

    def _new(self, bundle: Bundle) -> list[ExpertEntry]:
        kept = self._kept(bundle)
        return [entry for entry in _wanted(bundle) if entry not in kept]

    def _write(
        self, bundle: Bundle, in_use: set[int], written: Callable[[int], None], overwritten: dict[int, np.ndarray]
    ) -> None:
        """A row outside ``in_use`` for every new expert, then the gate's view of all of them."""
        kept, wanted = self._kept(bundle), _wanted(bundle)
        slots, ids = dict(kept), {entry: self._ids[entry] for entry in kept}
        free = (row for row in range(len(self.rows)) if row not in in_use | set(kept.values()))
        for entry in self._new(bundle):
            row = next(free)
            expert, ids[entry] = wanted[entry]
            numbers = bundle.manifest.low_rank.pack(expert, ids[entry])
            overwritten[row] = self.rows[row].copy()
            self.rows[row] = numbers
            written(row)
            slots[entry] = row
        self.state, self._slots, self._ids = self._states(bundle, slots), slots, ids

    def _without(self, kept: Mapping[ExpertEntry, int]) -> GateState:
        """The present state with every row but the kept ones closed to the gate."""
        bias = gate_inputs.openings(list(kept.values()), self.state.manifest.gate, len(self.rows))
        return replace(self.state, rows={entry.name: row for entry, row in kept.items()}, bias=bias, shadow=None)

    def _states(self, bundle: Bundle, slots: dict[ExpertEntry, int]) -> GateState:
        state = self._state(bundle, {entry: slots[entry] for entry in bundle.manifest.experts})
        view = bundle.as_if_live()
        if view is not None:
            shadow = self._state(view, {entry: slots[entry] for entry in view.manifest.experts})
            state = replace(state, shadow=shadow)
        return state

    def _state(self, bundle: Bundle, slots: dict[ExpertEntry, int]) -> GateState:
        manifest, count = bundle.manifest, len(self.rows)
        gate = manifest.gate
        experts = dict(zip(manifest.experts, bundle.experts(), strict=True))
        rows = {entry.name: row for entry, row in slots.items()}
        prototypes = np.repeat(gate_inputs.empty_rows(gate)[None], count, axis=0)
        names: list[str | None] = [None] * count
        prototypes[list(slots.values())] = gate_inputs.prototype_table([experts[entry] for entry in slots], gate)
        for entry, row in slots.items():
            names[row] = entry.name
        bias = gate_inputs.openings([slots[entry] for entry in manifest.experts], gate, count)
        whitening = gate_inputs.whitening(bundle.choices(), gate)
        for array in (prototypes, whitening, bias):
            array.flags.writeable = False
        novelty = NoveltyModel(bundle.choices(), rows, gate, prototypes, whitening)
        return GateState(manifest, rows, tuple(names), prototypes, whitening, bias, novelty)


def _rows_of(state: GateState) -> set[int]:
    """Rows that a frame of this state, or a pass beside it, may read."""
    return set(state.rows.values()) | (set() if state.shadow is None else _rows_of(state.shadow))


def _wanted(bundle: Bundle) -> dict[ExpertEntry, tuple[Expert, tuple[int, ...]]]:
    """Every expert that needs a row, the candidate among them, with its class ids."""
    view = bundle.as_if_live()
    experts: dict[ExpertEntry, tuple[Expert, tuple[int, ...]]] = {}
    # A view only appends classes, so that the live experts' ids are the same in both.
    for each in (bundle, *filter(None, [view])):
        for entry, expert in zip(each.manifest.experts, each.experts(), strict=True):
            experts[entry] = expert, each.manifest.class_ids(expert.classes)
    return experts


def _network_of(manifest: Manifest) -> tuple[object, ...]:
    return manifest.network, manifest.base.sha256, manifest.low_rank, manifest.capacity
