"""Novelty over time: what one frame says, what a stream says, and who serves a stream that nobody knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_makers import is_one_sentence, make_expert, make_manifest, tree, write_file

from mile_edge.bundle import Bundle, Gate, Manifest, Novelty, Scale, ShadowPlan
from mile_edge.bundle.checks import MAX_FEATURE, MAX_WIDER
from mile_edge.errors import BundleError, ExpertError
from mile_edge.runtime import Segmenter
from mile_edge.runtime.gate_inputs import prototype_table, whitening
from mile_edge.runtime.novelty import NoveltyMonitor
from mile_edge.runtime.novelty_model import WEIGHT, NoveltyModel

NAMES = ("fog", "night", "rain")
USUAL = Scale(1.0, 0.5, 1.0, 0.5)


def gate_of(kind: str = "mahalanobis", **changes: object) -> Gate:
    return replace(Gate(kind, "early", 4, prototypes=1), **changes)


def model_of(gate: Gate) -> tuple[NoveltyModel, np.ndarray, np.ndarray]:
    experts = [make_expert(name, seed) for seed, name in enumerate(NAMES)]
    rows = {name: place + 1 for place, name in enumerate(NAMES)}
    table, white = prototype_table(experts, gate), whitening(experts, gate)
    prototypes = np.concatenate([np.full((1, *table.shape[1:]), 1e6, np.float32), table])
    return NoveltyModel(experts, rows, gate, prototypes, white), table[:, 0].astype(float), white.astype(float)


def distances_of(feature: np.ndarray, means: np.ndarray, white: np.ndarray) -> np.ndarray:
    """(1, 4) as the graph puts them out; row 0 holds no expert."""
    return np.concatenate([[9e6], np.linalg.norm((feature - means) @ white.T, axis=1)])[None].astype(np.float32)


@pytest.mark.parametrize("kind", ["mahalanobis", "l2"])
def test_distances_to_all_experts_tell_how_far_a_frame_lies_across(kind: str) -> None:
    model, means, white = model_of(gate_of(kind))
    feature = np.array([0.3, -1.2, 2.0, 0.7])
    distance = distances_of(feature, means, white)
    nearest = model.nearest(distance)
    points = means @ white.T
    span = np.linalg.svd((points - points.mean(axis=0)).T, full_matrices=False)[0][:, :2]
    expert = nearest[0] - 1
    across = np.linalg.norm((feature @ white.T - points[expert]) @ span)
    covariance = make_expert(NAMES[expert], int(expert)).scatter / 19
    expected = np.sqrt(np.trace(span.T @ white @ covariance @ white.T @ span))
    assert model.measures(distance, nearest)[0, 1] == pytest.approx((across / expected) ** (2 / 3), rel=1e-3)


def test_a_new_expert_is_judged_by_the_scale_of_the_others() -> None:
    novelty = Novelty(3.0, 0.01, 5, {"fog": Scale(1.0, 0.2, 1.1, 0.4), "night": Scale(0.8, 0.4, 0.9, 0.2)})
    model, means, white = model_of(gate_of(novelty=novelty))
    distance = distances_of(means[2] + 0.5, means, white)
    nearest = np.array([3])
    own, across = model.measures(distance, nearest)[0]
    expected = (across - 1.0) / 0.3 + WEIGHT / 2 * (own - 0.9) / 0.3
    assert model.score(distance, nearest) == pytest.approx([expected])
    assert model.limit == 3.0


def test_a_signed_gate_is_judged_by_its_own_distance_alone() -> None:
    model, _, _ = model_of(gate_of("gaussian", prototypes=2, novelty=Novelty(2.0, 0.01, 5, {"fog": Scale(-5.0, 2.0)})))
    distance = np.array([[0.0, -1.0, 4.0, 9.0]])
    assert model.score(distance, model.nearest(distance)) == pytest.approx([2.0])


def test_plain_thresholds_of_older_bundles_vote_and_without_them_nothing_is_novel() -> None:
    model, _, _ = model_of(gate_of(thresholds={"fog": 2.0}))
    near, far, other = (np.array([[9.0, *rest]]) for rest in ((1.0, 5.0, 5.0), (3.0, 5.0, 5.0), (5.0, 3.0, 5.0)))
    assert [float(model.score(each, model.nearest(each))[0]) for each in (near, far)] == [0.0, 2.0]
    assert np.isnan(model.score(other, model.nearest(other))[0])
    assert not model_of(gate_of())[0].calibrated
    monitor = NoveltyMonitor()
    for _ in range(6):
        assert not monitor.judge(model, near, ["a"]).novel[0]
    said = [bool(monitor.judge(model, far, ["a"]).novel[0]) for _ in range(8)]
    assert said == [False] * 5 + [True] * 3, "most of the last ten frames must lie beyond"
    assert not monitor.judge(model, other, ["b"]).novel[0]


class _Scores(NoveltyModel):
    """A model whose distances are scores already: the monitor alone is under test."""

    def __init__(self) -> None:
        self.limit, self.calibrated = 2.0, True

    def nearest(self, distance: np.ndarray) -> np.ndarray:
        return np.zeros(len(distance), int)

    def score(self, distance: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        return distance[:, 0].astype(float)


def said_of(monitor: NoveltyMonitor, model: NoveltyModel, scores: list[float], stream: str = "a") -> list[bool]:
    found = monitor.judge(model, np.array(scores)[:, None], [stream] * len(scores))
    return found.novel.tolist()


def test_one_broken_frame_alarms_nobody_and_a_change_of_domain_does_within_seven_frames() -> None:
    model, monitor = _Scores(), NoveltyMonitor()
    assert not any(said_of(monitor, model, [0.0] * 12 + [1e9] + [0.0] * 12))
    alarms = said_of(monitor, model, [4.0] * 10)
    assert alarms == [False] * 5 + [True] * 5
    assert monitor.is_novel("a") and not monitor.is_novel("b")
    assert said_of(monitor, model, [0.0] * 6) == [True] * 5 + [False], "it ends below 0.8 of the limit"


def test_the_first_frame_of_a_stream_decides_alone_and_streams_do_not_mix() -> None:
    model, monitor = _Scores(), NoveltyMonitor()
    assert said_of(monitor, model, [2.5], "new") == [True]
    assert said_of(monitor, model, [1.5], "other") == [False]
    monitor.limit = 1.0
    assert said_of(monitor, model, [1.5], "third") == [True]
    monitor.limit, monitor.window = None, 1
    assert said_of(monitor, model, [0.0, 9.0, 0.0], "other") == [False, True, False]


def test_an_expert_that_came_or_went_ends_what_older_frames_said() -> None:
    monitor = NoveltyMonitor()
    said_of(monitor, _Scores(), [9.0] * 10)
    assert monitor.is_novel("a")
    assert said_of(monitor, _Scores(), [0.0]) == [False]


def test_a_frame_that_lies_nowhere_is_known_to_nobody_and_statistics_without_distances_are_refused() -> None:
    novelty = Novelty(3.0, 0.01, 5, {"fog": USUAL})
    model, _, _ = model_of(gate_of(novelty=novelty))
    verdict = NoveltyMonitor().judge(model, np.full((1, 4), np.nan, np.float32), ["a"])
    assert verdict.novel[0] and np.isfinite(verdict.stream[0])
    far = [make_expert("fog"), replace(make_expert("night"), mean=np.full(4, 3e38, np.float32))]
    far[1] = replace(far[1], scatter=np.full((4, 4), 3e38, np.float32))
    table = np.stack([np.repeat(expert.mean[None], 1, axis=0) for expert in far])
    with pytest.raises(BundleError, match="no finite distances"):
        NoveltyModel(far, {"fog": 0, "night": 1}, gate_of(novelty=novelty), table, np.full((4, 4), np.inf, np.float32))


@pytest.mark.parametrize("field", ["mean", "scatter"])
def test_no_expert_that_is_taken_turns_novelty_off_for_the_others(
    field: str, tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    bundle = Bundle.open(tiny_bundle)
    like = next(expert for expert in bundle.experts() if expert.adapter == "low_rank")
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    signs = np.sign(np.random.default_rng(1).normal(size=like.mean.shape)).astype(np.float32)
    for size in (MAX_FEATURE / 1.01, 1e20):
        # Of scatter a bundle takes far less than a file may say.
        times = np.float32(0.9 * MAX_WIDER if size < MAX_FEATURE else 1e36)
        given = {"mean": signs * np.float32(size), "scatter": like.scatter * times}
        strange = replace(like, name="strange", domains=("strange",), **{field: given[field]})
        if size > MAX_FEATURE:
            with pytest.raises(ExpertError, match=f"gate.{field}"):
                write_file(tmp_path, strange)
            continue
        bundle.add(write_file(tmp_path, strange))
        with Segmenter.open(tiny_bundle, threads=1) as segmenter:
            assert segmenter(noise, stream="/a").novel[0]
            assert segmenter(street_frames["night"], stream="/b").expert == ("night",)
            assert not segmenter.novelty.is_novel("/b")


def test_no_expert_that_is_taken_keeps_a_running_stream_with_its_expert(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    like = next(expert for expert in Bundle.open(tiny_bundle).experts() if expert.name == "fog")

    def strange(times: float) -> Path:
        signs = np.sign(np.random.default_rng(1).normal(size=like.mean.shape)).astype(np.float32)
        scatter = like.scatter * np.float32(times)
        return write_file(tmp_path, replace(like, name="strange", mean=like.mean + 5 * signs, scatter=scatter))

    held = tree(tiny_bundle)
    with Segmenter.open(tiny_bundle, threads=1) as segmenter:
        for plan in (None, ShadowPlan(9)):
            for times in (2 * MAX_WIDER, 9e4):
                with pytest.raises(ExpertError, match="times as wide") as refused:
                    segmenter.add_expert(strange(times), shadow=plan)
                assert is_one_sentence(refused.value)
        assert tree(tiny_bundle) == held
        segmenter.add_expert(strange(0.7 * MAX_WIDER))
        order = ("night", "fog", "clear", "snow", "depth", "night")
        assert [segmenter(street_frames[name], stream="/a").expert[0] for name in order] == list(order)
    with pytest.raises(ExpertError, match="frames and at most"):
        write_file(tmp_path, replace(like, name="strange", count=2**48))


def test_the_manifest_keeps_novelty_and_refuses_what_makes_no_sense() -> None:
    novelty = Novelty(3.5, 0.01, 480, {"base": USUAL})
    manifest = make_manifest(gate=replace(make_manifest().gate, novelty=novelty))
    with pytest.raises(BundleError, match=r"novelty\.experts"):
        manifest.to_json()
    assert "novelty" not in make_manifest().to_json(), "older versions still read bundles without it"
    without = replace(manifest.gate, novelty=Novelty(3.5, 0.01, 480, {"fog": USUAL, "base": USUAL})).without("fog")
    assert without.novelty == novelty
    assert without.without("base").novelty is None
    assert Manifest.from_json(make_manifest().to_json()).gate.novelty is None


def test_a_novel_stream_falls_back_to_the_base_and_returns_by_itself(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    with Segmenter(Bundle.open(tiny_bundle), fallback="base", threads=1) as segmenter:
        segmenter.novelty.window = 1
        assert segmenter(noise, stream="/a").novel[0]
        under = segmenter(street_frames["fog"], stream="/a")
        assert under.expert == ("clear",) and not under.novel[0] and under.novelty[0] < 1
        assert segmenter(street_frames["fog"], stream="/a").expert == ("fog",)
        segmenter(noise, stream="/a")
        segmenter.fallback = "nearest"
        assert segmenter(street_frames["fog"], stream="/a").expert == ("fog",)
        with pytest.raises(ExpertError, match="mix"):
            segmenter.fallback = "mix"
        with pytest.raises(ExpertError, match="nobody"):
            segmenter.fallback = "nobody"


def test_a_novel_stream_of_a_mixing_gate_goes_to_the_nearest_of_its_last_frame_and_not_to_one_for_ever(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    bundle = Bundle.open(tiny_bundle)
    # The graph at hand gives one expert the frame: what is looked at is who may serve it at all. All lies beyond.
    thresholds = {expert.name: 0.0 for expert in bundle.experts()}
    gate = replace(bundle.manifest.gate, kind="uniform", novelty=None, thresholds=thresholds)
    mixing = replace(bundle, manifest=replace(bundle.manifest, gate=gate))
    with Segmenter(mixing, hysteresis=0, fallback="nearest", threads=1) as segmenter:
        order = ("fog", "night", "night", "fog", "fog")
        said = [segmenter(street_frames[name], stream="/a").expert[0] for name in order]
        assert said == ["fog", "fog", "night", "night", "fog"], "the last frame's nearest stands for this one's"
        only = [segmenter(street_frames["fog"], stream="/a", only=["rain", "night"]).expert[0] for _ in range(2)]
        assert set(only) <= {"rain", "night"}
