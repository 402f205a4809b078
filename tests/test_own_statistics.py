"""Batch-norm statistics of an expert's own are in the expert alone: its numbers say what the norm would have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from mile_edge.bundle import Expert
from mile_edge.errors import RecipeError
from mile_edge.export.bundle import base_expert
from mile_edge.network.base import Base
from mile_edge.network.pool import ExpertPool
from mile_edge.training.augment import Augmentation
from mile_edge.training.expert import ExpertTask, train_expert
from mile_edge.training.fit import Schedule
from mile_edge.training.own_statistics import own_statistics
from mile_edge.training.rank_pool import Dac
from workshop import CLASSES, RECIPE, SIZE, noisy_frames, untrained

PROJECTIONS = r"segformer\.stages\.3\..*q_proj|decode_head\.linear_projections\.\d\.proj"


@pytest.fixture(scope="module")
def base() -> Base:
    """A base whose stages' norms have weights and biases, as trained ones do."""
    made = untrained("random:segformer-b0")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for stage in made.segformer.stages:
            stage.layer_norm.weight.uniform_(0.5, 1.2, generator=generator)
            stage.layer_norm.bias.normal_(0.05, 0.2, generator=generator)
        norm = made.decode_head.batch_norm
        norm.weight.uniform_(0.8, 1.4, generator=generator)
        norm.bias.normal_(0, 0.3, generator=generator)
    return made


def scores(pool: ExpertPool) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return pool.eval()(torch.randn(3, 3, *SIZE))


def test_an_expert_computes_what_the_norm_computed_with_the_statistics_it_had_learnt(base: Base) -> None:
    pool = ExpertPool(copy.deepcopy(base), 4, PROJECTIONS)
    pool.reset(len(CLASSES))
    norm = pool.base.decode_head.batch_norm
    held = {name: tensor.clone() for name, tensor in pool.base.decode_head.batch_norm.state_dict().items()}
    with own_statistics(pool):
        with torch.no_grad():
            for path in pool.adapters.values():
                path.lora_B[:, :-1].normal_(0, 0.05)
            norm.running_mean.add_(torch.randn(256) * 0.4)
            norm.running_var.mul_(torch.rand(256) + 0.5)
        learnt = scores(pool)
    assert all(torch.equal(tensor, held[name]) for name, tensor in norm.state_dict().items()), "the base is as it was"
    folded = scores(pool)
    assert torch.allclose(folded, learnt, atol=1e-3 * float(learnt.abs().max()))
    pool.reset(len(CLASSES))
    assert not torch.allclose(scores(pool), learnt, atol=0.1 * float(learnt.abs().max())), "there was a difference"


def expert_of(base: Base, *, statistics: bool) -> tuple[ExpertPool, Expert]:
    pool = ExpertPool(copy.deepcopy(base), 4, PROJECTIONS)
    schedule = Schedule(steps=6, batch=2, lr=1e-2, steps_per_epoch=3, optimiser="muon", own_statistics=statistics)
    task = ExpertTask("dusk", ("camera",), ("dusk",))
    own = base_expert(base, RECIPE, CLASSES, noisy_frames(3, 0), "base", ("camera",), ("day",))
    data = noisy_frames(4, 5, level=60.0)
    expert, _ = train_expert(
        pool, task, [Task(data)], [], size=SIZE, schedule=schedule, augmentation=Augmentation(), start=own
    )
    return pool, expert


class Task(list[object]):
    """Frames in memory, as a data set."""

    path, sensor, domain, classes = "frames", "camera", "dusk", CLASSES


def test_training_keeps_one_rank_of_each_projection_for_what_the_norm_learns(base: Base) -> None:
    _, plain = expert_of(base, statistics=False)
    pool, own = expert_of(base, statistics=True)
    assert own.training["schedule"]["own_statistics"] is True
    for stage in range(4):
        weight = pool.base.segformer.stages[stage].layer_norm.weight.detach().numpy()
        a, b = own.low_rank[f"decode_head.linear_projections.{stage}.proj"]
        np.testing.assert_array_equal(a[-1], 1 / weight)
        assert b[:, -1].any() and a[:-1].all()
    assert plain.low_rank.keys() == own.low_rank.keys()


def test_a_channel_that_the_norm_holds_still_stays_so(base: Base) -> None:
    still = copy.deepcopy(base)
    with torch.no_grad():
        still.decode_head.batch_norm.weight[7] = 0
    pool = ExpertPool(still, 4, PROJECTIONS)
    pool.reset(len(CLASSES))
    with own_statistics(pool):
        pool.base.decode_head.batch_norm.running_mean.add_(torch.randn(256) * 0.4)
        learnt = scores(pool)
    assert torch.allclose(scores(pool), learnt, atol=1e-3 * float(learnt.abs().max()))


def _elsewhere(base: Base) -> ExpertPool:
    return ExpertPool(copy.deepcopy(base), 4, r"segformer\.stages\.3\..*q_proj")


def _untrained(base: Base) -> ExpertPool:
    network = copy.deepcopy(base)
    for stage in network.segformer.stages:
        torch.nn.init.zeros_(stage.layer_norm.bias)
    return ExpertPool(network, 4, PROJECTIONS)


@pytest.mark.parametrize(
    ("pool_of", "why"),
    [
        (_elsewhere, "projections.0.proj and its like, which this bundle does not adapt"),
        (_untrained, "hardly anything in this base"),
        (lambda base: ExpertPool(copy.deepcopy(base), 1, PROJECTIONS), "rank is 1"),
        (lambda _: ExpertPool(untrained("random:mobilevit-xxs"), 4), "this base is a mobilevit"),
    ],
    ids=["elsewhere", "untrained", "one rank", "mobilevit"],
)
def test_what_cannot_hold_statistics_is_refused_by_its_cause(
    base: Base, pool_of: Callable[[Base], ExpertPool], why: str
) -> None:
    with pytest.raises(RecipeError, match=why) as refused, own_statistics(pool_of(base)):
        raise AssertionError("the block was entered")
    assert "without --own-statistics" in str(refused.value)


def test_an_adapter_that_goes_on_from_task_to_task_has_no_statistics_of_its_own(base: Base) -> None:
    pool = ExpertPool(copy.deepcopy(base), 6, PROJECTIONS)
    own = base_expert(base, replace(RECIPE, rank=6), CLASSES, noisy_frames(3, 0), "base", ("camera",), ("day",))
    with pytest.raises(RecipeError, match="without --own-statistics"):
        train_expert(
            pool,
            ExpertTask("dusk", ("camera",), ("dusk",)),
            [Task(noisy_frames(3, 1))],
            [],
            size=SIZE,
            schedule=Schedule(steps=2, batch=2, own_statistics=True),
            augmentation=Augmentation(),
            start=own,
            ranks=Dac(rank=6, active=4, merged=2),
        )
