"""Every image meets its own label, whichever comes first, without waiting for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mile_edge.data.pairing import MAX_WAITING_BYTES, TOLERANCE_NS, WAIT_NS, Label, Pairing, Waiting

STEP = 100_000_000
LAG = 5


def image(index: int, size: int = 1, shift: int = 0) -> Waiting:
    return Waiting(index * STEP + shift, index * STEP, index, None, size)


def label(index: int, shift: int = 0) -> Label:
    return Label(index * STEP + shift, index * STEP, index)


def pair(events: list[tuple[int, Waiting | Label]]) -> list[tuple[int, int | None]]:
    """Feed (time, image or label) in order; (image, its label) in the order in which they come out."""
    pairing = Pairing()
    done: list[Waiting] = []
    for now, event in events:
        if isinstance(event, Label):
            pairing.add_label(event)
        else:
            pairing.add_image(event)
        done += pairing.ready(now)
    done += pairing.rest()
    return [(each.value, each.label.value if each.label else None) for each in done]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    delays=st.lists(st.integers(-LAG, LAG), min_size=40, max_size=40),
    absent=st.sets(st.integers(0, 39)),
    shift=st.integers(-TOLERANCE_NS, TOLERANCE_NS),
)
def test_labels_early_or_late_find_their_images_and_images_keep_their_order(
    count: int, delays: list[int], absent: set[int], shift: int
) -> None:
    events: list[tuple[int, Waiting | Label]] = [(index * STEP, image(index)) for index in range(count)]
    events += [
        ((index + delays[index]) * STEP, Label(index * STEP + shift, (index + delays[index]) * STEP, index))
        for index in range(count)
        if index not in absent
    ]
    events.sort(key=lambda event: event[0])
    assert pair(events) == [(index, None if index in absent else index) for index in range(count)]


def test_a_label_beyond_the_tolerance_is_not_taken() -> None:
    assert pair([(0, image(0)), (1, label(0, TOLERANCE_NS + 1))]) == [(0, None)]
    assert pair([(0, image(0)), (1, label(0, TOLERANCE_NS))]) == [(0, 0)]


def test_the_exact_stamp_wins_over_a_nearer_arrival() -> None:
    near, exact = Label(STEP + 5, STEP, "near"), Label(STEP, STEP, "exact")
    assert pair([(STEP, near), (STEP, exact), (STEP, image(1))]) == [(1, "exact")]


def test_an_image_stops_waiting_after_a_while_and_memory_is_bounded() -> None:
    pairing = Pairing()
    pairing.add_image(image(0))
    assert not list(pairing.ready(WAIT_NS))
    assert [each.value for each in pairing.ready(WAIT_NS + 1)] == [0]
    for index in range(5):
        pairing.add_image(image(index, MAX_WAITING_BYTES // 2))
    assert [each.value for each in pairing.ready(5)] == [0, 1, 2]
    for index in range(10_000):
        pairing.add_label(label(index))
        list(pairing.ready(index))
    assert len(pairing._labels) <= 300


@pytest.mark.parametrize("seed", range(3))
def test_two_topics_may_share_one_label(seed: int) -> None:
    first, second = Pairing(), Pairing()
    shared = label(seed)
    for pairing in (first, second):
        pairing.add_label(shared)
        pairing.add_image(image(seed))
    got = [next(pairing.ready(seed * STEP)).label for pairing in (first, second)]
    assert got == [shared, shared]
    assert np.all([each is shared for each in got])
