"""DAC and MoRA from task to task: what a task leaves, what it may not touch, and what a bundle makes of it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from mile_edge.bundle import ClassLabel, Expert, read_expert, write_expert
from mile_edge.data.folder import LabelledFrame
from mile_edge.errors import RecipeError
from mile_edge.export.bundle import base_expert
from mile_edge.network.base import Base
from mile_edge.network.pool import ExpertPool
from mile_edge.training.augment import Augmentation
from mile_edge.training.expert import ExpertTask, train_expert
from mile_edge.training.fit import Progress, Schedule
from mile_edge.training.rank_pool import Dac, Mora, RankPool, factorised, load_ranks
from workshop import CLASSES, RECIPE, SIZE, noisy_frames, untrained

SCHEDULE = Schedule(steps=4, batch=2, lr=2e-2, steps_per_epoch=2)
DAC, MORA = Dac(rank=6, active=4, merged=2), Mora(rank=3, top_k=4, tau=0.1)
METHODS = pytest.mark.parametrize(
    "method", [DAC, replace(DAC, router="trained"), MORA], ids=["random", "trained", "mora"]
)
TREE = ClassLabel("tree", (107, 142, 35))


@pytest.fixture(scope="module")
def start() -> tuple[Base, Expert]:
    base = untrained("random:segformer-b0")
    own = base_expert(base, RECIPE, CLASSES, noisy_frames(3, 0), "base", ("camera",), ("day",))
    return base, own


def folder(seed: int, classes: tuple[ClassLabel, ...] = CLASSES) -> Any:
    """What the trainer asks of a data set, made of frames in memory."""

    class Frames(list[LabelledFrame]):
        path, sensor, domain = f"frames-{seed}", "camera", f"d{seed}"

    made = Frames(noisy_frames(3, seed))
    made.classes = classes
    return made


def train(base: Base, method: RankPool, past: Expert, seed: int, **changes: Any) -> tuple[ExpertPool, Expert]:
    pool = ExpertPool(copy.deepcopy(base), method.rank, "segformer.stages.3.*(q_proj|v_proj)")
    given = {"schedule": SCHEDULE, "size": SIZE, "augmentation": Augmentation(), **changes}
    classes = given.pop("classes", CLASSES)
    task = ExpertTask(f"t{seed}", ("camera",), (f"d{seed}",))
    expert, _ = train_expert(pool, task, [folder(seed, classes)], [], start=past, ranks=method, **given)
    return pool, expert


def scores(pool: ExpertPool) -> np.ndarray:
    torch.manual_seed(1)
    with torch.inference_mode():
        return pool.eval()(torch.randn(1, 3, *SIZE)).numpy()


@METHODS
def test_fresh_ranks_leave_the_base_as_it_is(start: tuple[Base, Expert], method: RankPool) -> None:
    base, own = start
    pool = ExpertPool(copy.deepcopy(base), method.rank)
    pool.reset(len(CLASSES))
    method.begin(pool, own, CLASSES)
    with torch.inference_mode():
        torch.manual_seed(1)
        expected = base(pixel_values=torch.randn(1, 3, *SIZE)).logits.numpy()
    assert np.array_equal(scores(pool), expected)


@METHODS
def test_what_is_loaded_is_what_was_trained_and_the_next_task_starts_from_it(
    start: tuple[Base, Expert], method: RankPool, tmp_path: Path
) -> None:
    base, state = start
    former: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    left = MORA.rank if isinstance(method, Mora) else DAC.merged
    for task in (1, 2):
        pool, state = train(base, method, state, task)
        assert state.rank == task * left
        for name, (a, b) in state.low_rank.items():
            assert a.shape[0] == b.shape[1] == task * left
            if name in former:
                assert np.array_equal(a[:left], former[name][0]), "ranks of the first task are frozen"
                assert np.array_equal(b[:, :left], former[name][1])
        former = dict(state.low_rank)
        trained = scores(pool)
        load_ranks(pool, method, state)
        assert scores(pool) == pytest.approx(trained, abs=1e-5)
        write_expert(tmp_path / "state.safetensors", state)
        assert read_expert(tmp_path / "state.safetensors").training["tasks"] == ["t1", "t2"][:task]
    assert state.domains == ("day", "d1", "d2")
    assert state.prototypes is not None
    assert state.prototypes.shape[0] == 3, "the base's domain and each task's"
    assert state.adapter == ("self_activated" if isinstance(method, Mora) else "low_rank")


def test_dac_keeps_exactly_the_ranks_with_the_most_votes(start: tuple[Base, Expert]) -> None:
    pool, state = train(start[0], DAC, start[1], 1)
    for name, layer in pool.adapters.items():
        votes, kept = layer.rank_gate.votes.tolist(), layer.rank_gate.chosen().tolist()
        assert sum(votes) == SCHEDULE.steps * SCHEDULE.batch * DAC.active
        assert sorted(votes[rank] for rank in kept) == sorted(votes)[-DAC.merged :]
        assert np.array_equal(state.low_rank[name][0], layer.lora_A[kept].detach().numpy())
        assert np.array_equal(state.low_rank[name][1], layer.lora_B[:, kept].detach().numpy())


def test_ago_is_a_tenth_of_the_mean_over_layers(start: tuple[Base, Expert]) -> None:
    base, own = start
    _, state = train(base, DAC, own, 1)
    pool = ExpertPool(copy.deepcopy(base), DAC.rank, "segformer.stages.3.*(q_proj|v_proj)")
    pool.reset(len(CLASSES))
    DAC.begin(pool, own, CLASSES)
    assert float(DAC.penalty(pool)) == 0, "there is nothing before the first task"
    DAC.begin(pool, state, CLASSES)
    assert DAC.penalty(pool).item() == 0, "fresh ranks put out nothing"
    expected = []
    for name, layer in pool.adapters.items():
        with torch.no_grad():
            layer.lora_B.fill_(0.5)
        expected.append(2 * np.abs(0.5 * state.low_rank[name][1].sum(axis=0)).sum())
    penalty = DAC.penalty(pool)
    assert penalty.item() == pytest.approx(0.1 * np.mean(expected), rel=1e-5)
    penalty.backward()
    layer = next(iter(pool.adapters.values()))
    moved = layer.lora_B.grad.abs().sum(dim=0) > 0
    assert moved.nonzero().flatten().tolist() == layer.rank_gate.chosen().tolist()


def test_beyond_its_limit_a_merged_adapter_is_the_best_of_that_rank_and_says_what_it_lost(
    start: tuple[Base, Expert],
) -> None:
    base, own = start
    _, first = train(base, DAC, own, 1)
    _, whole = train(base, DAC, first, 2)
    _, cut = train(base, replace(DAC, limit=3), first, 2)
    assert (whole.rank, cut.rank) == (4, 3)
    name = next(iter(cut.low_rank))
    (a, b), lost = factorised(whole.low_rank[name], 3)
    assert np.allclose(cut.low_rank[name][1] @ cut.low_rank[name][0], b @ a, atol=1e-6)
    update = whole.low_rank[name][1] @ whole.low_rank[name][0]
    assert np.linalg.norm(update - b @ a) == pytest.approx(lost * np.linalg.norm(update), rel=1e-3)
    assert 0 < cut.training["lost"] < 1
    assert "lost" not in whole.training


def test_the_rows_of_known_classes_stay_and_new_classes_are_learned(start: tuple[Base, Expert]) -> None:
    base, own = start
    # Labels 0 and 1 are a new class and one that the base knows.
    _, state = train(base, MORA, own, 1, classes=(TREE, CLASSES[1]))
    assert state.classes == (*CLASSES, TREE)
    assert np.array_equal(state.classifier_weight[:3], own.classifier_weight)
    assert np.array_equal(state.classifier_bias[:3], own.classifier_bias)
    assert state.classifier_weight[3].any()
    _, free = train(base, replace(MORA, keep_head=False), own, 1, classes=(TREE, CLASSES[1]))
    assert not np.array_equal(free.classifier_weight[1], own.classifier_weight[1])
    assert np.array_equal(free.classifier_weight[[0, 2]], own.classifier_weight[[0, 2]])


@METHODS
@pytest.mark.parametrize("keep_head", [True, False])
def test_a_start_map_leaves_the_rows_of_known_classes_and_serves_the_new(
    start: tuple[Base, Expert], method: Any, keep_head: bool
) -> None:
    base, own = start
    hardly = Schedule(steps=1, batch=1, lr=1e-9, weight_decay=0.0)
    # Road is known and the map gives it nothing, the tree is new and starts as the sky.
    _, state = train(
        base, replace(method, keep_head=keep_head), own, 1, classes=(TREE, CLASSES[1]), rows=(0, None), schedule=hardly
    )
    np.testing.assert_allclose(state.classifier_weight, own.classifier_weight[[0, 1, 2, 0]], atol=1e-6)
    np.testing.assert_allclose(state.classifier_bias, own.classifier_bias[[0, 1, 2, 0]], atol=1e-6)


def test_a_run_that_was_stopped_counts_its_votes_on(start: tuple[Base, Expert], tmp_path: Path) -> None:
    base, own = start
    _, whole = train(base, DAC, own, 1)

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, DAC, own, 1, checkpoint=tmp_path / "run", report=stop)
    pool, resumed = train(base, DAC, own, 1, checkpoint=tmp_path / "run")
    votes = next(iter(pool.adapters.values())).rank_gate.votes
    assert int(votes.sum()) == SCHEDULE.steps * SCHEDULE.batch * DAC.active
    for name, (a, b) in whole.low_rank.items():
        assert np.array_equal(resumed.low_rank[name][0], a)
        assert np.array_equal(resumed.low_rank[name][1], b)


def test_what_cannot_be_is_refused(start: tuple[Base, Expert]) -> None:
    with pytest.raises(RecipeError, match="router 'none' is unknown"):
        Dac(router="none")
    with pytest.raises(RecipeError, match="5 merged of 4 active"):
        Dac(rank=6, active=4, merged=5)
    pool = ExpertPool(copy.deepcopy(start[0]), 4)
    with pytest.raises(RecipeError, match="rank 4 and the method trains 6"):
        DAC.begin(pool, start[1], CLASSES)
    convolution = "segformer.stages.0.patch_embeddings.proj|segformer.stages.3.*q_proj"
    pool = ExpertPool(copy.deepcopy(start[0]), 4, convolution)
    with pytest.raises(RecipeError, match="without ranks to choose"):
        Mora(rank=4).begin(pool, None, CLASSES)
