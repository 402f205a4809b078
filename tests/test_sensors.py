"""A sensor profile maps every image of its kind to three 8-bit channels, the same way in every frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mile_edge.data.sensors import DEFAULT_PROFILES, KINDS, SensorProfile, load_profile
from mile_edge.errors import SensorError

CALIBRATION = Path(__file__).parents[1] / "calib" / "sensors"
CAMERA, DEPTH, THERMAL = (DEFAULT_PROFILES[kind] for kind in ("camera", "depth", "thermal"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_yaml_copies_equal_the_built_in_profiles(kind: str) -> None:
    assert load_profile(CALIBRATION / f"{kind}.yaml") == DEFAULT_PROFILES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_survives_its_dictionary_form(kind: str) -> None:
    profile = DEFAULT_PROFILES[kind]
    assert SensorProfile.from_dict(profile.to_dict()) == profile


def test_missing_numbers_are_filled_from_the_built_in_profile() -> None:
    assert SensorProfile.from_dict({"kind": "depth", "scale": 1 / 256}).maximum == DEPTH.maximum


def test_a_camera_passes_colour_untouched_and_repeats_grey() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    assert CAMERA.to_frame(colour) is colour
    grey = CAMERA.to_frame(colour[..., 0])
    assert grey.shape == (5, 7, 3)
    np.testing.assert_array_equal(grey, np.stack([colour[..., 0]] * 3, axis=-1))


def test_a_camera_of_other_colours_is_brightened_and_moved_from_grey() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    brighter = SensorProfile("camera", gamma=0.5).to_frame(colour)
    np.testing.assert_array_equal(brighter, np.rint(255 * (colour / 255) ** 0.5).astype(np.uint8))
    grey = SensorProfile("camera", saturation=0.0).to_frame(colour)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()
    vivid = SensorProfile("camera", saturation=1.5).to_frame(colour)
    assert np.ptp(vivid.astype(int), axis=2).mean() > 1.2 * np.ptp(colour.astype(int), axis=2).mean()
    both = SensorProfile.from_dict({"kind": "camera", "gamma": 0.85, "saturation": 1.2})
    assert SensorProfile.from_dict(both.to_dict()) == both
    # What no number changes needs none: manifests of such cameras stay as they were.
    assert CAMERA.to_dict() == {"kind": "camera"}
    one_channel = np.ascontiguousarray(colour[..., 0])
    np.testing.assert_array_equal(SensorProfile("camera", gamma=0.5).to_frame(one_channel)[..., 2], brighter[..., 0])


def test_millimetres_and_metres_of_one_scene_give_one_frame() -> None:
    counts = np.random.default_rng(0).integers(0, 65535, (60, 80)).astype(np.uint16)
    metres = (counts / 1000).astype(np.float32)
    np.testing.assert_array_equal(DEPTH.to_frame(counts), DEPTH.to_frame(metres))


def test_invalid_depth_is_black_and_valid_depth_never_is() -> None:
    metres = np.array([[np.nan, np.inf, -np.inf, 0.0, -1.0, 0.29, 80.01, 0.3, 1.0, 79.9, 80.0]], np.float32)
    frame = DEPTH.to_frame(metres)
    assert (frame[0, :7] == 0).all()
    assert (frame[0, 7:] > 0).all()
    counts = np.array([[0, 299, 300, 65535]], np.uint16)
    np.testing.assert_array_equal((DEPTH.to_frame(counts) > 0).all(axis=2), [[False, False, True, True]])


def test_near_is_bright_in_the_first_channel_and_dark_in_the_others() -> None:
    frame = DEPTH.to_frame(np.array([[0.3, 2.0, 10.0, 80.0]], np.float32))[0].astype(int)
    assert frame[0].tolist() == [255, 1, 1]
    assert frame[-1].tolist() == [1, 255, 255]
    assert (np.diff(frame[:, 0]) < 0).all()
    assert (np.diff(frame[:, 1]) > 0).all()


@settings(max_examples=30, deadline=None)
@given(
    minimum=st.floats(0.01, 5),
    span=st.floats(0.1, 300),
    scale=st.sampled_from([0.001, 1 / 256, 0.01]),
    seed=st.integers(0, 9),
)
def test_any_depth_range_keeps_channels_in_range_and_order(
    minimum: float, span: float, scale: float, seed: int
) -> None:
    profile = SensorProfile("depth", scale=scale, minimum=minimum, maximum=minimum + span)
    metres = np.sort(np.random.default_rng(seed).uniform(0, minimum + 2 * span, (1, 40)).astype(np.float32))
    frame = profile.to_frame(metres)[0].astype(int)
    inside = (metres[0] > minimum + scale) & (metres[0] < minimum + span - scale)
    outside = (metres[0] < minimum - scale) | (metres[0] > minimum + span + scale)
    assert (frame[inside] >= 1).all()
    assert (frame[outside] == 0).all()
    assert (np.diff(frame[inside][:, 0]) <= 0).all()
    assert (np.diff(frame[inside][:, 2]) >= 0).all()


def test_an_offset_belongs_to_counts_and_not_to_metres() -> None:
    shifted = SensorProfile("depth", scale=0.001, offset=1.0, minimum=0.3, maximum=80.0)
    counts = np.array([[1000, 4000]], np.uint16)
    np.testing.assert_array_equal(shifted.to_frame(counts), DEPTH.to_frame(np.array([[2.0, 5.0]], np.float32)))
    metres = np.array([[0.4, 2.0]], np.float32)
    np.testing.assert_array_equal(shifted.to_frame(metres), DEPTH.to_frame(metres))


def test_thermal_counts_map_by_temperature_and_never_by_the_frame() -> None:
    kelvin = np.array([[200, 253, 293, 333, 400]])
    frame = THERMAL.to_frame((kelvin * 100).astype(np.uint16))[0]
    assert frame[:, 0].tolist() == [0, 0, 128, 255, 255]
    assert (frame == frame[:, :1]).all()
    alone = THERMAL.to_frame(np.array([[29300]], np.uint16))[0, 0]
    assert alone.tolist() == [128, 128, 128]


def test_eight_bit_thermal_is_taken_as_it_is() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(THERMAL.to_frame(grey)[..., 1], grey)


@pytest.mark.parametrize(
    ("profile", "image", "words"),
    [
        (CAMERA, np.zeros((4, 4), np.uint16), "takes rgb8"),
        (DEPTH, np.zeros((4, 4), np.uint8), "takes 16UC1"),
        (THERMAL, np.zeros((4, 4, 3), np.uint8), "takes mono16"),
        (THERMAL, np.zeros((4, 4), np.float32), "thermal cannot give 32FC1"),
    ],
)
def test_an_image_that_the_sensor_cannot_have_is_refused(profile: SensorProfile, image: np.ndarray, words: str) -> None:
    with pytest.raises(SensorError, match=words):
        profile.to_frame(image, "32FC1" if image.dtype == np.float32 else None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "radar"}, "'radar' is not known"),
        ({"kind": ["depth"]}, "is not known"),
        ({}, "must be a mapping"),
        (None, "must be a mapping"),
        ({"kind": "depth", "near": 1}, "unknown key 'near'"),
        ({"kind": "camera", "scale": 1}, "unknown key 'scale'"),
        ({"kind": "camera", "gamma": 0}, "give one of 0.1 to 10"),
        ({"kind": "camera", "saturation": 40}, "give one of 0 to 4"),
        ({"kind": "camera", "saturation": "much"}, "finite number"),
        ({"kind": "depth", "scale": 0}, "scale is 0"),
        ({"kind": "depth", "scale": "fine"}, "finite number"),
        ({"kind": "depth", "scale": float("nan")}, "finite number"),
        ({"kind": "depth", "scale": 1e-9}, "too fine"),
        ({"kind": "depth", "minimum": 0}, "must start at"),
        ({"kind": "thermal", "minimum": 300, "maximum": 300}, "end above its start"),
    ],
)
def test_a_profile_that_cannot_work_is_refused_in_one_sentence(values: Any, words: str) -> None:
    with pytest.raises(SensorError, match=words) as caught:
        SensorProfile.from_dict(values)
    assert "\n" not in str(caught.value)


def test_a_broken_profile_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: [depth\n")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("kind: depth\nscale: -1\n")
    for path in (broken, wrong, tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(SensorError, match=path.name):
            load_profile(path)
