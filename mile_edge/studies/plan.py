"""What a study's recipe holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mile_edge.data.world import DOMAINS


@dataclass(frozen=True)
class TaskPlan:
    """Where a task's frames come from: the procedural world, or folders with labels.

    Attributes:
        world: domain of the world, several with commas, or ``all``; then no folders are given.
        sensor: of the world: camera, depth or thermal.
        train: folder to train on, relative to the recipe.
        test: folder to test on.
        domain: true domain of folders; the task's name where it is missing.
        train_frames: how many, evenly spread; the recipe's where it is missing.
        test_frames: the same of the test.
    """

    world: str | None = None
    sensor: str = "camera"
    train: str | None = None
    test: str | None = None
    domain: str | None = None
    train_frames: int | None = None
    test_frames: int | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """How one task is trained; see :class:`mile_edge.training.fit.Schedule`."""

    steps: int = 300
    batch: int = 8
    lr: float = 1e-3
    optimiser: str = "adamw"
    class_balance: float = 0.0


@dataclass(frozen=True)
class LatencyPlan:
    """What is timed: the passes with so many experts, in turns, on one thread."""

    experts: tuple[int, ...] = (1, 4, 16)
    rounds: int = 8


@dataclass(frozen=True)
class StudyRecipe:
    """What decides a study.

    Attributes:
        name: of the study; the file's where it is missing.
        base: a bundle, the folder of a base, a ``.pth`` file of ESPNetv2, or ``random:segformer-b0``; paths are
            relative to the recipe.
        tasks: name to where its frames come from.
        orders: name to the tasks in the order in which they come.
        experts: bundle whose experts are taken by the tasks' names in place of trained ones; relative to the recipe.
        seeds: of training; streets and test frames stay the same.
        methods: what is compared, of ``methods.METHODS``.
        size: (height, width) of the network.
        crop: (height, width) of training views.
        zoom: range of random zoom.
        foreign: share of views without their colours.
        rank, layers, tap: of the experts, as in export recipes.
        train_frames, test_frames: of each task.
        expert: how experts and sequential LoRA are trained.
        full: how whole networks are trained; joint training takes as many steps for every task.
        max_classes: how far the label space may grow.
        centres: of the k-means gate.
        top_k, tau: of the SemLA mix.
        leave_one_out: score every task under the experts of all others as well.
        latency: what is timed; nothing where missing.
    """

    name: str
    base: str
    tasks: Mapping[str, TaskPlan]
    orders: Mapping[str, tuple[str, ...]]
    experts: str | None = None
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...] = ()
    size: tuple[int, int] = (240, 320)
    crop: tuple[int, int] | None = None
    zoom: tuple[float, float] = (0.6, 2.0)
    foreign: float = 0.1
    rank: int = 8
    layers: str | None = None
    tap: str = "early"
    train_frames: int = 48
    test_frames: int = 16
    expert: TrainingPlan = field(default_factory=TrainingPlan)
    full: TrainingPlan = field(default_factory=TrainingPlan)
    max_classes: int = 16
    centres: int = 4
    top_k: int = 3
    tau: float = 0.05
    leave_one_out: bool = False
    latency: LatencyPlan | None = None


def domains_of(task: TaskPlan) -> tuple[str, ...]:
    """The world's domains that a task shows, in turn."""
    return DOMAINS if task.world == "all" else tuple(part.strip() for part in str(task.world).split(","))
