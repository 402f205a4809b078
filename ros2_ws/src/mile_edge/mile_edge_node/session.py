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
from mile_edge.errors import FusionError
from mile_edge.runtime import Segmenter
from mile_edge_node.fused_topics import FusedTopics
from mile_edge_node.fusing import FusedMask, Moment
from mile_edge_node.latest import LatestFrames
from mile_edge_node.parameters import AUTO
from mile_edge_node.recorder import Recorder
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
        self.recorder: Recorder | None = None
        self.topics: dict[str, SensorTopics] = {}
        self.fused_topics: FusedTopics | None = None
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
        self.pins: dict[str, str] = {}
        try:
            stored = self.segmenter.manifest.sensors
            self.sensors = {name: make_sensor(name, settings.sensor(name), stored) for name in names}
            self.moment = self._moment(settings["fuse"], names)
            self.pin(settings["expert"], "")
            self.recorder = self._recorder(settings["record_novel"], settings["record_mb"])
            self.tallies = {name: SensorTally() for name in names}
            self.queue = LatestFrames(names)
            for name, sensor in self.sensors.items():
                self.topics[name] = SensorTopics(node, sensor, group, self._offer)
            self.fused_topics = FusedTopics(node) if self.moment is not None else None
            self.fused: FusedMask | None = None
            self.unfused = ""
            self.announce()
        except Exception:  # whatever the settings do, a session that never began gives its memory and topics back
            self.close()
            raise

    def announce(self) -> None:
        """Publish the label spaces where they are new."""
        for topics in (*self.topics.values(), *filter(None, [self.fused_topics])):
            topics.announce(self.segmenter.classes)

    def activate(self) -> None:
        """Begin to segment."""
        self.tallies = {name: SensorTally() for name in self.sensors}
        self.queue = LatestFrames(list(self.sensors))
        self._worker = Worker(
            self.segmenter,
            self.sensors,
            self.queue,
            self._publish,
            self._refuse,
            self.moment,
            self._publish_fused,
            self._miss,
        )
        for name in ("max_rate", "max_batch", "mask_size", "fusion_tolerance"):
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
        if self.fused_topics is not None:
            self.fused_topics.destroy()
            self.fused_topics = None
        if self.recorder is not None:
            self.recorder.close()
            self.recorder = None
        self.segmenter.close()

    def change(self, name: str, value: Any) -> None:
        """Take over a dynamic parameter.

        Raises:
            ExpertError: parameter expert names one that is not loaded.
        """
        if name == "expert":
            self.pin(value, "")
        elif name == "hysteresis":
            self.segmenter.hysteresis = None if value < 0 else value
        elif name == "fusion_tolerance" and self.moment is not None:
            self.moment.tolerance = value
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
        lazy, fused = self._settings["lazy"], self.fused_topics
        if self.moment is not None and fused is not None:
            self.moment.wanted = not lazy or fused.wanted
        for name, topics in self.topics.items():
            fusing = self.moment is not None and self.moment.wanted and name in self.moment.names
            if not lazy or topics.wanted or fusing or self.recorder is not None:
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
        if novel and self.recorder is not None:
            # Only now: the mask is out.
            score = masked.distance / threshold if threshold else masked.novelty
            self.recorder.offer(masked.sensor, masked.message, masked.expert, score)

    def _publish_fused(self, fused: FusedMask) -> None:
        self.fused, self.unfused = fused, ""
        if self.fused_topics is not None:
            self.fused_topics.announce(self.segmenter.classes)
            self.fused_topics.publish(fused)

    def _miss(self, reason: str) -> None:
        if reason != self.unfused:
            self._node.get_logger().warning(f"no fused mask: {reason}")
        self.unfused = reason

    def _moment(self, fuse: Sequence[str], names: Sequence[str]) -> Moment | None:
        if not fuse:
            return None
        if len(set(fuse)) < max(2, len(fuse)) or not set(fuse) <= set(names) or "fused" in names:
            given, known = ", ".join(fuse), ", ".join(names)
            raise FusionError(
                f"fuse is {given}; name two or more of the sensors {known} once, none of them called fused"
            )
        if self.segmenter.bundle.fusion_vector() is None:
            name = self.segmenter.manifest.name
            raise FusionError(f"bundle {name!r} has no graph that fuses; mile-edge train fusion --add gives it one")
        if self._settings["backend"] != "onnx":
            raise FusionError("fusing sensors runs in ONNX Runtime only so far; set backend to onnx, or fuse to none")
        return Moment(fuse)

    def _recorder(self, folder: str, budget_mb: float) -> Recorder | None:
        if not folder:
            return None
        topics = {name: self._node.resolve_topic_name(sensor.topic) for name, sensor in self.sensors.items()}
        return Recorder(Path(folder).expanduser(), budget_mb, self.sensors, topics, self._node.get_logger().error)

    def _refuse(self, sensor: str, reason: str) -> None:
        if self.tallies[sensor].refuse(reason):
            self._node.get_logger().error(f"{sensor}: {reason}")
