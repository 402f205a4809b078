"""ONNX Runtime behind the segmenter: the embedded default, on any CPU."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnxruntime

from mile_edge.errors import BackendError
from mile_edge.runtime.backends import network_threads
from mile_edge.runtime.bank import GateState

_OUTPUTS = ("mask", "confidence", "expert", "distance")


_FUSED_OUTPUTS = (*_OUTPUTS, "fused_mask", "fused_confidence", "fused_share")


class OnnxBackend:
    """One ONNX Runtime session with the bank bound in place, and a second one once sensors are fused.

    Args:
        model: the bundle's ``segmenter.onnx``.
        bank: (E, P) rows; the session reads this very memory, so a row that is written is a row that is loaded.
        threads: of one pass; as many as this process may use where it is missing.
        fused: the bundle's graph with fused outputs; loaded when it is first asked for, so that who fuses nothing pays
            nothing.

    Raises:
        BackendError: ONNX Runtime refuses the file.
        RecipeError: no network can run on so many threads.
    """

    def __init__(self, model: Path, bank: np.ndarray, threads: int | None = None, fused: Path | None = None) -> None:
        self._threads = network_threads(threads)
        self._session = self._open(model)
        self._fused_path, self._fused = fused, None
        self._loading = threading.Lock()
        self._bank = onnxruntime.OrtValue.ortvalue_from_numpy(bank)

    def write_row(self, row: int) -> None:
        """Nothing to do: the session reads the bank's own memory."""

    def close(self) -> None:
        """Nothing to give back before the session itself goes."""

    def run(
        self, frames: np.ndarray, state: GateState, bias: np.ndarray, on_device: bool = False
    ) -> tuple[np.ndarray, ...]:
        """One pass.

        Args:
            frames: (B, H, W, 3) uint8 at the network's size.
            state: prototypes and whitening.
            bias: (B, E) float32.
            on_device: refused, there is no device.

        Returns:
            mask (B, H, W) uint8, confidence (B, H, W) uint8, expert (B,) int32, distance (B, E) float32.

        Raises:
            BackendError: the pass failed, or was asked to work on a device's memory.
        """
        if on_device or hasattr(frames, "__cuda_array_interface__"):
            raise BackendError("ONNX Runtime works in host memory here; open the bundle with backend='tensorrt'")
        return self._pass(self._session, _inputs(frames, state, bias), _OUTPUTS)

    def fuse(
        self, frames: np.ndarray, state: GateState, bias: np.ndarray, group: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """One pass of several sensors.

        Args:
            frames, state, bias: as :meth:`run`.
            group: (G, B) float32, 1 where a frame belongs to a group.
            vector: (L,) float32, the fusion head.

        Returns:
            what :meth:`run` returns, and fused mask (G, H, W) uint8, fused confidence (G, H, W) uint8, share (G, B).

        Raises:
            BackendError: the pass failed, or there is no graph that fuses.
        """
        with self._loading:
            if self._fused is None:
                if self._fused_path is None:
                    raise BackendError("this bundle has no graph that fuses; mile-edge train fusion --add gives it one")
                self._fused = self._open(self._fused_path)
        inputs = {**_inputs(frames, state, bias), "group": group, "fusion": vector}
        return self._pass(self._fused, inputs, _FUSED_OUTPUTS)

    def _open(self, model: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class
            reason = str(error).splitlines()[0]
            raise BackendError(f"ONNX Runtime cannot load {model} ({reason}); export the bundle again") from error

    def _pass(
        self, session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], outputs: tuple[str, ...]
    ) -> tuple[np.ndarray, ...]:
        binding = session.io_binding()
        binding.bind_ortvalue_input("bank", self._bank)
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in outputs:
            binding.bind_output(name)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors share no base class
            reason = str(error).splitlines()[0]
            raise BackendError(f"ONNX Runtime failed on frames of shape {inputs['frames'].shape} ({reason})") from error
        return tuple(binding.copy_outputs_to_cpu())


def _inputs(frames: np.ndarray, state: GateState, bias: np.ndarray) -> dict[str, np.ndarray]:
    return {"frames": frames, "prototypes": state.prototypes, "whitening": state.whitening, "gate_bias": bias}
