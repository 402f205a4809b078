"""Whether an expert may enter a bundle: every refusal is one sentence, and nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle.gate import POOLED_KINDS, SUCCESSIVE_KINDS, Gate
from mile_edge.bundle.strict_json import shown
from mile_edge.errors import ExpertError

if TYPE_CHECKING:
    from mile_edge.bundle.expert import Expert
    from mile_edge.bundle.manifest import Manifest

# Scatter sums are gathered and stored in fp32: asymmetry and negative eigenvalues of this relative size are rounding.
SCATTER_TOLERANCE = 1e-4
# Trained ones stay below 4. Of hidden features below MAX_FEATURE such weights still make finite logits, by far.
MAX_WEIGHT = 1e6
MAX_BIAS = 1e4
# Of the gate's features, each and on average, and of how they scatter: networks give such of order 1. Of a mean at this
# bound the others' distances and novelty hardly take note; some orders beyond it no frame is novel to anybody any more,
# and at 1e6 lies what stands for no expert (`mile_edge.runtime.gate_inputs.FAR`). A scatter is everybody's far below
# this bound, where it is pooled: MAX_WIDER holds it.
MAX_FEATURE = 1e4
# How many times wider than the usual one of a bundle an expert's frames may scatter, in squares of features per frame.
# Real domains differ by 3 or so. Pooled, a wide one brings all others together: a stream would never leave its expert,
# since the margin for that is a fixed distance.
MAX_WIDER = 100.0
# Frames that statistics may be of. What is pooled counts by them: more would leave the others no say in it.
MAX_COUNT = 10**8
MAX_FP16 = 65504.0
FLOATS = NDArray[np.floating]


def check_expert(expert: Expert, manifest: Manifest) -> None:
    """Refuse an expert that this bundle cannot run.

    Raises:
        ExpertError: its numbers make no sense, or base, rank, tap, layers, shapes, gate size or classes do not fit.
    """
    where = f"expert {shown(expert.name)}"
    check_numbers(expert, where)
    check_fit(expert, manifest, where)


def check_numbers(expert: Expert, where: str) -> None:
    """Refuse an expert that contradicts itself, whatever the bundle."""
    for name, array in _arrays(expert):
        if array.size == 0:
            raise ExpertError(f"{where}: tensor {shown(name)} is empty, of shape {array.shape}; write it again")
        if not np.isfinite(array).all():
            raise ExpertError(f"{where}: tensor {shown(name)} holds NaN or infinity; train it again with a lower rate")
    _check_adapter(expert, where)
    classes = len(expert.classes)
    weight, bias = expert.classifier_weight, expert.classifier_bias
    if weight.ndim != 2 or weight.shape[0] != classes:
        raise ExpertError(f"{where}: classifier.weight has shape {weight.shape} for {classes} classes; write it again")
    if bias.shape != (classes,):
        raise ExpertError(f"{where}: classifier.bias has shape {bias.shape} for {classes} classes; write it again")
    for name, array, most in (("weight", weight, MAX_WEIGHT), ("bias", bias, MAX_BIAS)):
        if np.abs(array).max() >= most:
            raise ExpertError(
                f"{where}: classifier.{name} reaches {np.abs(array).max():g}, beyond {most:g}; train it again"
            )
    _check_statistics(expert, where)


def check_fit(expert: Expert, manifest: Manifest, where: str) -> None:
    """Refuse a self-consistent expert that was made for something else than this bundle."""
    layout, gate = manifest.low_rank, manifest.gate
    if expert.base_sha256 != manifest.base.sha256:
        raise ExpertError(
            f"{where} was trained on base {expert.base_sha256[:8]} and this bundle has {manifest.base.model} "
            f"({manifest.base.sha256[:8]}); train it on this base"
        )
    if expert.tap != gate.tap:
        raise ExpertError(
            f"{where} has features of tap {expert.tap!r} and this bundle reads {gate.tap!r}; calibrate it again"
        )
    if expert.adapter != "none":
        _check_kind(expert, manifest, where)
        _check_layers(expert, manifest, where)
    if expert.classifier_weight.shape[1] != layout.hidden:
        raise ExpertError(
            f"{where}: classifier.weight has shape {expert.classifier_weight.shape} and this bundle's features have "
            f"{layout.hidden} channels; train it on this base"
        )
    if manifest.network.half and np.abs(expert.classifier_weight).max() > MAX_FP16:
        raise ExpertError(
            f"{where}: classifier.weight exceeds fp16 in this bundle of fp16 rows; train it again with weight decay"
        )
    for layer, pair in expert.low_rank.items() if manifest.network.half else ():
        # A file in eight bits has scales in fp32.
        if max(float(np.abs(array).max()) for array in pair) > MAX_FP16:
            raise ExpertError(
                f"{where}: layer {shown(layer)} exceeds fp16 in this bundle of fp16 rows; train it again with weight "
                "decay"
            )
    if expert.mean.shape != (gate.dim,):
        raise ExpertError(
            f"{where}: gate.mean has {expert.mean.size} numbers and this bundle's gate {gate.dim}; calibrate it again"
        )
    if expert.prototypes is not None and len(expert.prototypes) > gate.prototypes:
        raise ExpertError(
            f"{where} has {len(expert.prototypes)} prototypes and this bundle holds {gate.prototypes} per expert; "
            "calibrate it with fewer"
        )
    if gate.kind == "probe" and expert.features is None:
        raise ExpertError(
            f"{where} keeps no features, which this bundle's probe is fitted on; train it with this bundle, or export "
            "the bundle with gate ridge, which needs none"
        )
    _check_classes(expert, manifest, where)


def check_width(expert: Expert, others: Iterable[Expert], gate: Gate, where: str) -> None:
    """Refuse an expert whose scatter alone would decide what is near, for all of those that it is pooled with.

    Args:
        expert: on its way in.
        others: that it will be beside; of fewer than two nobody knows which one is usual.
        gate: the bundle's; kinds that pool nothing take any.
        where: names the expert.

    Raises:
        ExpertError: its frames scatter far wider than is usual among the others.
    """
    widths = [_width(each) for each in others]
    if gate.kind not in POOLED_KINDS or len(widths) < 2:
        return
    usual, own = float(np.median(widths)), _width(expert)
    if usual > 0 and own > MAX_WIDER * usual:
        raise ExpertError(
            f"{where}: gate.scatter says that its frames scatter {own / usual:.0f} times as wide as this bundle's do, "
            f"beyond {MAX_WIDER:g}, and all experts' distances would shrink; calibrate it again"
        )


def _width(expert: Expert) -> float:
    """Sum of the features' variances."""
    return float(np.trace(np.asarray(expert.scatter, np.float64))) / max(1, expert.count - 1)


def _arrays(expert: Expert) -> list[tuple[str, FLOATS]]:
    arrays = [
        (f"{layer}.{kind}", array)
        for layer, pair in expert.low_rank.items()
        for kind, array in zip(("lora_A", "lora_B"), pair, strict=True)
    ]
    arrays += [
        ("classifier.weight", expert.classifier_weight),
        ("classifier.bias", expert.classifier_bias),
        ("gate.mean", expert.mean),
        ("gate.scatter", expert.scatter),
    ]
    optional = (("gate.prototypes", expert.prototypes), ("gate.features", expert.features))
    return arrays + [(name, array) for name, array in optional if array is not None]


def _check_adapter(expert: Expert, where: str) -> None:
    if expert.adapter == "none":
        if expert.low_rank:
            raise ExpertError(
                f"{where} says adapter none and has {len(expert.low_rank)} adapted layers; write it again"
            )
        return
    if not expert.low_rank or expert.rank < 1:
        raise ExpertError(
            f"{where} says adapter {expert.adapter} and has rank {expert.rank} on {len(expert.low_rank)} layers; "
            "write it again"
        )
    for layer, (a, b) in expert.low_rank.items():
        # A layer may have a pair of full rank, a square B; which layers do is the bundle's to say.
        ranks = (expert.rank, len(b)) if b.ndim == 2 else (expert.rank,)
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or len(a) not in ranks:
            raise ExpertError(
                f"{where}: layer {shown(layer)} has A {a.shape} and B {b.shape} for rank {expert.rank}; write it again"
            )


def _check_statistics(expert: Expert, where: str) -> None:
    if expert.count < 2:
        raise ExpertError(f"{where} has statistics of {expert.count} frames and needs at least 2; calibrate it on more")
    if expert.count > MAX_COUNT:
        raise ExpertError(
            f"{where} has statistics of {expert.count} frames and at most {MAX_COUNT} are taken; calibrate it again"
        )
    if expert.mean.ndim != 1:
        raise ExpertError(
            f"{where}: gate.mean has shape {expert.mean.shape} instead of one dimension; calibrate it again"
        )
    dim = expert.mean.size
    if expert.scatter.shape != (dim, dim):
        raise ExpertError(
            f"{where}: gate.scatter has shape {expert.scatter.shape} for {dim} features; calibrate it again"
        )
    if expert.prototypes is not None and (expert.prototypes.ndim != 2 or expert.prototypes.shape[1] != dim):
        raise ExpertError(
            f"{where}: gate.prototypes has shape {expert.prototypes.shape} for {dim} features; calibrate it again"
        )
    if expert.features is not None and (expert.features.ndim != 2 or expert.features.shape[1] != dim):
        raise ExpertError(
            f"{where}: gate.features has shape {expert.features.shape} for {dim} features; calibrate it again"
        )
    _check_features(expert, where)
    scatter = expert.scatter.astype(np.float64)
    if np.abs(scatter - scatter.T).max() > SCATTER_TOLERANCE * np.abs(scatter).max():
        raise ExpertError(f"{where}: gate.scatter is not symmetric, so it is no scatter matrix; calibrate it again")
    if not _nearly_positive(scatter):
        raise ExpertError(
            f"{where}: gate.scatter has negative directions, so it is no scatter matrix; calibrate it again"
        )


def _check_features(expert: Expert, where: str) -> None:
    given = (("mean", expert.mean), ("prototypes", expert.prototypes), ("features", expert.features))
    for name, array in given:
        if array is not None and np.abs(array).max() > MAX_FEATURE:
            raise ExpertError(
                f"{where}: gate.{name} reaches {np.abs(array).max():g} and features of a network are below "
                f"{MAX_FEATURE:g}; calibrate it again"
            )
    # A sum over frames: what it says of one of them is what is held.
    spread = float(np.sqrt(np.abs(np.diag(expert.scatter.astype(np.float64))).max() / expert.count))
    if spread > MAX_FEATURE:
        raise ExpertError(
            f"{where}: gate.scatter says that features of its {expert.count} frames lie {spread:g} apart, beyond "
            f"{MAX_FEATURE:g}; calibrate it again"
        )


def _nearly_positive(scatter: NDArray[np.float64]) -> bool:
    if not scatter.any():
        return True
    trace = float(np.trace(scatter))
    if trace <= 0:
        return False
    try:
        np.linalg.cholesky(scatter / trace + SCATTER_TOLERANCE * np.eye(len(scatter)))
    except np.linalg.LinAlgError:
        return False
    return True


def _check_kind(expert: Expert, manifest: Manifest, where: str) -> None:
    runs = "self_activated" if manifest.gate.kind == "mora" else "low_rank"
    if expert.adapter != runs:
        raise ExpertError(
            f"{where} has adapter kind {expert.adapter}, and this bundle of gate {manifest.gate.kind} runs {runs}; "
            "train one with this bundle"
        )


def _check_layers(expert: Expert, manifest: Manifest, where: str) -> None:
    layout = manifest.low_rank
    if expert.rank > layout.rank and manifest.gate.kind in SUCCESSIVE_KINDS:
        raise ExpertError(
            f"{where} has {expert.rank} ranks of all its tasks and this bundle room for {layout.rank}; "
            "export one with a larger rank"
        )
    if expert.rank != layout.rank and manifest.gate.kind not in SUCCESSIVE_KINDS:
        raise ExpertError(
            f"{where} has rank {expert.rank} and this bundle {layout.rank}; train it with the bundle's rank"
        )
    known = {layer.name for layer in layout.layers}
    for name in expert.low_rank:
        if name not in known:
            raise ExpertError(
                f"{where} adapts layer {shown(name)}, which this bundle does not; train it with its layers"
            )
    for layer in layout.layers:
        if layer.name not in expert.low_rank:
            raise ExpertError(f"{where} lacks layer {shown(layer.name)}; train it with the bundle's layers")
        a, b = expert.low_rank[layer.name]
        rank = expert.rank if layer.rank is None else layer.rank
        if a.shape != (rank, layer.in_features) or b.shape != (layer.out_features, rank):
            raise ExpertError(
                f"{where}: layer {shown(layer.name)} has A {a.shape} and B {b.shape} where this bundle needs "
                f"({rank}, {layer.in_features}) and ({layer.out_features}, {rank}); train it on this base"
            )


def _check_classes(expert: Expert, manifest: Manifest, where: str) -> None:
    new = 0
    for label in expert.classes:
        for known in manifest.classes:
            if label.name == known.name and label.color != known.color:
                raise ExpertError(
                    f"{where} has class {shown(label.name)} in colour {label.color} and this bundle in {known.color}; "
                    "give it the same colour"
                )
            if label.color == known.color and label.name != known.name:
                raise ExpertError(
                    f"{where} has class {shown(label.name)} in colour {label.color}, which this bundle uses for "
                    f"{shown(known.name)}; rename or recolour it"
                )
        new += label not in manifest.classes
    if len(manifest.classes) + new > manifest.low_rank.max_classes:
        raise ExpertError(
            f"{where} adds {new} classes to {len(manifest.classes)} and this bundle holds "
            f"{manifest.low_rank.max_classes}; export it with more max_classes"
        )
