"""Every number of an expert lies in exactly one place of its row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundle_makers import BASE_SHA, LAYERS, LAYOUT, make_base, make_expert
from hypothesis import given, settings
from hypothesis import strategies as st

from mile_edge.bundle import UNUSED_BIAS, ClassLabel, Expert, LowRankLayer, LowRankLayout
from mile_edge.errors import ExpertError

SIZES = st.integers(1, 7)


@st.composite
def layouts(draw: st.DrawFn) -> LowRankLayout:
    names = draw(st.lists(st.text("abc.0123", min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
    layers = tuple(LowRankLayer(name, draw(SIZES), draw(SIZES)) for name in names)
    return LowRankLayout(draw(SIZES), layers, draw(SIZES), draw(st.integers(1, 9)))


def expert_for(layout: LowRankLayout, classes: int, seed: int) -> Expert:
    random = np.random.default_rng(seed)
    return Expert(
        name="any",
        base_sha256=BASE_SHA,
        rank=layout.rank,
        adapter="low_rank",
        low_rank={
            layer.name: (
                random.normal(size=(layout.rank, layer.in_features)).astype(np.float32),
                random.normal(size=(layer.out_features, layout.rank)).astype(np.float32),
            )
            for layer in layout.layers
        },
        classifier_weight=random.normal(size=(classes, layout.hidden)).astype(np.float32),
        classifier_bias=random.normal(size=classes).astype(np.float32),
        classes=tuple(ClassLabel(f"c{index}", (index, 0, 0)) for index in range(classes)),
        mean=np.zeros(2, np.float32),
        scatter=np.eye(2, dtype=np.float32),
        count=2,
    )


@given(layouts(), st.data())
@settings(max_examples=150, deadline=None)
def test_an_expert_survives_its_row(layout: LowRankLayout, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, layout.max_classes - 1), min_size=1, unique=True))
    expert = expert_for(layout, len(ids), data.draw(st.integers(0, 2**32)))
    row = layout.pack(expert, ids)
    assert row.shape == (layout.row_length,)
    assert row.dtype == np.float32
    unpacked = layout.unpack(row)
    order = np.argsort(ids)
    assert unpacked.class_ids == tuple(sorted(ids))
    np.testing.assert_array_equal(unpacked.classifier_weight, expert.classifier_weight[order])
    np.testing.assert_array_equal(unpacked.classifier_bias, expert.classifier_bias[order])
    for name, (a, b) in expert.low_rank.items():
        np.testing.assert_array_equal(unpacked.low_rank[name][0], a)
        np.testing.assert_array_equal(unpacked.low_rank[name][1], b)


@given(layouts())
@settings(max_examples=50, deadline=None)
def test_a_layer_lies_where_its_offset_says(layout: LowRankLayout) -> None:
    expert = expert_for(layout, 1, 0)
    row = layout.pack(expert, [0])
    for layer in layout.layers:
        a, b = expert.low_rank[layer.name]
        start = layout.offset(layer.name)
        both = np.concatenate([a.ravel(), b.ravel()])
        np.testing.assert_array_equal(row[start : start + both.size], both)


def test_the_order_in_the_row_is_layers_then_weight_then_bias() -> None:
    assert LAYOUT.offset("block.0.query") == 0
    assert LAYOUT.offset("block.0.value") == 2 * (6 + 4)
    assert LAYOUT.classifier_offset == 2 * (6 + 4) + 2 * (6 + 3)
    assert LAYOUT.bias_offset == LAYOUT.classifier_offset + 6 * 5
    assert LAYOUT.row_length == LAYOUT.bias_offset + 6


def test_classes_the_expert_lacks_can_never_win() -> None:
    row = LAYOUT.pack(make_expert(), [4, 1])
    bias = row[LAYOUT.bias_offset :]
    weight = row[LAYOUT.classifier_offset : LAYOUT.bias_offset].reshape(6, 5)
    for unused in (0, 2, 3, 5):
        assert bias[unused] == UNUSED_BIAS
        assert not weight[unused].any()
    assert np.isfinite(np.float16(UNUSED_BIAS))


def test_the_base_has_zeros_where_adapters_lie() -> None:
    row = LAYOUT.pack(make_base(), [0, 1])
    assert not row[: LAYOUT.classifier_offset].any()
    assert row[LAYOUT.classifier_offset :].any()


@pytest.mark.parametrize("ids", [[0], [0, 0], [0, 6], [-1, 0], [0, 1, 2]])
def test_class_ids_that_do_not_fit_are_refused(ids: list[int]) -> None:
    with pytest.raises(ExpertError):
        LAYOUT.pack(make_expert(), ids)


def test_a_shape_that_would_broadcast_is_refused() -> None:
    expert = make_expert()
    a, b = expert.low_rank[LAYERS[0].name]
    thin = replace(expert, low_rank={**expert.low_rank, LAYERS[0].name: (a[:1], b)})
    with pytest.raises(ExpertError, match="does not fit"):
        LAYOUT.pack(thin, [0, 1])


def test_an_unknown_layer_and_a_row_of_another_length_are_refused() -> None:
    with pytest.raises(ExpertError, match=r"block\.7"):
        LAYOUT.offset("block.7")
    with pytest.raises(ExpertError):
        LAYOUT.unpack(np.zeros(LAYOUT.row_length + 1, np.float32))
