"""Our conversion and cv_bridge's agree, where cv_bridge works: with NumPy 2 its Python side takes the process down."""

from __future__ import annotations

import numpy as np
import pytest
from mile_edge_node.pixels import fill_image
from sensor_msgs.msg import Image

from harness import image
from mile_edge.data.encodings import decode_image

if int(np.__version__.split(".")[0]) >= 2:
    pytest.skip(f"cv_bridge crashes under NumPy {np.__version__}; 1.26 is needed", allow_module_level=True)
cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")

RGB = np.random.default_rng(0).integers(0, 256, (13, 17, 4), np.uint8)
COUNTS = np.random.default_rng(1).integers(0, 65536, (13, 17), np.uint16)


def ours(message: Image) -> np.ndarray:
    return decode_image(
        message.encoding, message.height, message.width, message.step, message.is_bigendian, memoryview(message.data)
    )


# Whole pixels of padding: with any other number cv_bridge's Python side skews the picture, where ours does not.
@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colours_agree(encoding: str, padding: int) -> None:
    message = image(RGB[..., : 4 if "a" in encoding else 3], encoding, padding=padding)
    np.testing.assert_array_equal(ours(message), cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8"))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["mono8", "mono16", "16UC1", "32FC1"])
def test_single_channels_of_both_byte_orders_agree(encoding: str, padding: int, big: bool) -> None:
    pixels = {"mono8": RGB[..., 0], "32FC1": COUNTS.astype(np.float32) / 1000}.get(encoding, COUNTS)
    message = image(pixels, encoding, padding=2 * padding, big=big)
    np.testing.assert_array_equal(ours(message), pixels)
    np.testing.assert_array_equal(ours(message), cv_bridge.CvBridge().imgmsg_to_cv2(message, "passthrough"))


@pytest.mark.parametrize("encoding", ["mono8", "rgb8"])
def test_what_we_send_is_what_cv_bridge_reads(encoding: str) -> None:
    pixels = RGB[..., 0] if encoding == "mono8" else RGB[..., :3]
    message = fill_image(Image(), pixels, encoding, Image().header)
    np.testing.assert_array_equal(cv_bridge.CvBridge().imgmsg_to_cv2(message, encoding), pixels)
