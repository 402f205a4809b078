"""Training an expert: the low-rank path and the classifier, on one task's data and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mile_edge.bundle import ClassLabel, Expert
from mile_edge.data.folder import Dataset, LabelledFrame
from mile_edge.errors import RecipeError
from mile_edge.network.base import chosen_rows
from mile_edge.network.pool import ExpertPool, classifier_parameters
from mile_edge.training.augment import Augmentation
from mile_edge.training.base import shared_classes
from mile_edge.training.fit import FitResult, Progress, Schedule, fit
from mile_edge.training.own_statistics import own_statistics
from mile_edge.training.statistics import GateStatistics, gate_features, summarise

if TYPE_CHECKING:
    from mile_edge.training.rank_pool import RankPool


@dataclass(frozen=True)
class ExpertTask:
    """Who an expert is and where it applies.

    Attributes:
        name: lower-case letters, digits, - and _.
        sensors: kinds it serves; empty for any.
        domains: true domains it is right for; ``*`` for all.
        tap: where the gate looks, ``entry``, ``early`` or ``full``.
        centres: k-means centres to keep for a k-means gate; 0 for none.
        kept: features to keep for a probe; 0 for none.
        attributes: what its frames show, for an attribute gate; sensors and domains where empty.
        stored: what its file holds A and B in, ``fp16`` or ``int8``.
    """

    name: str
    sensors: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    tap: str = "early"
    centres: int = 0
    kept: int = 0
    attributes: tuple[str, ...] = ()
    account: dict[str, Any] = field(default_factory=dict)
    stored: str = "fp16"


def train_expert(
    pool: ExpertPool,
    task: ExpertTask,
    data: Sequence[Dataset],
    validation: Sequence[Dataset],
    *,
    size: tuple[int, int],
    schedule: Schedule,
    augmentation: Augmentation,
    checkpoint: Path | None = None,
    start: Expert | None = None,
    go_on: bool = False,
    ranks: RankPool | None = None,
    rows: Sequence[int | None] | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    device: str = "cpu",
) -> tuple[Expert, FitResult]:
    """Train one expert from the base, or go on with a pool of ranks.

    Args:
        pool: the frozen base with its low-rank layers; left holding the new expert.
        data: labelled frames of this task, all with the same classes.
        validation: frames that decide which weights are kept.
        checkpoint: file that a killed run resumes from.
        start: whose classifier to start from, by class name; the base's own where it is missing.
        go_on: start from its low-rank pairs as well: the same expert learns one more task.
        ranks: a method of ranks that goes on where ``start`` ended, see :mod:`mile_edge.training.rank_pool`.
        rows: of that classifier, one for each class, ``None`` for zeros; equal names where they are missing. With
            ``ranks`` only new classes start from them: known ones go on from their own row.
        tell: is given one sentence where the run goes on from its checkpoint, or cannot.
        device: that the steps run on, "cpu" or "cuda".

    Returns:
        the expert, and what its training came to. With ``ranks`` it is good for all tasks so far.

    Raises:
        DataError: no labels, or data sets with different classes.
        RecipeError: ``rows`` names one that the classifier does not have, or this base or method of ranks cannot have
            statistics of an expert's own.
    """
    classes = shared_classes([*data, *validation])
    if schedule.own_statistics and (ranks is not None or go_on):
        raise RecipeError(
            "an expert that goes on from task to task has the base's statistics for all; train without --own-statistics"
        )
    torch.manual_seed(schedule.seed)
    pool.reset(len(classes))
    if start is not None:
        _start_classifier(pool, start, _starting_rows(start, classes, rows, keep_known=ranks is not None))
        if go_on:
            pool.load_pairs(start)
    if ranks is not None:
        ranks.begin(pool, start, classes)
    frames = [frame for folder in data for frame in folder]
    held_out = [frame for folder in validation for frame in folder]
    # What this base cannot have is refused before its features are computed.
    with own_statistics(pool) if schedule.own_statistics else nullcontext():
        features = gate_features(pool.base, frames, size, task.tap)
        statistics = summarise(features, task.centres, schedule.seed, task.kept)
        result = fit(
            pool,
            frames,
            held_out,
            size=size,
            num_classes=len(classes),
            schedule=schedule,
            augmentation=augmentation,
            checkpoint=checkpoint,
            train_statistics=schedule.own_statistics,
            penalty=None if ranks is None else lambda: ranks.penalty(pool),
            report=report,
            tell=tell,
            device=device,
        )
    account = {
        "data": [str(folder.path) for folder in data],
        "frames": len(frames),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "schedule": asdict(schedule),
        "augmentation": _plain(asdict(augmentation)),
    }
    scores = {"validation_miou": round(result.miou, 4)} if held_out else {}
    head, low_rank = _held_by(pool, classes)
    if ranks is not None:
        low_rank = ranks.remaining(pool)
    expert = assemble(task, statistics, head, low_rank, pool.base_sha256, pool.rank, account, scores)
    return (expert if ranks is None else ranks.joined(start, expert)), result


def statistics_only(
    pool: ExpertPool, task: ExpertTask, frames: Sequence[LabelledFrame], size: tuple[int, int], like: Expert
) -> Expert:
    """An expert without an adapter: a domain the gate should know and the base can serve.

    Args:
        like: whose classifier it carries.
    """
    statistics = summarise(gate_features(pool.base, frames, size, task.tap), task.centres, kept=task.kept)
    head = Head(np.asarray(like.classifier_weight), np.asarray(like.classifier_bias), like.classes)
    return assemble(task, statistics, head, {}, pool.base_sha256, pool.rank, {"frames": len(frames)})


@dataclass(frozen=True)
class Head:
    """A classifier: weight (C, hidden), bias (C,), and its C classes."""

    weight: np.ndarray
    bias: np.ndarray
    classes: tuple[ClassLabel, ...]


def assemble(
    task: ExpertTask,
    statistics: GateStatistics,
    head: Head,
    low_rank: Mapping[str, tuple[np.ndarray, np.ndarray]],
    base_sha256: str,
    rank: int,
    training: dict[str, Any],
    scores: dict[str, Any] | None = None,
) -> Expert:
    """The parts of an expert, from wherever they come, as one; without low-rank pairs it has no adapter."""
    return Expert(
        name=task.name,
        base_sha256=base_sha256,
        rank=rank,
        adapter="low_rank" if low_rank else "none",
        low_rank=low_rank,
        classifier_weight=head.weight,
        classifier_bias=head.bias,
        classes=head.classes,
        mean=statistics.mean,
        scatter=statistics.scatter,
        count=statistics.count,
        prototypes=statistics.prototypes,
        features=statistics.features,
        attributes=task.attributes,
        sensors=task.sensors,
        domains=task.domains,
        tap=task.tap,
        training={**training, **task.account},
        scores=scores or {},
        stored=task.stored if low_rank else "fp16",
    )


def _held_by(
    pool: ExpertPool, classes: tuple[ClassLabel, ...]
) -> tuple[Head, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Classifier and low-rank pairs that the pool holds now."""
    weight, bias = classifier_parameters(pool.classifier)
    pairs = {name: (_numpy(layer.lora_A), _numpy(layer.lora_B)) for name, layer in pool.adapters.items()}
    return Head(_numpy(weight.flatten(1)), _numpy(bias), classes), pairs


@torch.no_grad()
def _start_classifier(pool: ExpertPool, start: Expert, rows: Sequence[int | None]) -> None:
    """The classifier gets these rows of the other expert's, zeros for ``None``."""
    held = torch.from_numpy(np.array(start.classifier_weight)), torch.from_numpy(np.array(start.classifier_bias))
    first = chosen_rows(*held, rows)
    weight, bias = classifier_parameters(pool.classifier)
    weight.copy_(first[0][:, :, None, None])
    bias.copy_(first[1])


def _starting_rows(
    start: Expert, classes: tuple[ClassLabel, ...], rows: Sequence[int | None] | None, *, keep_known: bool
) -> Sequence[int | None]:
    """For each class the row of ``start`` that it begins with: the named one, else that of its own name.

    Args:
        keep_known: a class that ``start`` has goes on from its own row, whatever row is named: one adapter serves all
            tasks, and what earlier ones learned of the class stands in that row.
    """
    places = {label.name: row for row, label in enumerate(start.classes)}
    own = [places.get(label.name) for label in classes]
    if rows is None:
        return own
    return [mine if keep_known and mine is not None else named for mine, named in zip(own, rows, strict=True)]


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).numpy().copy()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value
