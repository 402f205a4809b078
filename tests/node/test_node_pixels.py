"""Arrays become messages without a detour, and class ids become colours."""

from __future__ import annotations

import array
from types import SimpleNamespace

import numpy as np
import pytest
from mile_edge_node.pixels import colour_table, fill_image, overlay, scale_camera_info

from mile_edge.bundle import ClassLabel
from mile_edge.data.encodings import decode_image

CLASSES = (ClassLabel("road", (128, 64, 128)), ClassLabel("sky", (70, 130, 180)))


@pytest.mark.parametrize(
    ("shape", "dtype", "encoding"),
    [((4, 6), np.uint8, "mono8"), ((4, 6, 3), np.uint8, "rgb8"), ((4, 6), np.uint16, "mono16")],
)
def test_an_array_comes_back_from_its_message_unchanged_with_the_header_untouched(
    shape: tuple[int, ...], dtype: type, encoding: str
) -> None:
    pixels, header = np.random.default_rng(2).integers(0, 255, shape).astype(dtype), object()
    message = fill_image(SimpleNamespace(), pixels[:, ::-1], encoding, header)
    assert message.header is header
    assert isinstance(message.data, array.array)
    assert len(message.data) == message.step * message.height
    back = decode_image(
        message.encoding, message.height, message.width, message.step, message.is_bigendian, memoryview(message.data)
    )
    np.testing.assert_array_equal(back, pixels[:, ::-1])


def test_a_mask_has_no_padding_because_navs_layer_indexes_it_by_width() -> None:
    message = fill_image(SimpleNamespace(), np.zeros((3, 5), np.uint8)[:, :5], "mono8", None)
    assert message.step == message.width == 5


def test_the_overlay_blends_known_classes_and_leaves_unlabelled_pixels_alone() -> None:
    frame = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[0, 1, 255]], np.uint8)
    table, known = colour_table(CLASSES)
    shown = overlay(frame, mask, table, known, 0.5)
    np.testing.assert_allclose(shown[0, 0], [114, 82, 114], atol=1)
    np.testing.assert_allclose(shown[0, 1], [85, 115, 140], atol=1)
    np.testing.assert_array_equal(shown[0, 2], frame[0, 2])
    np.testing.assert_array_equal(overlay(frame, mask, table, known, 0.0), frame)
    np.testing.assert_array_equal(overlay(frame, mask, table, known, 1.0)[0, 0], CLASSES[0].color)


def calibration() -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=10, y_offset=20, width=100, height=200)
    k = np.array([400.0, 0, 320, 0, 410, 240, 0, 0, 1])
    p = np.array([400.0, 0, 320, -40, 0, 410, 240, 0, 0, 0, 1, 0])
    return SimpleNamespace(width=640, height=480, k=k, p=p, d=[0.1, 0.2], roi=roi)


def test_camera_info_describes_the_mask_when_it_has_another_size() -> None:
    info = calibration()
    scale_camera_info(info, 240, 320)
    assert (info.width, info.height) == (320, 240)
    np.testing.assert_allclose(info.k, [200, 0, 160, 0, 205, 120, 0, 0, 1])
    np.testing.assert_allclose(info.p, [200, 0, 160, -20, 0, 205, 120, 0, 0, 0, 1, 0])
    assert (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height) == (5, 10, 50, 100)
    assert info.d == [0.1, 0.2]


def test_camera_info_of_the_masks_size_stays_as_it_is() -> None:
    info = calibration()
    scale_camera_info(info, 480, 640)
    np.testing.assert_array_equal(info.k, calibration().k)
    empty = SimpleNamespace(width=0, height=0, k=[], p=[], roi=None)
    scale_camera_info(empty, 480, 640)
    assert empty.width == 0, "an uncalibrated driver's message is handed on as it came"
