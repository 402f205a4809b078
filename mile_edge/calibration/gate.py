"""Novelty limits and hysteresis of a bundle's gate, from frames that no expert was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle, Gate, Novelty
from mile_edge.calibration.frames import Seen, look
from mile_edge.calibration.novelty import fit_novelty, held_out_scores, scores
from mile_edge.calibration.reader import GateReader, GateView
from mile_edge.calibration.roc import Roc, make_roc
from mile_edge.calibration.tail import share_interval
from mile_edge.data.folder import FolderDataset
from mile_edge.errors import DataError
from mile_edge.runtime.gate_inputs import HYSTERESIS


@dataclass(frozen=True)
class GateCalibration:
    """What was found.

    Attributes:
        novelty: how the bundle tells novel frames from now on.
        thresholds: expert name to the distance that all but the tolerated share of its own frames keep within, for
            people to read and for versions that know no more than a distance.
        hysteresis: distance by which another expert must be nearer before a stream changes to it.
        accuracy: share of known frames whose nearest expert is the right one, before hysteresis.
        false_alarms: share of known frames, one by one, beyond the limit, which these very frames have set.
        false_alarms_unseen: the same with each half of the groups judged by scales and limit from the other half;
            ``None`` where there is a single group.
        interval: 95 % interval of ``false_alarms_unseen``, by a bootstrap over groups; ``None`` with it.
        by_expert: expert name to false alarms among its frames, as in ``false_alarms_unseen``.
        auroc: known against unknown frames; ``None`` without unknown frames.
        detected: share of unknown frames, one by one, beyond the limit; ``None`` without any.
        frames: frames looked at, known and unknown.
        roc: for each unknown domain, and for each expert's own frames as unknown to a bundle without that expert.
    """

    novelty: Novelty
    thresholds: dict[str, float]
    hysteresis: float
    accuracy: float
    false_alarms: float
    false_alarms_unseen: float | None
    interval: tuple[float, float] | None
    by_expert: dict[str, float]
    auroc: float | None
    detected: float | None
    frames: tuple[int, int]
    roc: tuple[Roc, ...]

    def account(self) -> dict[str, Any]:
        """All of it as plain values, but for the points of the curves."""
        values = asdict(self)
        for curve in values["roc"]:
            del curve["curve"]
        return values

    def applied_to(self, gate: Gate) -> Gate:
        """The bundle's gate with these numbers; what was known of experts that had no frames here stays."""
        before = gate.novelty.experts if gate.novelty is not None else {}
        novelty = replace(self.novelty, experts={**before, **self.novelty.experts})
        thresholds = {**gate.thresholds, **self.thresholds}
        return replace(gate, novelty=novelty, thresholds=thresholds, hysteresis=self.hysteresis)


def calibrate_gate(
    bundle: Bundle,
    folders: Sequence[FolderDataset],
    false_alarms: float = 0.01,
    alike: int = 10,
    threads: int | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> GateCalibration:
    """What the gate sees of held-out frames decides when a frame is novel, and the margin between experts.

    Args:
        bundle: open; only read.
        folders: held-out frames; those of domains that no expert is right for count as unknown.
        false_alarms: share of known frames that may exceed the limit, on average over sets of places.
        alike: so many successive frames of a folder count as one place, whose frames resemble each other.
        threads: of the network.
        report: called with the number of frames done.

    Raises:
        DataError: no folder shows a domain that an expert knows.
    """
    reader = GateReader(bundle, threads)
    try:
        known, unknown = look(reader, folders, alike, report)
    finally:
        reader.close()
    if not known:
        domains = ", ".join(sorted({folder.domain for folder in folders}))
        raise DataError(f"no expert knows the domains {domains}; give held-out frames of at least one known domain")
    gate, experts = bundle.manifest.gate, bundle.choices()
    view = GateView(reader, experts, gate)
    novelty = fit_novelty(view, gate, known, false_alarms)
    # An expert without frames here is judged as the runtime will judge it; among those with frames it has no say.
    inside = scores(view, gate, novelty, known)
    outside = scores(view, gate, novelty, unknown) if unknown else {}
    gaps = _gaps(view, known)
    wrong = gaps[gaps > 0]
    margin = float(np.percentile(wrong, 95)) if len(wrong) else 0.0
    alarms, groups = held_out_scores(view, gate, known, false_alarms)
    together = _all(alarms)
    return GateCalibration(
        novelty=novelty,
        thresholds=_thresholds(view, known, false_alarms),
        hysteresis=round(max(HYSTERESIS[gate.kind], margin), 4),
        accuracy=1 - len(wrong) / len(gaps),
        false_alarms=float((_all(inside) > 1).mean()),
        false_alarms_unseen=float((together > 1).mean()) if len(together) else None,
        interval=share_interval(together > 1, groups) if len(together) else None,
        by_expert={name: float((of > 1).mean()) for name, of in sorted(alarms.items())},
        auroc=make_roc("", False, _all(inside), _all(outside)).auc if outside else None,
        detected=float((_all(outside) > 1).mean()) if outside else None,
        frames=(sum(map(len, inside.values())), sum(map(len, outside.values()))),
        roc=(
            *(make_roc(name, False, _all(inside), of) for name, of in sorted(outside.items())),
            *_left_out(reader, bundle, known, false_alarms),
        ),
    )


def _all(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(parts.values())) if parts else np.zeros(0)


def _gaps(view: GateView, known: Mapping[str, Seen]) -> np.ndarray:
    """How much nearer a wrong expert was: a stream that stays put needs no larger margin than these."""
    used = list(view.rows.values())
    found = []
    for name, seen in known.items():
        distance = view.distances(seen.values)
        found.append(distance[:, view.rows[name]] - distance[:, used].min(axis=1))
    return np.concatenate(found)


def _thresholds(view: GateView, known: Mapping[str, Seen], share: float) -> dict[str, float]:
    own = {name: view.distances(seen.values)[:, view.rows[name]] for name, seen in sorted(known.items())}
    # Four digits are written, rounded up: rounded down, the very frame that set a threshold would lie beyond it.
    return {name: math.ceil(np.quantile(of, 1 - share) * 1e4) / 1e4 for name, of in own.items()}


def _left_out(reader: GateReader, bundle: Bundle, known: Mapping[str, Seen], share: float) -> list[Roc]:
    """Each expert's frames as unknown to a bundle that never had it.

    The gate is refitted to the other experts (prototypes, pooled covariance, novelty), where the kind of gate lets its
    feature be read; else its row is switched off and only novelty is fitted again.
    """
    curves = []
    gate = bundle.manifest.gate
    for name, seen in known.items():
        others = {other: theirs for other, theirs in known.items() if other != name}
        if others:
            view = GateView(reader, [expert for expert in bundle.choices() if expert.name != name], gate)
            novelty = fit_novelty(view, gate, others, share)
            inside = scores(view, gate, novelty, others)
            curves.append(make_roc(name, True, _all(inside), scores(view, gate, novelty, {name: seen})[name]))
    return curves
