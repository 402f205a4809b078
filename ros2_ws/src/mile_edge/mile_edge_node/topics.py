"""The topics of one sensor: what it sends, and what is made of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mile_edge_interfaces.msg import Status
from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import LabelInfo, VisionClass

from mile_edge.bundle import ClassLabel
from mile_edge_node.pixels import colour_table, fill_image, overlay, scale_camera_info
from mile_edge_node.sensor import Sensor
from mile_edge_node.worker import Masked

RESULTS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def label_info(node: LifecycleNode, classes: tuple[ClassLabel, ...]) -> LabelInfo:
    """The label space as a message."""
    info = LabelInfo()
    info.header.stamp = node.get_clock().now().to_msg()
    info.class_map = [VisionClass(class_id=index, class_name=label.name) for index, label in enumerate(classes)]
    return info


class SensorTopics:
    """Publishers and subscriptions of one sensor.

    Args:
        node: in state configuring.
        sensor: as configured.
        group: callback group of its subscriptions.
        offer: takes each message that arrives.
    """

    def __init__(
        self, node: LifecycleNode, sensor: Sensor, group: CallbackGroup, offer: Callable[[str, Any], None]
    ) -> None:
        self.sensor = sensor
        self._node, self._group, self._offer = node, group, offer
        self._image: Any = None
        self._info: Any = None
        self._calibration: CameraInfo | None = None
        self._table, self._known = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
        self._classes: tuple[ClassLabel, ...] = ()
        self._labels = node.create_publisher(LabelInfo, f"~/{sensor.name}/label_info", LATCHED)
        kinds = {"mask": Image, "confidence": Image, "overlay": Image, "camera_info": CameraInfo, "status": Status}
        self._out = {
            topic: node.create_lifecycle_publisher(kind, f"~/{sensor.name}/{topic}", RESULTS)
            for topic, kind in kinds.items()
        }

    @property
    def wanted(self) -> bool:
        """Whether anybody listens to a result."""
        return any(publisher.get_subscription_count() for publisher in self._out.values())

    @property
    def subscribed(self) -> bool:
        """Whether the sensor's images are subscribed to."""
        return self._image is not None

    @property
    def publishers(self) -> int:
        """How many nodes publish the sensor's images, 0 also while not subscribed."""
        return self._node.count_publishers(self._node.resolve_topic_name(self.sensor.topic))

    def age(self, stamp: Any) -> float:
        """Seconds since a stamp, by the node's clock."""
        # By hand: rclpy's Time refuses the negative stamps that a broken driver may send.
        return float(self._node.get_clock().now().nanoseconds * 1e-9 - stamp.sec - stamp.nanosec * 1e-9)

    def subscribe(self) -> None:
        """Listen to the sensor; twice is harmless."""
        if self._image is not None:
            return
        sensor = self.sensor
        reliable = sensor.reliability == "reliable"
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=sensor.depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        kind = CompressedImage if sensor.transport == "compressed" else Image
        self._image = self._node.create_subscription(
            kind, sensor.topic, lambda message: self._offer(sensor.name, message), qos, callback_group=self._group
        )
        if sensor.camera_info:
            # Best effort receives from either kind of publisher.
            best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._info = self._node.create_subscription(
                CameraInfo, sensor.camera_info, self._calibrated, best_effort, callback_group=self._group
            )

    def unsubscribe(self) -> None:
        """Stop listening; twice is harmless."""
        for subscription in filter(None, (self._image, self._info)):
            self._node.destroy_subscription(subscription)
        self._image = self._info = self._calibration = None

    def announce(self, classes: tuple[ClassLabel, ...]) -> None:
        """Publish the label space where it is new; always before a mask that may use it."""
        if classes == self._classes:
            return
        self._labels.publish(label_info(self._node, classes))
        self._table, self._known = colour_table(classes)
        self._classes = classes

    def publish(self, masked: Masked, status: Status, opacity: float) -> None:
        """Publish what became of a frame; only what somebody listens to is made.

        Args:
            masked: from the worker.
            status: filled but for header and the last timings.
            opacity: of the overlay.
        """
        began, cpu = time.monotonic(), time.thread_time()
        header = masked.message.header
        for topic, pixels in (("mask", masked.mask), ("confidence", masked.confidence)):
            if self._out[topic].get_subscription_count():
                self._out[topic].publish(fill_image(Image(), pixels, "mono8", header))
        if self._calibration is not None and self._out["camera_info"].get_subscription_count():
            info = copy.deepcopy(self._calibration)
            # The image's own header, so that exact time synchronisation finds the pair.
            info.header = header
            scale_camera_info(info, *masked.mask.shape)
            self._out["camera_info"].publish(info)
        ended, spent = time.monotonic(), time.thread_time() - cpu
        status.age_ms = self.age(header.stamp) * 1e3
        if self._out["overlay"].get_subscription_count():
            picture = overlay(masked.frame, masked.mask, self._table, self._known, opacity)
            self._out["overlay"].publish(fill_image(Image(), picture, "rgb8", header))
        status.header = header
        status.overhead_cpu_ms, status.resize_cpu_ms = masked.decode_cpu + spent * 1e3, masked.resize_cpu
        status.publish_ms, status.total_ms = (ended - began) * 1e3, (ended - masked.received) * 1e3
        self._out["status"].publish(status)

    def destroy(self) -> None:
        """Take all of it down."""
        self.unsubscribe()
        self._node.destroy_publisher(self._labels)
        for publisher in self._out.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _calibrated(self, message: CameraInfo) -> None:
        self._calibration = message
