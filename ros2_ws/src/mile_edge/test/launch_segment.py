"""launch_testing: `segment.launch.py` brings the node to active by itself, and masks come."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import launch
import launch_testing.actions
import launch_testing.asserts
from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

sys.path.insert(0, str(Path(__file__).parent))
from harness import REFERENCE, Bench, image, until_flowing


def generate_test_description() -> launch.LaunchDescription:
    """Start what a user starts."""
    folder = Path(get_package_share_directory("mile_edge"))
    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(folder / "launch" / "segment.launch.py")),
        launch_arguments={
            "bundle": str(REFERENCE),
            "camera": "/launched/image",
            "namespace": "/launched",
            "threads": "1",
        }.items(),
    )
    return launch.LaunchDescription([segment, launch_testing.actions.ReadyToTest()])


class TestSegment(unittest.TestCase):
    """While it runs."""

    def test_it_is_active_without_further_ado_and_masks_come(self) -> None:
        """An image goes in and a mask comes out."""
        import numpy as np
        from sensor_msgs.msg import Image

        bench = Bench("/launched")
        try:
            mask, camera = bench.listen("camera/mask", Image), bench.camera("/launched/image")
            got = until_flowing(camera, image(np.zeros((48, 64, 3), np.uint8), "rgb8", 7, "front"), mask)
            assert (got.height, got.width, got.encoding) == (48, 64, "mono8")
            assert bench.state() == "active"
        finally:
            bench.close()


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After Ctrl-C."""

    def test_every_process_ended_cleanly(self, proc_info: object) -> None:
        """Exit status 0, no kill needed."""
        launch_testing.asserts.assertExitCodes(proc_info)
