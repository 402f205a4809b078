"""The bank: one row of memory per expert, at an address that never changes, and the gate's view of who is in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from mile_edge.bundle import Bundle, Expert, ExpertEntry, Manifest
from mile_edge.errors import BundleError, MileError
from mile_edge.runtime import gate_inputs
from mile_edge.runtime.novelty_model import NoveltyModel

#: Every expert that needs a row, with its class ids.
_Wanted = Mapping[ExpertEntry, tuple[Expert, tuple[int, ...]]]


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
        state: what the next frame sees.
        whole: whether every expert of the state has its row; not after a row that could not even be put back.
    """

    state: GateState
    whole: bool

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        dtype = np.float16 if manifest.network.half else np.float32
        self.rows = np.zeros((manifest.capacity + 1, manifest.low_rank.row_length), dtype)
        # By name and content: a file that was replaced under the same name is another expert and takes another row.
        self._slots: dict[ExpertEntry, int] = {}
        # A candidate's class ids are settled only when it goes live: until then its row may have to be packed again.
        self._ids: dict[ExpertEntry, tuple[int, ...]] = {}
        wanted = _wanted(bundle)
        slots = self._places(wanted, set())
        state = self._states(bundle, slots)
        for entry, row in slots.items():
            self.rows[row] = manifest.low_rank.pack(*wanted[entry])
        self._take(state, wanted, slots)

    def publish(self, bundle: Bundle, drained: Callable[[], None], written: Callable[[int], None]) -> None:
        """As `publishing`, with nothing to wait for."""
        with self.publishing(bundle, drained, written):
            pass

    @contextmanager
    def publishing(self, bundle: Bundle, drained: Callable[[], None], written: Callable[[int], None]) -> Iterator[None]:
        """Bring rows and gate in line with the bundle; the result becomes :attr:`state` at the end of the block.

        Whatever fails in the block, such as a disk that refuses the bundle, takes the rows back. Where no row is free
        for what is new, a row that is given up is written over at once and has no name until the block has ended: the
        disk comes last, so that it never has what a device refuses.

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
        wanted = _wanted(bundle)
        kept = self._kept(wanted)
        drained()
        before, in_use = self.state, _rows_of(self.state) | set(kept.values())
        # Some rows may only be free once the frames that still read them are done.
        full = len(in_use) + len(wanted) - len(kept) > len(self.rows)
        slots = self._places(wanted, set() if full else in_use)
        state = self._states(bundle, slots)
        new = {row: entry for entry, row in slots.items() if entry not in kept}
        overwritten = {row: self.rows[row].copy() for row in new}
        try:
            if full:
                self.state = self._without(set(kept.values()))
                drained()
            for row, entry in new.items():
                self.rows[row] = bundle.manifest.low_rank.pack(*wanted[entry])
                written(row)
            yield
        except BaseException:
            self._put_back(before, overwritten, written)
            raise
        self._take(state, wanted, slots)

    def _kept(self, wanted: _Wanted) -> dict[ExpertEntry, int]:
        """The rows that hold what is wanted already."""
        return {
            entry: row for entry, row in self._slots.items() if entry in wanted and wanted[entry][1] == self._ids[entry]
        }

    def _places(self, wanted: _Wanted, in_use: set[int]) -> dict[ExpertEntry, int]:
        """A row for every expert; those of new ones lie outside ``in_use``."""
        kept = self._kept(wanted)
        free = (row for row in range(len(self.rows)) if row not in in_use | set(kept.values()))
        return kept | {entry: next(free) for entry in wanted if entry not in kept}

    def _put_back(
        self, before: GateState, overwritten: Mapping[int, np.ndarray], written: Callable[[int], None]
    ) -> None:
        """After a failure: what these rows held, and the state that reads them."""
        read = overwritten.keys() & _rows_of(before)
        slots, whole = self._slots, self.whole
        # What was written into is nobody's until it is as it was: no name may stand for another's numbers.
        self._slots = {entry: row for entry, row in slots.items() if row not in read}
        self.whole = whole and not read
        for row, numbers in overwritten.items():
            self.rows[row] = numbers
        with contextlib.suppress(MileError):
            for row in read:
                written(row)
            self._slots, self.whole, self.state = slots, whole, before

    def _take(self, state: GateState, wanted: _Wanted, slots: dict[ExpertEntry, int]) -> None:
        self._slots, self._ids = slots, {entry: wanted[entry][1] for entry in slots}
        self.state, self.whole = state, True

    def _without(self, kept: set[int]) -> GateState:
        """The present state with every row but the kept ones closed to the gate."""
        # Of this state's own rows: one that is kept for a candidate stays shut.
        rows = {name: row for name, row in self.state.rows.items() if row in kept}
        bias = gate_inputs.openings(list(rows.values()), self.state.manifest.gate, len(self.rows))
        return replace(self.state, rows=rows, bias=bias, shadow=None)

    def _states(self, bundle: Bundle, slots: Mapping[ExpertEntry, int]) -> GateState:
        """What frames will see; nothing is changed for it."""
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


@contextmanager
def servable(bundle: Bundle) -> Iterator[None]:
    """Around a change that no segmenter makes: refuses a bundle that none could open.

    Raises:
        BundleError: its gate statistics are degenerate.
    """
    Bank(bundle)
    yield


def _rows_of(state: GateState) -> set[int]:
    """Rows that a frame of this state, or a pass beside it, may read."""
    return set(state.rows.values()) | (set() if state.shadow is None else _rows_of(state.shadow))


def _wanted(bundle: Bundle) -> _Wanted:
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
