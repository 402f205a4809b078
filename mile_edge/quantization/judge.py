"""What a quantised graph costs, on frames that did not set its ranges."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from mile_edge.bundle import Bundle
from mile_edge.errors import BackendError
from mile_edge.quantization.frames import Sample
from mile_edge.quantization.layers import remove_unused
from mile_edge.replay.scores import LabelScores, mean_iou
from mile_edge.runtime.bank import Bank
from mile_edge.runtime.resize import restore

# Mask (H, W) uint8, row of the expert, distances (E,) float32.
Output = tuple[np.ndarray, int, np.ndarray]
_GATE = ("expert", "distance")


@dataclass(frozen=True)
class Verdict:
    """A graph against the source bundle's, on the same frames.

    Attributes:
        miou: by folder, in percent.
        drop: points of mIoU that the folder that lost most has lost; below 0 where all have gained.
        changed: percent of pixels with another class.
        rerouted: percent of frames that went to another expert.
        shift: percent by which the distances to the source's expert differ, averaged over frames.
    """

    miou: dict[str, float]
    drop: float
    changed: float
    rerouted: float
    shift: float


class Judge:
    """Runs graphs over frames and compares them with the source's.

    Args:
        bundle: the source.
        source: its graph.
        samples: frames to judge by. Where none is labelled, the source's own masks are the truth, which asks more.
        report: called after every pass.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: onnx.ModelProto,
        samples: Sequence[Sample],
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self._classes = len(bundle.manifest.classes)
        self._bank = Bank(bundle)
        self._samples = tuple(samples)
        self._report = report
        self.labelled = any(sample.label is not None for sample in samples)
        self._truth = self._passes(source, range(len(samples)))

    def source_miou(self) -> dict[str, float]:
        """The source's own mIoU by folder, in percent."""
        return self._scores(range(len(self)), self._truth)

    def __len__(self) -> int:
        return len(self._samples)

    def spread(self, count: int) -> tuple[int, ...]:
        """Places of up to ``count`` samples, evenly over all."""
        return tuple(np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)).tolist())

    def verdict(self, model: onnx.ModelProto, places: Sequence[int] | None = None) -> Verdict:
        """Judge one graph on all samples, or on those at ``places``."""
        chosen = range(len(self)) if places is None else places
        outputs = self._passes(model, chosen)
        truth = [self._truth[place] for place in chosen]
        before, after = self._scores(chosen, truth), self._scores(chosen, outputs)
        lost = [before[folder] - after[folder] for folder in before]
        rerouted, shift = _gate_cost([one[1:] for one in truth], [one[1:] for one in outputs])
        return Verdict(
            miou=after,
            drop=max(lost, default=0.0),
            changed=100 * float(np.mean([(a[0] != b[0]).mean() for a, b in zip(truth, outputs, strict=True)])),
            rerouted=rerouted,
            shift=shift,
        )

    def gate_verdict(self, model: onnx.ModelProto) -> tuple[float, float]:
        """``rerouted`` and ``shift`` alone, from the part of the graph that the gate sees: a fraction of a pass."""
        part = onnx.ModelProto()
        part.CopyFrom(model)
        kept = [value for value in part.graph.output if value.name in _GATE]
        del part.graph.output[:]
        part.graph.output.extend(kept)
        remove_unused(part.graph)
        run = open_graph(part, self._bank, _GATE)
        outputs = [run(sample.frame) for sample in self._samples]
        return _gate_cost(
            [(row, distance) for _, row, distance in self._truth],
            [(int(row[0]), distance[0]) for row, distance in outputs],
        )

    def _passes(self, model: onnx.ModelProto, places: Sequence[int]) -> list[Output]:
        """Mask (H, W) uint8, row and distances (E,) of each sample."""
        run = open_graph(model, self._bank, ("mask", *_GATE))
        outputs = []
        for place in places:
            mask, expert, distance = run(self._samples[place].frame)
            outputs.append((mask[0], int(expert[0]), distance[0]))
            self._report()
        return outputs

    def _scores(self, places: Sequence[int], outputs: Sequence[Output]) -> dict[str, float]:
        """mIoU in percent by folder."""
        scores = LabelScores(self._classes)
        for place, output in zip(places, outputs, strict=True):
            sample = self._samples[place]
            label = sample.label if self.labelled else self._truth[place][0]
            if label is not None:
                scores.add("", sample.folder, label, restore(output[0][None], label.shape)[0])
        found = {folder: mean_iou(scores.of(domain=folder)) for folder in scores.domains}
        return {folder: 100 * value for folder, value in found.items() if value is not None}


def open_graph(
    model: onnx.ModelProto, bank: Bank, outputs: Sequence[str]
) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """A graph with a bundle's experts as a function from frames (B, H, W, 3) uint8 to the tensors of these names.

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        reason = str(error).splitlines()[0]
        raise BackendError(f"ONNX Runtime cannot load the graph ({reason}); export the bundle again") from error
    state = bank.state
    inputs = {"bank": bank.rows, "prototypes": state.prototypes, "whitening": state.whitening}
    # A graph cut down to the gate reads no bank.
    read = {value.name for value in session.get_inputs()}
    names = list(outputs)

    def run(frames: np.ndarray) -> Sequence[np.ndarray]:
        bias = np.repeat(state.bias[None], len(frames), axis=0)
        feeds = {**inputs, "frames": frames, "gate_bias": bias}
        return session.run(names, {name: feeds[name] for name in feeds if name in read})

    return run


def _gate_cost(
    before: Sequence[tuple[int, np.ndarray]], after: Sequence[tuple[int, np.ndarray]]
) -> tuple[float, float]:
    """Percent of frames rerouted, and the mean percentage by which distances to the first expert differ."""
    pairs = list(zip(before, after, strict=True))
    rerouted = float(np.mean([old[0] != new[0] for old, new in pairs]))
    shifts = [abs(float(new[1][old[0]]) / max(abs(float(old[1][old[0]])), 1e-6) - 1) for old, new in pairs]
    return 100 * rerouted, 100 * float(np.mean(shifts))
