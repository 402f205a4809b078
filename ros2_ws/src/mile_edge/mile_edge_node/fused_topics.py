"""The topics of the fused mask."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from mile_edge.bundle import ClassLabel
from mile_edge_node.fusing import FusedMask
from mile_edge_node.pixels import fill_image
from mile_edge_node.topics import LATCHED, RESULTS, label_info


class FusedTopics:
    """`~/fused/mask`, `~/fused/confidence` and `~/fused/label_info`.

    Args:
        node: in state configuring.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._classes: tuple[ClassLabel, ...] = ()
        self._labels = node.create_publisher(LabelInfo, "~/fused/label_info", LATCHED)
        self._out = {
            topic: node.create_lifecycle_publisher(Image, f"~/fused/{topic}", RESULTS)
            for topic in ("mask", "confidence")
        }

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return any(publisher.get_subscription_count() for publisher in self._out.values())

    def announce(self, classes: tuple[ClassLabel, ...]) -> None:
        """Publish the label space where it is new; always before a mask that may use it."""
        if classes != self._classes:
            self._labels.publish(label_info(self._node, classes))
            self._classes = classes

    def publish(self, fused: FusedMask) -> None:
        """Publish what was made of several sensors, with the header of the one whose size it has."""
        for topic, pixels in (("mask", fused.mask), ("confidence", fused.confidence)):
            if self._out[topic].get_subscription_count():
                self._out[topic].publish(fill_image(Image(), pixels, "mono8", fused.message.header))

    def destroy(self) -> None:
        """Take all of it down."""
        self._node.destroy_publisher(self._labels)
        for publisher in self._out.values():
            self._node.destroy_lifecycle_publisher(publisher)
