"""The bank: one row of memory per expert, at an address that never changes, and the gate's view of who is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mile_edge.bundle import Bundle, Expert, Manifest
from mile_edge.errors import BundleError
from mile_edge.runtime import gate_inputs


@dataclass(frozen=True)
class GateState:
    """What one frame sees of the experts, all of it from the same moment.

    Attributes:
        manifest: the bundle at that moment.
        rows: expert name to row of the bank.
        names: expert of each row, ``None`` where the row is free.
        prototypes: (E, K, D) float32.
        whitening: (D, D) float32.
        bias: (E,) float32, 0 for rows in use, so low that they never win for free ones.
        limits: (E,) float32 novelty distance per row.
    """

    manifest: Manifest
    rows: Mapping[str, int]
    names: tuple[str | None, ...]
    prototypes: np.ndarray
    whitening: np.ndarray
    bias: np.ndarray
    limits: np.ndarray


class Bank:
    """All experts of a bundle as rows of one array.

    Args:
        bundle: the bundle; row 0 is its base.

    Attributes:
        rows: (E, P) float32 or float16, E = capacity + 1. Rows are written before the gate is told of them.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        dtype = np.float16 if manifest.network.precision == "fp16" else np.float32
        self.rows = np.zeros((manifest.capacity + 1, manifest.low_rank.row_length), dtype)
        self._slots: dict[str, int] = {}
        self._experts: dict[str, Expert] = {}
        self.state = self.publish(bundle)

    def free_row(self) -> int:
        """The first row that no published expert uses.

        Raises:
            BundleError: all are taken.
        """
        taken = set(self._slots.values())
        for row in range(len(self.rows)):
            if row not in taken:
                return row
        raise BundleError(
            f"the bank's {len(self.rows) - 1} rows are full; remove an expert or export with more capacity"
        )

    def write(self, row: int, expert: Expert, manifest: Manifest) -> None:
        """Copy one expert into a row that no frame reads."""
        ids = {label.name: index for index, label in enumerate(manifest.classes)}
        self.rows[row] = manifest.low_rank.pack(expert, [ids[label.name] for label in expert.classes])

    def publish(self, bundle: Bundle) -> GateState:
        """Bring rows and gate in line with the bundle; the returned state also becomes :attr:`state`."""
        manifest = bundle.manifest
        experts = {expert.name: expert for expert in bundle.experts()}
        self._slots = {name: row for name, row in self._slots.items() if name in experts}
        for name, expert in experts.items():
            if name not in self._slots:
                row = self.free_row()
                self.write(row, expert, manifest)
                self._slots[name] = row
        self._experts = experts
        self.state = self._state(manifest)
        return self.state

    def _state(self, manifest: Manifest) -> GateState:
        gate, count = manifest.gate, len(self.rows)
        prototypes = np.repeat(gate_inputs.empty_rows(gate)[None], count, axis=0)
        bias = np.full(count, gate_inputs.NEVER, np.float32)
        names: list[str | None] = [None] * count
        for name, row in self._slots.items():
            prototypes[row] = gate_inputs.prototype_rows(self._experts[name], gate)
            bias[row], names[row] = 0, name
        whitening = gate_inputs.whitening(list(self._experts.values()), gate)
        limits = gate_inputs.thresholds(self._slots, gate, count)
        for array in (prototypes, whitening, bias, limits):
            array.flags.writeable = False
        return GateState(manifest, dict(self._slots), tuple(names), prototypes, whitening, bias, limits)
