"""What distinguishes the gates, and what none of them may break."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from bundle_makers import make_bundle, make_expert, make_manifest, write_file
from gate_makers import DIM, choose, domains, experts_of, gate_of
from torch.nn import functional

from mile_edge.bundle import Expert, Gate, Manifest, expert_bytes
from mile_edge.bundle.checks import check_expert
from mile_edge.bundle.expert import parse_expert
from mile_edge.bundle.gate import GATE_KINDS
from mile_edge.errors import BundleError, ExpertError, RecipeError
from mile_edge.export.attributes import similarity_of
from mile_edge.network.gates import KINDS, make_gate, oracle_bias, random_bias
from mile_edge.runtime import gate_inputs, probe
from mile_edge.runtime.attributes import attributes_of
from mile_edge.runtime.bank import Bank


def test_manifest_and_network_know_the_same_gates() -> None:
    assert sorted(KINDS) == sorted(GATE_KINDS)
    assert set(gate_inputs.HYSTERESIS) == set(GATE_KINDS)


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_every_gate_does_better_than_chance_by_far(kind: str) -> None:
    train, test = domains(3), domains(3, seed=1)
    accuracy = np.mean(
        [
            (choose(gate_of(kind), experts_of(train), features)[0] == index).mean()
            for index, features in enumerate(test.values())
        ]
    )
    assert accuracy > 0.6, accuracy


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_no_gate_depends_on_the_order_in_which_experts_came(kind: str) -> None:
    made = experts_of(domains(4))
    features = np.concatenate(list(domains(4, 1).values()))
    order = [2, 0, 3, 1]
    forward, distance = choose(gate_of(kind), made, features)
    backward, shuffled = choose(gate_of(kind), [made[place] for place in order], features)
    assert np.array_equal(np.array(order)[backward], forward)
    assert np.array_equal(shuffled, distance[:, order])


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_a_row_without_an_expert_is_never_near(kind: str) -> None:
    gate, made = gate_of(kind), experts_of(domains(3))
    features = torch.from_numpy(np.concatenate(list(domains(3, 1).values())).astype(np.float32))
    table = np.concatenate([gate_inputs.prototype_table(made, gate), gate_inputs.empty_rows(gate)[None]])
    whitening = torch.from_numpy(gate_inputs.whitening(made, gate))
    _, distance = make_gate(kind)(features, torch.from_numpy(table), whitening, torch.zeros(len(features), 4))
    assert torch.isfinite(distance).all()
    # Directions are all that a cosine sees, so there only the bias keeps an empty row from being chosen.
    assert kind == "cosine" or (distance[:, 3] > distance[:, :3].amax(dim=1)).all()


def test_a_probe_parts_domains_whose_means_are_no_help() -> None:
    rng = np.random.default_rng(0)
    # Along the second dimension one domain varies ten times as much: the nearest mean is often the wrong one.
    narrow = rng.normal(0, [1.0, 0.1, 1, 1], (200, DIM))
    wide = rng.normal([0.0, 5.0, 0, 0], [1.0, 3.0, 1, 1], (200, DIM))
    made = experts_of({"narrow": narrow, "wide": wide})

    def accuracy(kind: str) -> float:
        expert = choose(gate_of(kind), made, np.concatenate([narrow, wide]))[0]
        return float((expert == np.repeat([0, 1], 200)).mean())

    assert accuracy("probe") > accuracy("mahalanobis") + 0.02


def test_the_logistic_probe_is_the_optimum_that_a_general_solver_finds() -> None:
    made = experts_of(domains(3, spread=1.0))
    whitening = np.linalg.inv(np.linalg.cholesky(sum(expert.scatter for expert in made) / 117))
    point, weight = probe.logistic(made, whitening)
    centre = np.mean([expert.mean for expert in made], axis=0, dtype=np.float64)
    inputs = [torch.tensor((np.asarray(expert.features, np.float64) - centre) @ whitening.T) for expert in made]
    fitted = torch.tensor(np.column_stack([weight @ np.linalg.inv(whitening), (weight * (centre - point)).sum(axis=1)]))

    def loss(at: torch.Tensor) -> torch.Tensor:
        logits = [of @ at[:, :-1].T + at[:, -1] for of in inputs]
        losses = [functional.cross_entropy(of, torch.full((len(of),), place)) for place, of in enumerate(logits)]
        return sum(losses) / len(losses) + 0.5 * probe.PENALTY * at[:, :-1].square().sum()

    best = torch.zeros_like(fitted, requires_grad=True)
    optimiser = torch.optim.LBFGS([best], max_iter=1000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(best)
        value.backward()
        return value

    optimiser.step(closure)
    assert 0.1 < float(loss(best.detach())) <= float(loss(fitted)) <= 1.001 * float(loss(best.detach()))


def test_a_probe_wants_experts_that_kept_their_features() -> None:
    manifest = make_manifest(gate=Gate("probe", "early", DIM, prototypes=2))
    check_expert(experts_of(domains(1))[0], manifest)
    with pytest.raises(ExpertError, match="keeps no features"):
        check_expert(make_expert(), manifest)


def test_kept_features_survive_the_file_and_are_counted() -> None:
    made = experts_of(domains(1))[0]
    assert parse_expert(expert_bytes(made), "it") == made
    assert made.sizes()["gate"] - replace(made, features=None).sizes()["gate"] == 2 * 16 * DIM


def labelled(names: dict[str, tuple[str, ...]], **spread: float) -> list[Expert]:
    made = experts_of(domains(len(names), **spread))
    return [
        replace(expert, name=name, attributes=attributes)
        for expert, (name, attributes) in zip(made, names.items(), strict=True)
    ]


LIT = {"noon": ("bright",), "fog": ("bright", "hazy"), "night": ("dark",), "mist": ("dark", "hazy")}


def test_attributes_part_experts_by_what_they_show_alone() -> None:
    made = labelled(LIT, spread=40.0)
    gate = gate_of("attribute")
    projection = gate_inputs.whitening(made, gate)
    shown = np.array([expert.mean for expert in made]) @ projection.T
    # Bright, dark, hazy in the order of names; the fourth direction shows nothing.
    steps = shown - shown.mean(axis=0)
    assert steps[:, :3] == pytest.approx(np.array([[1, -1, -1], [1, -1, 1], [-1, 1, -1], [-1, 1, 1]]) / 2, abs=0.15)
    assert not projection[3].any()
    # Two experts that show the same are as one to this gate, wherever their features lie.
    twins = labelled({**LIT, "dusk": ("dark",)}, spread=40.0)
    distance = choose(gate, twins, np.array([expert.mean for expert in twins]))[1]
    assert distance[2, 4] < 0.2 * distance[2, 0]


def test_an_expert_without_attributes_shows_its_sensors_and_domains() -> None:
    expert = make_expert(sensors=("camera",), domains=("fog", "*"))
    assert attributes_of(expert) == ("camera", "fog")
    assert attributes_of(replace(expert, attributes=("hazy",))) == ("hazy",)
    nothing = [replace(expert, name=name, domains=("*",), sensors=()) for name in ("a", "b")]
    with pytest.raises(BundleError, match="attribute of the pool"):
        gate_inputs.whitening(nothing, gate_of("attribute"))


def test_a_named_pool_that_no_expert_shows_yet_leaves_every_distance_zero(tmp_path: Path) -> None:
    gate = gate_of("attribute", attributes=("night", "rain"))
    bundle = make_bundle(tmp_path, *(make_expert(name, domains=("*",)) for name in ("a", "b")), gate=gate)
    state = Bank(bundle).state
    assert not state.whitening.any()
    nothing = np.zeros((1, len(state.names)), np.float32)
    assert np.isnan(state.novelty.score(nothing, state.novelty.nearest(nothing))), "nothing was calibrated"
    shown = bundle.add(write_file(tmp_path, make_expert("dark", 3, attributes=("night",))))
    assert Bank(shown).state.whitening.any()


def test_attributes_with_like_vectors_are_near_each_other() -> None:
    made = labelled({"noon": ("bright",), "night": ("dark",), "dusk": ("dim",)})
    pool = ("bright", "dark", "dim")
    alike = similarity((1, 0, 0), (0, 1, 0), (0, 0.9, 0.43))
    unlike = gate_of("attribute", attributes=pool)
    means = np.array([expert.mean for expert in made])
    plain = choose(unlike, made, means)[1]
    told = choose(replace(unlike, similarity=alike), made, means)[1]
    assert told[1, 2] / told[1, 0] < 0.5 * plain[1, 2] / plain[1, 0]
    assert np.array_equal(choose(gate_of("attribute"), made, means)[1], plain), "all unlike where nothing is said"


def similarity(*vectors: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    given = np.array(vectors)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    return tuple(tuple(float(value) for value in row) for row in unit @ unit.T)


def test_a_pool_larger_than_the_feature_keeps_its_distances() -> None:
    made = labelled({name: (name, f"not {name}", "all") for name in ("a", "b", "c", "d")}, spread=40.0)
    gate = gate_of("attribute")
    matrix = gate_inputs.whitening(made, gate)
    assert matrix.shape == (DIM, DIM)
    shown = np.array([expert.mean for expert in made]) @ matrix.T
    apart = np.linalg.norm(shown[:, None] - shown[None], axis=-1)
    # Each differs from each in four of the nine.
    assert apart[~np.eye(4, dtype=bool)] == pytest.approx(2, abs=0.3)


def test_a_text_encoders_vectors_become_cosines(tmp_path: Path) -> None:
    file = tmp_path / "vectors.npy"
    np.save(file, np.array([[2.0, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32))
    found = similarity_of(("a", "b", "c"), str(file))
    assert np.array(found) == pytest.approx(np.array([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]]))
    for bad in (np.zeros((3, 2), np.float32), np.ones((2, 3), np.float32), np.ones((3, 2), np.int64)):
        np.save(file, bad)
        with pytest.raises(RecipeError, match=r"vectors\.npy"):
            similarity_of(("a", "b", "c"), str(file))


@pytest.mark.parametrize(
    "gate",
    [
        Gate("semla", "early", DIM, top_k=3, tau=0.05),
        Gate("attribute", "early", DIM),
        Gate("attribute", "early", DIM, attributes=("a", "b"), similarity=((1.0, 0.5), (0.5, 1.0))),
        Gate("uniform", "early", DIM),
        Gate("probe", "early", DIM, prototypes=2, thresholds={}),
    ],
    ids=lambda gate: gate.kind,
)
def test_a_gates_own_settings_survive_the_manifest(gate: Gate) -> None:
    manifest = make_manifest(gate=gate)
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (Gate("semla", "early", DIM), "gate.top_k"),
        (Gate("semla", "early", DIM, top_k=9, tau=0.05), "gate.top_k"),
        (Gate("semla", "early", DIM, top_k=2, tau=0.0), "gate.tau"),
        (Gate("mahalanobis", "early", DIM, top_k=2), "top_k"),
        (Gate("attribute", "early", DIM, attributes=("a", "a")), "each name once"),
        (Gate("attribute", "early", DIM, attributes=("a",), similarity=((2.0,),)), "gate.similarity"),
        (Gate("l2", "early", DIM, attributes=("a",)), "attributes"),
    ],
    ids=["no k", "more than rows", "no tau", "k of a hard gate", "twice", "no cosine", "attributes of another gate"],
)
def test_settings_that_a_gate_cannot_have_are_refused(gate: Gate, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        make_manifest(gate=gate).to_json()


def test_attributes_survive_the_file_and_their_absence_changes_no_byte() -> None:
    made = make_expert(attributes=("night", "wet"))
    assert parse_expert(expert_bytes(made), "it") == made
    assert b"attributes" not in expert_bytes(make_expert())


def test_the_oracles_bias_leaves_one_expert_to_any_gate() -> None:
    made = experts_of(domains(4))
    features = torch.from_numpy(np.concatenate(list(domains(4, 1).values())).astype(np.float32))
    right = torch.arange(len(features)) % 4
    drawn = random_bias(len(features), torch.tensor([0, 2]), 4, torch.Generator().manual_seed(0))
    for kind in GATE_KINDS:
        gate = gate_of(kind)
        table = torch.from_numpy(gate_inputs.prototype_table(made, gate))
        whitening = torch.from_numpy(gate_inputs.whitening(made, gate))
        assert torch.equal(make_gate(kind)(features, table, whitening, oracle_bias(right, 4))[0], right)
        chosen = make_gate(kind)(features, table, whitening, drawn)[0]
        assert set(chosen.tolist()) == {0, 2}
        assert torch.equal(chosen, drawn.argmax(dim=1))
