"""ONNX Runtime behind the segmenter: the embedded default, on any CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime

from mile_edge.errors import BackendError
from mile_edge.runtime.bank import GateState

_OUTPUTS = ("mask", "confidence", "expert", "distance")


class OnnxBackend:
    """One ONNX Runtime session with the bank bound in place.

    Args:
        model: the bundle's ``segmenter.onnx``.
        bank: (E, P) rows; the session reads this very memory, so a row that is written is a row that is loaded.
        threads: of one pass; as many as this process may use where it is missing.

    Raises:
        BackendError: ONNX Runtime refuses the file.
    """

    def __init__(self, model: Path, bank: np.ndarray, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class
            reason = str(error).splitlines()[0]
            raise BackendError(f"ONNX Runtime cannot load {model} ({reason}); export the bundle again") from error
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
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("bank", self._bank)
        inputs = {"frames": frames, "prototypes": state.prototypes, "whitening": state.whitening, "gate_bias": bias}
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in _OUTPUTS:
            binding.bind_output(name)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors share no base class
            reason = str(error).splitlines()[0]
            raise BackendError(f"ONNX Runtime failed on frames of shape {frames.shape} ({reason})") from error
        return tuple(binding.copy_outputs_to_cpu())
