"""What a step of training and a pass compute lies where the network lies, shown on torch's meta device: no GPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from test_rank_pool import train
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mile_edge.bundle import Expert
from mile_edge.export.bundle import base_expert
from mile_edge.network.base import Base
from mile_edge.network.one_pass import OnePass
from mile_edge.network.pool import ExpertPool
from mile_edge.training.optimiser import Optimiser
from mile_edge.training.rank_pool import Dac, Mora, RankPool
from workshop import CLASSES, RECIPE, SIZE, noisy_frames, untrained

LATE = r"segformer\.stages\.3\..*(q_proj|v_proj)"
ENTRY = r"segformer\.stages\.0\.patch_embeddings\.proj"


class OneDevice(TorchDispatchMode):
    """Refuses what a GPU refuses and the meta device in part lets pass: an operation on tensors of two devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch."""
        parts = tree_leaves((args, kwargs or {}))
        # A number on the host goes with every device.
        where = {part.device.type for part in parts if isinstance(part, torch.Tensor) and part.dim()}
        assert len(where) < 2 or func is torch.ops.aten.copy_.default, f"{func} reads tensors on {where}"
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def start() -> tuple[Base, Expert]:
    base = untrained("shallow")
    return base, base_expert(base, RECIPE, CLASSES, noisy_frames(3, 0), "base", ("camera",), ("day",))


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize(
    "method",
    [None, Dac(rank=6, active=4, merged=2), Dac(rank=6, active=4, merged=2, router="trained"), Mora(rank=3, top_k=4)],
    ids=["lora", "dac", "dac-trained", "mora"],
)
def test_a_step_of_training_stays_on_the_networks_device(
    start: tuple[Base, Expert], method: RankPool | None, optimiser: str
) -> None:
    base, past = start
    pool = ExpertPool(copy.deepcopy(base), 4 if method is None else method.rank, LATE if method else f"{LATE}|{ENTRY}")
    if method is None:
        pool.reset(len(CLASSES))
    else:
        _, past = train(base, method, past, 1)
        pool.reset(len(CLASSES))
        method.begin(pool, past, CLASSES)
    pool.to("meta").train()
    pixels = torch.empty(2, 3, *SIZE, device="meta")
    labels = torch.empty(2, *SIZE, device="meta", dtype=torch.int64)
    steps = Optimiser(optimiser, [p for p in pool.parameters() if p.requires_grad], 1e-3, 0.01)
    with OneDevice():
        scores = functional.interpolate(pool(pixels), size=SIZE, mode="bilinear")
        loss = functional.cross_entropy(scores, labels)
        if method is not None:
            loss = loss + method.penalty(pool)
        loss.backward()
        steps.step()
        assert pool.eval()(pixels).device.type == "meta", "a validation"


@pytest.mark.parametrize(
    ("gate", "tap", "layers"),
    [("mahalanobis", "early", LATE), ("mahalanobis", "full", f"{LATE}|{ENTRY}"), ("mora", "early", LATE)],
)
def test_a_pass_stays_on_the_networks_device(start: tuple[Base, Expert], gate: str, tap: str, layers: str) -> None:
    pool = ExpertPool(copy.deepcopy(start[0]), 4, layers)
    ranks = {"top_k": 4, "tau": 0.1, "delta": 0.2} if gate == "mora" else {}
    network = OnePass(pool, SIZE, len(CLASSES), gate, tap, **ranks).eval().to("meta")
    rows, dim = 5, 512 if tap == "full" else 64
    inputs = [(rows, network.layout.row_length), (rows, 1, dim), (dim, dim), (2, rows)]
    with OneDevice(), torch.no_grad():
        frames = torch.empty(2, *SIZE, 3, dtype=torch.uint8, device="meta")
        found = network(frames, *(torch.empty(*shape, device="meta") for shape in inputs))
    assert {each.device.type for each in found} == {"meta"}
