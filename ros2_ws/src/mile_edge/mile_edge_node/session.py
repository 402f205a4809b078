"""What exists between configure and cleanup: the open bundle, the sensors' topics, and the worker between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mile_edge_interfaces.msg import Status
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from mile_edge.bundle.trust import Publishers, Trust
from mile_edge.runtime import Segmenter
from mile_edge_node.latest import LatestFrames
from mile_edge_node.parameters import AUTO
from mile_edge_node.sensor import make_sensor
from mile_edge_node.settings import Settings
from mile_edge_node.tally import SensorTally
from mile_edge_node.topics import SensorTopics
from mile_edge_node.worker import Masked, Worker

_LISTENERS_S = 0.1


class Session:
    """A configured node.

    Args:
        node: whose topics and clock are used.
        settings: of the node.
        group: callback group of the images.
        names: of the sensors.

    Raises:
        MileError: the bundle, the backend or a sensor cannot be used; nothing is left open.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, group: CallbackGroup, names: Sequence[str]) -> None:
        self._node, self._settings, self._group = node, settings, group
        self._timer: Any = None
        self._worker: Worker | None = None
        keys = settings["expert_keys"]
        trust = Trust(settings["expert_policy"], Path(keys) if keys else None)
        if trust.policy == "signed":
            Publishers.read(keys)
        margin = settings["hysteresis"]
        self.segmenter = Segmenter.open(
            settings["bundle"],
            threads=settings["threads"] or None,
            hysteresis=None if margin < 0 else margin,
            backend=settings["backend"],
            engine=settings["engine"] or None,
        )
        self.segmenter.trust = trust
        self._calibrated_margin = self.segmenter.manifest.gate.hysteresis
        self.pins: dict[str, str] = {}
        try:
            stored = self.segmenter.manifest.sensors
            self.sensors = {name: make_sensor(name, settings.sensor(name), stored) for name in names}
            self.pin(settings["expert"], "")
        except Exception:  # whatever the settings do, a session that never began gives its backend's memory back
            self.segmenter.close()
            raise
        self.tallies = {name: SensorTally() for name in names}
        self.queue = LatestFrames(names)
        self.topics = {name: SensorTopics(node, sensor, group, self._offer) for name, sensor in self.sensors.items()}
        for topics in self.topics.values():
            topics.announce(self.segmenter.classes)

    def activate(self) -> None:
        """Begin to segment."""
        self.tallies = {name: SensorTally() for name in self.sensors}
        self.queue = LatestFrames(list(self.sensors))
        self._worker = Worker(self.segmenter, self.sensors, self.queue, self._publish, self._refuse)
        for name in ("max_rate", "max_batch", "mask_size"):
            self.change(name, self._settings[name])
        self._worker.start()
        self._listen()
        # Steady: with simulated time that stands still nobody could ever begin to listen.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self._node.create_timer(_LISTENERS_S, self._listen, callback_group=self._group, clock=steady)

    def deactivate(self) -> None:
        """Stop listening, and finish the pass in flight."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        for topics in self.topics.values():
            topics.unsubscribe()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def close(self) -> None:
        """Give everything back; from any state, and twice is harmless."""
        self.deactivate()
        for topics in self.topics.values():
            topics.destroy()
        self.topics = {}
        self.segmenter.close()

    def change(self, name: str, value: Any) -> None:
        """Take over a dynamic parameter.

        Raises:
            ExpertError: parameter expert names one that is not loaded.
        """
        if name == "expert":
            self.pin(value, "")
        elif name == "hysteresis":
            self.segmenter.hysteresis = self._calibrated_margin if value < 0 else value
        elif name == "max_rate":
            self.queue.max_rate = value
        elif name == "max_batch" and self._worker is not None:
            self._worker.max_batch = value or (1 if self._settings["backend"] == "onnx" else 4)
        elif name == "mask_size" and self._worker is not None:
            self._worker.at_network_size = value == "network"

    def pin(self, expert: str, sensor: str) -> None:
        """Pin an expert for a sensor, or for all where it is empty; `auto` lets the gate choose again.

        Raises:
            ExpertError: no such expert.
        """
        stream = sensor or None
        if expert in ("", AUTO):
            self.segmenter.auto(stream)
            self.pins = {key: pinned for key, pinned in self.pins.items() if sensor and key != sensor}
        else:
            self.segmenter.pin(expert, stream)
            self.pins = {**self.pins, sensor: expert}

    def forget(self, expert: str) -> None:
        """Drop the pins of an expert that is gone."""
        self.pins = {key: pinned for key, pinned in self.pins.items() if pinned != expert}

    def _offer(self, sensor: str, message: Any) -> None:
        self.queue.put(sensor, message)

    def _listen(self) -> None:
        lazy = self._settings["lazy"]
        for topics in self.topics.values():
            if not lazy or topics.wanted:
                topics.subscribe()
            else:
                topics.unsubscribe()

    def _publish(self, masked: Masked) -> None:
        topics, tally = self.topics[masked.sensor], self.tallies[masked.sensor]
        topics.announce(self.segmenter.classes)
        threshold = self._settings["novelty_threshold"]
        novel = masked.distance > threshold if threshold else masked.novel
        tally.add(masked.expert, masked.distance, novel, topics.age(masked.message.header.stamp))
        calibrated = self.segmenter.manifest.gate.thresholds.get(masked.expert, math.nan)
        timings = {f"{stage}_ms": milliseconds for stage, milliseconds in masked.timings.items()}
        status = Status(
            sensor=masked.sensor,
            expert=masked.expert,
            expert_id=masked.expert_id,
            pinned=masked.expert in (self.pins.get(masked.sensor), self.pins.get("")),
            distance=masked.distance,
            threshold=threshold or calibrated,
            novel=bool(novel),
            batch=masked.batch,
            published=tally.published,
            dropped=self.queue.dropped(masked.sensor),
            limited=self.queue.limited(masked.sensor),
            refused=tally.refused,
            **timings,
        )
        topics.publish(masked, status, self._settings["overlay_opacity"])

    def _refuse(self, sensor: str, reason: str) -> None:
        if self.tallies[sensor].refuse(reason):
            self._node.get_logger().error(f"{sensor}: {reason}")
