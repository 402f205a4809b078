"""Image messages as arrays: raw `sensor_msgs/Image` fields and compressed payloads, with no ROS needed."""

from __future__ import annotations

import io
import struct
from typing import NamedTuple, cast

import numpy as np
from PIL import Image

from mile_edge.errors import SensorError

MAX_PIXELS = 64 * 1024 * 1024
# A JPEG file holds no more pixels a side; Pillow refuses to write one that would.
JPEG_SIDE = 65500


class _Layout(NamedTuple):
    dtype: str
    channels: int
    # Order in which the stored channels give red, green, blue; None for a single channel.
    pick: slice | None


_LAYOUTS = {
    "rgb8": _Layout("u1", 3, slice(0, 3)),
    "bgr8": _Layout("u1", 3, slice(None, None, -1)),
    "rgba8": _Layout("u1", 4, slice(0, 3)),
    "bgra8": _Layout("u1", 4, slice(2, None, -1)),
    "mono8": _Layout("u1", 1, None),
    "8UC1": _Layout("u1", 1, None),
    "mono16": _Layout("u2", 1, None),
    "16UC1": _Layout("u2", 1, None),
    "32FC1": _Layout("f4", 1, None),
}
SUPPORTED_ENCODINGS = tuple(_LAYOUTS)

# sensor_msgs/CompressedImage of depth_image_transport: int32 format, float32 depthQuantA, float32 depthQuantB.
_COMPRESSED_DEPTH_HEADER = struct.Struct("<iff")


def decode_image(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: bytes | memoryview | np.ndarray
) -> np.ndarray:
    """View the bytes of a `sensor_msgs/Image` as an array, without a copy unless the byte order must change.

    Args:
        encoding: one of `SUPPORTED_ENCODINGS`.
        height: rows.
        width: pixels in a row.
        step: bytes from one row to the next; may exceed the pixels' bytes (padding), and the last row may lack the
            padding.
        is_bigendian: byte order of 16 and 32 bit pixels.
        data: the message's bytes.

    Returns:
        (H, W, 3) uint8 RGB for colour, (H, W) uint8 for mono8 and 8UC1, (H, W) uint16 for mono16 and 16UC1,
        (H, W) float32 for 32FC1. The array may be read-only and strided.

    Raises:
        SensorError: the encoding is not supported, or the sizes do not fit the data.
    """
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise SensorError(_unsupported(encoding))
    dtype = np.dtype(layout.dtype).newbyteorder(">" if is_bigendian else "<")
    row = width * layout.channels * dtype.itemsize
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise SensorError(
            f"An image of {width} x {height} pixels cannot be read; its sides must be positive and hold at most "
            f"{MAX_PIXELS} pixels together."
        )
    if step < row:
        raise SensorError(
            f"An image row of {width} {encoding} pixels takes {row} bytes, but step says {step}; correct step in the "
            "driver."
        )
    buffer = _octets(data)
    needed = step * (height - 1) + row
    if len(buffer) < needed:
        raise SensorError(
            f"A {width} x {height} {encoding} image with step {step} needs {needed} bytes, but the message holds "
            f"{len(buffer)}; the message is cut short or its sizes are wrong."
        )
    pixel = layout.channels * dtype.itemsize
    if layout.pick is not None:
        view = np.ndarray((height, width, layout.channels), dtype, buffer, 0, (step, pixel, 1))
        return view[:, :, layout.pick]
    plane = np.ndarray((height, width), dtype, buffer, 0, (step, pixel))
    return plane if dtype.isnative else plane.astype(dtype.newbyteorder("="))


def decode_compressed(
    format: str,  # noqa: A002 - the field's name in ROS
    data: bytes | memoryview | np.ndarray,
) -> np.ndarray:
    """Decode a `sensor_msgs/CompressedImage`: jpeg, png (8 or 16 bit) or a `compressedDepth` png.

    Args:
        format: the message's format, for example "jpeg", "bgr8; jpeg compressed bgr8" or
            "16UC1; compressedDepth png". Which of jpeg and png it is, is read from the data itself.
        data: the message's bytes.

    Returns:
        (H, W, 3) uint8 RGB, (H, W) uint8, (H, W) uint16, or (H, W) float32 metres for a compressed 32FC1 depth.

    Raises:
        SensorError: the data is neither jpeg nor png, is damaged, or is too large.
    """
    buffer = _octets(data)
    if "compressedDepth" not in format:
        return _decode_picture(format, buffer)
    if "rvl" in format.lower():
        raise SensorError(
            f"The compressed depth format '{format}' is not supported; republish it as 16UC1 or with "
            "compressedDepth.format set to png."
        )
    if len(buffer) <= _COMPRESSED_DEPTH_HEADER.size:
        raise SensorError(f"A '{format}' message of {len(buffer)} bytes holds no image; the message is cut short.")
    _, quant_a, quant_b = _COMPRESSED_DEPTH_HEADER.unpack_from(buffer)
    counts = _decode_picture(format, buffer[_COMPRESSED_DEPTH_HEADER.size :])
    if not format.lstrip().startswith("32FC1"):
        return counts
    # The quantiser stores a / depth + b and keeps 0 for "no depth".
    metres = counts.astype(np.float32)
    # In place: the largest image would otherwise take a gigabyte on the way.
    metres -= np.float32(quant_b)
    with np.errstate(all="ignore"):
        np.divide(np.float32(quant_a), metres, out=metres)
    metres[counts == 0] = np.nan
    return metres


def _octets(data: bytes | memoryview | np.ndarray) -> memoryview:
    # Before Python 3.12 the type stubs do not know that an array is a buffer.
    return memoryview(cast("bytes", data)).cast("B")


def _decode_picture(described: str, buffer: memoryview) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(buffer), formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise SensorError(
                    f"A compressed image of {width} x {height} pixels is too large; the limit is {MAX_PIXELS} pixels."
                )
            return _to_array(picture)
    except SensorError:
        raise
    except Exception as problem:  # Pillow raises a dozen kinds for damaged data
        raise SensorError(
            f"A compressed image of format '{described}' ({len(buffer)} bytes) cannot be decoded ({_brief(problem)}); "
            "only intact jpeg and png are read."
        ) from None


def _to_array(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("L", "RGB"):
        return np.asarray(picture)
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # Older Pillow opens 16-bit png as 32-bit integers.
        return np.asarray(picture).astype(np.uint16)
    return np.asarray(picture.convert("L" if picture.mode in ("1", "LA", "La") else "RGB"))


def _unsupported(encoding: str) -> str:
    known = ", ".join(SUPPORTED_ENCODINGS)
    if encoding.startswith("bayer_"):
        return (
            f"Bayer encoding '{encoding}' is not supported; debayer it first (image_proc does) or use one of {known}."
        )
    if encoding.startswith(("yuv", "uyvy", "yuyv", "nv12", "nv21", "nv24")):
        return f"YUV encoding '{encoding}' is not supported; convert it to rgb8 in the driver, or use one of {known}."
    return f"Image encoding '{encoding}' is not supported; use one of {known}."


def _brief(problem: Exception) -> str:
    text = str(problem).split("\n", 1)[0]
    # Pillow names the in-memory file by its address, which means nothing to a reader.
    return text.split(" <_io", 1)[0] or type(problem).__name__
