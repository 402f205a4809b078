"""What the gate sees of a frame, read out of the graph as it is shipped: its feature where that can be had.

The graph puts out distances, but prototypes and whitening are inputs: with D + 1 points in place of the experts the
distances tell where the feature lies between them. So calibration can try other gates on the same frames (one expert
fewer, with everything refitted) on a robot that has neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mile_edge.bundle import Bundle, Expert, Gate
from mile_edge.runtime import gate_inputs
from mile_edge.runtime.backends import make_backend
from mile_edge.runtime.bank import Bank
from mile_edge.runtime.novelty_model import NoveltyModel
from mile_edge.runtime.resize import resize_frames

# Gates that choose one row by its distance to points; mixing ones would gather rows that the bank has not.
READABLE = ("mahalanobis", "l2", "kmeans")


class GateReader:
    """Runs frames through a bundle's graph for what its gate sees.

    Args:
        bundle: open.
        threads: of the network.

    Attributes:
        readable: whether `see` gives features; distances otherwise.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self._bank = Bank(bundle)
        self._backend = make_backend("onnx", bundle, self._bank.rows, threads, None)
        gate, state = bundle.manifest.gate, self._bank.state
        self.readable = gate.kind in READABLE
        self._asked = state
        if self.readable:
            whitening = gate_inputs.pooled_whitening(bundle.choices(), gate)
            self._unit = np.linalg.inv(whitening)
            self._step = float(np.sqrt(gate.dim))
            self._origin = np.mean([np.asarray(expert.mean, np.float64) for expert in bundle.choices()], axis=0)
            points = np.concatenate([self._origin[None], self._origin + self._step * self._unit.T]).astype(np.float32)
            bias = np.full(len(points), gate_inputs.NEVER, np.float32)
            bias[0] = 0
            self._asked = replace(
                state,
                prototypes=np.repeat(points[:, None], gate.prototypes, axis=1),
                whitening=whitening.astype(np.float32),
                bias=bias,
            )

    def see(self, frame: np.ndarray) -> np.ndarray:
        """The feature (D,) of a frame (H, W, 3) uint8, or its distances (E,) where the gate is not `readable`."""
        network = self.bundle.manifest.network
        frames = resize_frames(frame[None], (network.height, network.width))
        distance = self._backend.run(frames, self._asked, self._asked.bias[None])[3][0].astype(np.float64)
        if not self.readable:
            return np.asarray(distance)
        place = (distance[0] ** 2 + self._step**2 - distance[1:] ** 2) / (2 * self._step)
        return np.asarray(self._origin + self._unit @ place)

    def close(self) -> None:
        """Give back what the backend holds."""
        self._backend.close()


class GateView:
    """A gate of some of a bundle's experts: distances of what a reader saw, and how novel they are.

    Args:
        reader: that saw the frames.
        experts: of its bundle; all else that the gate is made of is refitted to them where features are at hand, and
            left as it is where only distances are.
        gate: its settings, novelty among them.
    """

    def __init__(self, reader: GateReader, experts: Sequence[Expert], gate: Gate) -> None:
        self._gate = gate
        self._features = reader.readable
        if reader.readable:
            self.rows = {expert.name: place for place, expert in enumerate(experts)}
            self._prototypes = gate_inputs.prototype_table(experts, gate)
            self._whitening = gate_inputs.whitening(experts, gate)
        else:
            state = reader._bank.state
            self.rows = {expert.name: state.rows[expert.name] for expert in experts}
            self._prototypes, self._whitening = state.prototypes, state.whitening
        self._experts = experts
        self.model = self.calibrated(gate)

    def calibrated(self, gate: Gate) -> NoveltyModel:
        """The model of this view's experts under other settings."""
        return NoveltyModel(self._experts, self.rows, gate, self._prototypes, self._whitening)

    def distances(self, seen: np.ndarray) -> np.ndarray:
        """(N, E) distances of (N, D) features, as the graph would put them out; distances pass through."""
        if not self._features:
            return seen
        whitening = self._whitening.astype(np.float64)
        points = self._prototypes.astype(np.float64) @ whitening.T
        difference = (seen @ whitening.T)[:, None, None] - points[None]
        return np.asarray(np.sqrt(np.square(difference).sum(axis=-1)).min(axis=-1))
