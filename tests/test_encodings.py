"""Every supported encoding decodes to the pixels that were stored, whatever the padding and the byte order."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mile_edge.data.encodings import SUPPORTED_ENCODINGS, decode_compressed, decode_image
from mile_edge.errors import SensorError

SHARED = Path(os.environ.get("MILE_EDGE_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
LAYOUT = {
    "rgb8": ("u1", [0, 1, 2], 3),
    "bgr8": ("u1", [2, 1, 0], 3),
    "rgba8": ("u1", [0, 1, 2], 4),
    "bgra8": ("u1", [2, 1, 0], 4),
    "mono8": ("u1", None, 1),
    "8UC1": ("u1", None, 1),
    "mono16": ("u2", None, 1),
    "16UC1": ("u2", None, 1),
    "32FC1": ("f4", None, 1),
}


def stored(encoding: str, pixels: np.ndarray, padding: int, big: bool) -> tuple[bytes, int]:
    """Serialise decoded pixels the way a driver would: (bytes, step)."""
    kind, order, channels = LAYOUT[encoding]
    if order is None:
        rows = pixels.astype(np.dtype(kind).newbyteorder(">" if big else "<"))
    else:
        rows = np.full((*pixels.shape[:2], channels), 77, np.uint8)
        rows[:, :, order] = pixels
    lines = [row.tobytes() + b"\xaa" * padding for row in rows]
    return b"".join(lines), len(lines[0])


def test_the_table_of_this_test_covers_every_supported_encoding() -> None:
    assert set(LAYOUT) == set(SUPPORTED_ENCODINGS)


@settings(max_examples=60, deadline=None)
@given(
    encoding=st.sampled_from(SUPPORTED_ENCODINGS),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 7),
    big=st.booleans(),
    last_row_padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_encoding_padding_and_byte_order_gives_the_stored_pixels(
    encoding: str, height: int, width: int, padding: int, big: bool, last_row_padded: bool, seed: int
) -> None:
    kind, order, _ = LAYOUT[encoding]
    shape = (height, width) if order is None else (height, width, 3)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255 if kind == "u1" else 65535, shape, endpoint=True).astype(kind)
    data, step = stored(encoding, pixels, padding, big)
    if not last_row_padded and padding:
        data = data[:-padding]
    decoded = decode_image(encoding, height, width, step, big, data)
    assert decoded.dtype == np.dtype(kind)
    assert decoded.dtype.isnative
    np.testing.assert_array_equal(decoded, pixels)


def test_native_pixels_are_viewed_and_not_copied() -> None:
    data = np.zeros(4 * 20, np.uint8)
    for encoding, width in (("rgb8", 5), ("bgr8", 5), ("mono8", 20), ("16UC1", 10), ("32FC1", 5)):
        view = decode_image(encoding, 4, width, 20, False, data)
        assert np.shares_memory(view, data), encoding


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("bayer_rggb8", "debayer"),
        ("yuv422_yuy2", "convert it to rgb8"),
        ("64FC3", "'64FC3' is not supported"),
        ("", "use one of"),
    ],
)
def test_an_unknown_encoding_is_named_with_what_to_do(encoding: str, words: str) -> None:
    with pytest.raises(SensorError, match=words):
        decode_image(encoding, 2, 2, 8, False, bytes(64))


@pytest.mark.parametrize(
    ("height", "width", "step", "size", "words"),
    [
        (2, 4, 12, 23, "needs 24 bytes"),
        (2, 4, 11, 24, "step says 11"),
        (0, 4, 12, 24, "must be positive"),
        (2, -4, 12, 24, "must be positive"),
        (2**31, 2**31, 2**33, 24, "pixels"),
    ],
)
def test_sizes_that_do_not_fit_the_data_are_refused(height: int, width: int, step: int, size: int, words: str) -> None:
    with pytest.raises(SensorError, match=words):
        decode_image("rgb8", height, width, step, False, bytes(size))


def packed(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()


def test_png_keeps_every_pixel_and_jpeg_nearly() -> None:
    ramp = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    np.testing.assert_array_equal(decode_compressed("png", packed(ramp, "PNG")), ramp)
    np.testing.assert_array_equal(
        decode_compressed("mono8; png compressed ", packed(ramp[..., 0], "PNG")), ramp[..., 0]
    )
    jpeg = decode_compressed("bgr8; jpeg compressed bgr8", packed(ramp, "JPEG", quality=95))
    assert np.abs(jpeg.astype(int) - ramp).max() < 16


def test_sixteen_bit_png_keeps_its_counts_plain_and_as_compressed_depth() -> None:
    counts = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 300
    png = packed(counts, "PNG")
    for described, data in (("16UC1; png compressed ", png), ("16UC1; compressedDepth png", bytes(12) + png)):
        decoded = decode_compressed(described, data)
        assert decoded.dtype == np.uint16
        np.testing.assert_array_equal(decoded, counts)


def test_quantised_float_depth_comes_back_in_metres_with_nan_for_none() -> None:
    metres = np.linspace(0.5, 9.5, 12 * 16).astype(np.float32).reshape(12, 16)
    a, b = 100.0 * 101.0, 1.0 - 101.0 * 100.0 / 10.0
    counts = np.rint(a / metres + b).astype(np.uint16)
    counts[0, 0] = 0
    data = struct.pack("<iff", 0, a, b) + packed(counts, "PNG")
    decoded = decode_compressed("32FC1; compressedDepth png", data)
    assert decoded.dtype == np.float32
    assert np.isnan(decoded[0, 0])
    np.testing.assert_allclose(decoded.ravel()[1:], metres.ravel()[1:], rtol=0.01)


def test_palette_and_alpha_pictures_become_plain_colour() -> None:
    colour = np.zeros((8, 8, 4), np.uint8)
    colour[..., 0], colour[..., 3] = 200, 255
    assert decode_compressed("png", packed(colour, "PNG")).shape == (8, 8, 3)
    sink = io.BytesIO()
    Image.fromarray(colour[..., :3]).convert("P").save(sink, "PNG")
    assert decode_compressed("png", sink.getvalue()).shape == (8, 8, 3)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 399), st.integers(1, 255)), max_size=4))
def test_a_damaged_picture_is_an_image_or_a_sensor_error_and_nothing_else(
    cut: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(packed(np.random.default_rng(1).integers(0, 255, (9, 9, 3)).astype(np.uint8), "PNG"))
    for place, mask in flips:
        data[place % len(data)] ^= mask
    told = ""
    try:
        decode_compressed("png", bytes(data[: len(data) - cut % len(data)]))
    except SensorError as problem:
        told = str(problem)
    assert "\n" not in told
    assert "0x" not in told


@pytest.mark.parametrize(
    ("described", "data"),
    [("jpeg", b""), ("jpeg", b"GIF89a..."), ("16UC1; compressedDepth rvl", bytes(40)), ("h264", b"\0")],
)
def test_what_is_neither_jpeg_nor_png_is_refused_by_name(described: str, data: bytes) -> None:
    with pytest.raises(SensorError, match=described.split(";")[0]):
        decode_compressed(described, data)


def test_real_sixteen_bit_depth_pictures_decode_to_their_counts() -> None:
    folder = SHARED / "orfd" / "depth"
    if not folder.is_dir():
        pytest.skip(f"the real depth frames are not at {folder}")
    for path in sorted(folder.glob("*.png")):
        decoded = decode_compressed("png", path.read_bytes())
        assert decoded.dtype == np.uint16
        assert decoded.max() > 255
        with Image.open(path) as picture:
            np.testing.assert_array_equal(decoded, np.asarray(picture))
