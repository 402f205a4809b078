"""Ranges and rounding: what a step is taken from, before any graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("onnx", reason="int8 calibration needs onnx")

from mile_edge.errors import DataError, RecipeError
from mile_edge.quantization.ranges import AbsoluteHistogram, collect, threshold
from mile_edge.quantization.recipe import Int8Recipe
from mile_edge.quantization.rewrite import quantized_weights


def counted(*tensors: np.ndarray) -> AbsoluteHistogram:
    histogram = AbsoluteHistogram()
    for tensor in tensors:
        histogram.add(tensor)
    return histogram


@given(
    arrays.arrays(np.float32, (5, 7), elements=st.floats(-8, 8, width=32)),
    st.integers(0, 1),
    st.sampled_from([np.float32, np.float16]),
)
@settings(max_examples=50, deadline=None)
def test_weights_come_back_within_half_a_step_of_their_own_channel(weights: np.ndarray, axis: int, dtype: type) -> None:
    values, steps = quantized_weights(weights, axis, dtype)
    assert values.dtype == np.int8 and steps.dtype == dtype and steps.shape == (weights.shape[axis],)
    wide = steps.astype(np.float64).reshape([-1, 1] if axis == 0 else [1, -1])
    # A step rounded to fp16 may leave the largest weight up to a 2048th beyond 127 steps.
    slack = 0.5 + (127 / 2048 if dtype is np.float16 else 1e-3)
    assert (np.abs(values * wide - weights) <= slack * wide).all()
    assert np.abs(values.astype(int)).max(initial=0) <= 127


def test_a_histogram_does_not_depend_on_the_order_in_which_the_range_grew() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    loud = np.array([37.0], np.float32)
    first, last = counted(loud, values), counted(values, loud)
    assert first.largest == last.largest == 37.0
    assert first.counts.sum() == last.counts.sum() == 5001
    for share in (50, 99, 99.9):
        exact = float(np.percentile(np.abs(np.append(values, loud)), share))
        assert first.percentile(share) == pytest.approx(exact, abs=0.05)
        assert last.percentile(share) == pytest.approx(exact, abs=0.05)


def test_minmax_keeps_everything_and_the_others_cut_what_is_rare() -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    histogram = counted(np.append(values, np.float32(60)))
    assert threshold(histogram, "minmax", 99.9) == 60.0
    assert threshold(histogram, "percentile", 100.0) == 60.0
    assert threshold(histogram, "percentile", 99.9) == pytest.approx(3.29, abs=0.1)
    assert 2.5 < threshold(histogram, "entropy", 99.9) < 12


def test_an_activation_that_is_always_zero_has_no_range() -> None:
    histogram = counted(np.zeros(10, np.float32))
    assert [threshold(histogram, method, 99.0) for method in ("minmax", "percentile", "entropy")] == [0.0] * 3


def test_half_precision_activations_are_counted_like_full_ones() -> None:
    values = np.array([0.5, -2.0, 1.0], np.float16)
    assert counted(values).percentile(100) == 2.0


def test_activations_that_overflow_are_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        collect(lambda frame: [frame], ("x",), [np.array([1.0, np.inf], np.float32)])


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"ranges": "kl"}, "ranges is 'kl'; give one of percentile, entropy, minmax"),
        ({"percentile": 20}, "percentile is 20"),
        ({"max_drop": -0.5}, "max_drop is -0.5; give 0 to 100 points"),
        ({"max_drop": float("nan")}, "max_drop is nan"),
        ({"limit": 3}, "limit is 3; give 8 to 100000"),
        ({"exclude": ("(",)}, "'(', no regular expression"),
    ],
)
def test_settings_that_cannot_work_are_named_with_what_would(settings_: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        Int8Recipe(**settings_)
    assert words in str(refusal.value)
