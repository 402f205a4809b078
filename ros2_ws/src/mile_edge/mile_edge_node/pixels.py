"""Between arrays and image messages, and from class ids to colours. Messages are only touched through their fields."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as Picture

from mile_edge.bundle import ClassLabel


def fill_image(message: Any, pixels: np.ndarray, encoding: str, header: Any) -> Any:
    """Put an array into a `sensor_msgs/Image` and return it; the header is handed on untouched.

    Args:
        message: an empty message.
        pixels: (H, W) or (H, W, C) uint8 or uint16.
        encoding: what they are, for example mono8.
        header: `std_msgs/Header` of the frame that they belong to.
    """
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    message.header = header
    message.height, message.width = pixels.shape[:2]
    message.encoding = encoding
    message.is_bigendian = int(not np.little_endian)
    message.step = pixels.strides[0]
    data = array.array("B")
    # An array of type B is taken as it is; bytes or a list would be checked element by element, for seconds.
    data.frombytes(memoryview(pixels).cast("B"))
    message.data = data
    return message


def colour_table(classes: Sequence[ClassLabel]) -> tuple[np.ndarray, np.ndarray]:
    """Colours and opacity of every class id: (256, 3) uint8, and (256,) bool that is False for ids without a class."""
    table, known = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    for index, label in enumerate(classes):
        table[index], known[index] = label.color, True
    return table, known


def overlay(frame: np.ndarray, mask: np.ndarray, table: np.ndarray, known: np.ndarray, opacity: float) -> np.ndarray:
    """Lay the classes' colours over a frame; pixels without a class stay as they are.

    Args:
        frame: (H, W, 3) uint8.
        mask: (H, W) uint8.
        table: (256, 3) uint8.
        known: (256,) bool.
        opacity: 0 for the frame alone to 1 for the colours alone.

    Returns:
        (H, W, 3) uint8.
    """
    colours = table.take(mask, axis=0)
    blended = np.array(
        Picture.blend(Picture.fromarray(np.ascontiguousarray(frame)), Picture.fromarray(colours), opacity)
    )
    bare = ~known.take(mask)
    if bare.any():
        blended[bare] = frame[bare]
    return blended


def scale_camera_info(info: Any, height: int, width: int) -> None:
    """Make a `sensor_msgs/CameraInfo` describe an image of another size, in place.

    Focal lengths and principal point scale with the image, as image_proc's resize has it; the distortion stays.
    """
    if info.width in (0, width) and info.height in (0, height):
        return
    x, y = width / info.width, height / info.height
    for matrix, columns in ((info.k, 3), (info.p, 4)):
        for index in range(columns):
            matrix[index] *= x
            matrix[columns + index] *= y
    roi = info.roi
    roi.x_offset, roi.width = round(roi.x_offset * x), round(roi.width * x)
    roi.y_offset, roi.height = round(roi.y_offset * y), round(roi.height * y)
    info.width, info.height = width, height
