"""The figures of a replay are what their definitions say, and take no more memory for a longer bag."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mile_edge.errors import DataError
from mile_edge.replay.film import EXTREMES, PER_STRIP, Film, blend, palette, thumbnails
from mile_edge.replay.gate import GateScores, right_expert
from mile_edge.replay.latency import SAMPLE, Latency
from mile_edge.replay.predictions import output_topics
from mile_edge.replay.scores import LabelScores, class_iou, confusion, mean_iou
from mile_edge.replay.timeline import MAX_BINS, Timeline

SECOND = 1_000_000_000


def expert(name: str, sensors: tuple[str, ...] = (), domains: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(name=name, sensors=sensors, domains=domains)


EXPERTS = (
    expert("base", ("camera",), ("clear",)),
    expert("fog", ("camera",)),
    expert("depth", ("depth",), ("*",)),
    expert("any-snow", (), ("snow",)),
)


@settings(max_examples=60, deadline=None)
@given(classes=st.integers(1, 9), seed=st.integers(0, 10_000), void=st.booleans())
def test_iou_is_intersection_over_union_of_the_labelled_pixels(classes: int, seed: int, void: bool) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (7, 9)).astype(np.uint8)
    mask = rng.integers(0, classes + 2, (7, 9)).astype(np.uint8)
    if void:
        truth[rng.random((7, 9)) < 0.3] = 255
    values = class_iou(confusion(truth, mask, classes))
    for label, value in enumerate(values):
        known = truth != 255
        union = ((truth == label) | (mask == label)) & known
        both = (truth == label) & (mask == label)
        assert np.isnan(value) == (not (truth == label).any())
        if not np.isnan(value):
            assert value == pytest.approx(both.sum() / union.sum())
    present = values[~np.isnan(values)]
    assert mean_iou(confusion(truth, mask, classes)) == (pytest.approx(present.mean()) if len(present) else None)


def test_a_class_that_the_labels_never_show_neither_helps_nor_hurts() -> None:
    truth, mask = np.zeros((2, 4), np.uint8), np.array([[0, 0, 0, 1]] * 2, np.uint8)
    assert mean_iou(confusion(truth, mask, 2)) == mean_iou(confusion(truth, mask, 9)) == 0.75


def test_scores_add_up_over_any_grouping() -> None:
    rng = np.random.default_rng(1)
    scores = LabelScores(4)
    total = np.zeros((4, 5), np.int64)
    for topic in ("/a", "/b"):
        for domain in ("day", "night"):
            truth, mask = rng.integers(0, 4, (2, 6, 8)).astype(np.uint8)
            assert scores.add(topic, domain, truth, mask) == mean_iou(confusion(truth, mask, 4))
            total += confusion(truth, mask, 4)
    np.testing.assert_array_equal(scores.of(), total)
    np.testing.assert_array_equal(scores.of(domain="day") + scores.of(domain="night"), total)
    np.testing.assert_array_equal(scores.of(topic="/a") + scores.of(topic="/b"), total)
    assert scores.domains == ("day", "night")


@pytest.mark.parametrize(
    "other", [np.zeros((3, 3), np.uint8), np.zeros((2, 2), np.int64), np.zeros((1, 2, 2), np.uint8)]
)
def test_what_cannot_be_compared_is_refused(other: np.ndarray) -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        confusion(np.zeros((2, 2), np.uint8), other, 2)


@pytest.mark.parametrize(
    ("sensor", "domain", "right"),
    [
        ("camera", "clear", "base"),
        ("camera", "fog", "fog"),
        ("camera", "base", "base"),
        ("depth", "fog", "depth"),
        ("depth", "anything", "depth"),
        ("thermal", "snow", "any-snow"),
        ("camera", "snow", "any-snow"),
        ("depth", "snow", "depth"),
        ("thermal", "fog", None),
        ("camera", "rain", None),
    ],
)
def test_the_right_expert_is_the_first_that_knows_sensor_and_domain(
    sensor: str, domain: str, right: str | None
) -> None:
    chosen = right_expert(EXPERTS, sensor, domain)
    assert chosen == right


def test_gate_accuracy_counts_only_frames_whose_right_expert_is_known() -> None:
    scores = GateScores(EXPERTS)
    assert scores.accuracy() is None
    assert scores.reason() == "no frame was replayed"
    assert scores.add("camera", None, "base") is None
    assert "names no true domain" in str(scores.reason())
    assert scores.add("camera", "rain", "base") is None
    assert "rain" in str(scores.reason())
    assert scores.add("camera", "fog", "fog") == "fog"
    assert scores.add("camera", "fog", "base") == "fog"
    assert scores.accuracy() == 0.5
    assert scores.reason() is None
    assert (scores.no_truth, scores.unknown_domain) == (1, {"rain": 1})


def test_percentiles_are_exact_at_first_and_close_for_a_long_bag() -> None:
    latency = Latency()
    for value in range(1, 101):
        latency.add({"network": value, "total": 2 * value})
    assert latency.percentiles()["network"] == {"p50": 50.5, "p95": 95.05, "p99": 99.01}
    long = Latency()
    for value in range(3 * SAMPLE):
        long.add({"total": float(value)})
    found = long.percentiles()["total"]
    assert found["p50"] == pytest.approx(1.5 * SAMPLE, rel=0.03)
    assert found["p99"] == pytest.approx(2.97 * SAMPLE, rel=0.01)
    assert len(long._samples["total"]) == SAMPLE


def test_the_timeline_shows_which_expert_when_and_gaps_between() -> None:
    line = Timeline()
    for index in range(20):
        line.add(100 * SECOND + index * SECOND // 10, "day" if index < 10 else "night", "d" if index < 10 else None)
    line.add(150 * SECOND, "day", "d")
    spans = line.spans()
    assert [(span.experts, span.domain) for span in spans] == [
        ((("day", 1.0),), "d"),
        ((("night", 1.0),), None),
        ((("day", 1.0),), "d"),
    ]
    assert spans[0].end == spans[1].start
    assert spans[1].end < 103 * SECOND
    assert spans[2].start >= 149 * SECOND


@settings(max_examples=20, deadline=None)
@given(times=st.lists(st.integers(-(10**18), 4 * 10**18), min_size=1, max_size=300))
def test_a_timeline_of_any_times_stays_small_and_loses_no_frame(times: list[int]) -> None:
    line = Timeline()
    for time in times:
        line.add(time, "one", None)
    assert len(line._bins) <= MAX_BINS
    assert sum(sum(counts.values()) for counts in line._bins.values()) == len(times)
    spans = line.spans()
    assert all(span.start < span.end for span in spans)
    assert all(first.end <= second.start for first, second in pairwise(spans))


def test_flicker_between_experts_shows_as_shares() -> None:
    line = Timeline()
    for index in range(40_000):
        line.add(index * SECOND, "a" if index % 4 else "b", None)
    assert len(line._bins) <= MAX_BINS
    assert all(dict(span.experts)["a"] == pytest.approx(0.75, abs=0.05) for span in line.spans()[:-1])


@pytest.mark.parametrize("frames", [1, PER_STRIP, 15, 1000])
def test_a_strip_spreads_over_the_whole_bag_and_makes_few_pictures(frames: int) -> None:
    film = Film()
    made: list[int] = []

    def shoot(index: int) -> Any:
        made.append(index)
        return index

    for index in range(frames):
        film.offer("/a", "day", None, None, lambda index=index: shoot(index))
    (shots,) = film.strips().values()
    assert len(shots) == min(frames, PER_STRIP)
    assert shots == sorted(set(shots))
    assert shots[0] == 0
    assert shots[-1] >= 0.7 * (frames - 1)
    assert len(made) <= 2 * PER_STRIP + 7 * 7


def test_the_hardest_and_the_most_novel_frames_are_kept_worst_first() -> None:
    film = Film()
    values = np.random.default_rng(3).permutation(200) / 200
    for value in values:
        film.offer("/a", None, float(value), float(value), lambda value=value: value)
    assert film.hardest() == sorted(values)[:EXTREMES]
    assert film.most_novel() == sorted(values, reverse=True)[:EXTREMES]


def test_an_overlay_mixes_frame_and_class_colour_whatever_the_view() -> None:
    frame = np.full((6, 8, 3), 100, np.uint8)
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 4:] = 255
    colors = palette([(200, 0, 50)])
    for view in (frame, frame[..., ::-1], np.broadcast_to(frame[..., :1], frame.shape)):
        mixed = blend(view, mask, colors)
        np.testing.assert_allclose(mixed[0, 0].astype(int), [160, 40, 70], atol=1)
        np.testing.assert_allclose(mixed[0, 7].astype(int), [40, 40, 40], atol=1)
    small = thumbnails(np.zeros((3, 1000, 3), np.uint8), np.zeros((3, 1000), np.uint8), None, colors)
    assert small[0][:2] == small[1][:2] == b"\xff\xd8"
    assert small[2] is None


def test_outputs_lie_beside_their_input_and_never_on_one_topic() -> None:
    topics = ["/camera/image_raw/compressed", "/depth/image_rect", "/depth/image_rect_raw", "/image"]
    assert output_topics(topics) == {
        "/camera/image_raw/compressed": "/camera",
        "/depth/image_rect": "/depth/image_rect",
        "/depth/image_rect_raw": "/depth/image_rect_raw",
        "/image": "",
    }
    twins = output_topics(["/camera/image", "/camera/image/compressed"])
    assert len(set(twins.values())) == 2
