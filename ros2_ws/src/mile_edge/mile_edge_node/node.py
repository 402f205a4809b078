"""The managed node: parameters, transitions, and what hangs on them."""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle import State as LifecycleState
from rclpy.validate_full_topic_name import validate_full_topic_name

from mile_edge.errors import MileError
from mile_edge_node.bundle_watch import BundleWatch
from mile_edge_node.diagnostics import Diagnostics
from mile_edge_node.expert_services import ExpertServices
from mile_edge_node.session import Session
from mile_edge_node.settings import Settings
from mile_edge_node.training_action import TrainingAction


class SegmenterNode(LifecycleNode):
    """Masks for every image of the configured sensors.

    Images, services and the action each have their own callback group, so that none waits for another; inference runs
    on the session's worker.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("mile_edge", **options)
        self.session: Session | None = None
        self._is_active = False
        self._images = MutuallyExclusiveCallbackGroup()
        self._settings = Settings(self, self._change, lambda: self.session is not None)
        self._diagnostics = Diagnostics(self, self._settings, lambda: self.session, lambda: self._is_active)
        self._experts = ExpertServices(self, self._settings, lambda: self.session)
        self._training = TrainingAction(self, self._settings, lambda: self.session)
        self._watch = BundleWatch(self, self._settings, lambda: self.session)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the bundle and announce the labels; on failure say why and stay unconfigured."""
        try:
            names = self._names()
            self._check_topics(names)
            self.session = Session(self, self._settings, self._images, names)
        except (MileError, ParameterException) as problem:
            self.get_logger().error(f"cannot be configured: {problem}")
            return TransitionCallbackReturn.FAILURE
        except Exception as problem:  # rclpy would go to error processing, and say nothing
            self.get_logger().error(f"cannot be configured: {type(problem).__name__}: {problem}")
            return TransitionCallbackReturn.FAILURE
        self._warn_of_unknown(names)
        self._diagnostics.follow(tuple(names))
        experts = ", ".join(self.session.segmenter.experts)
        self.get_logger().info(f"bundle {self.session.segmenter.manifest.name!r} is open with experts {experts}")
        for sensor in self.session.sensors.values():
            self.get_logger().info(
                f"{sensor.name}: {sensor.topic} ({sensor.profile.kind}, {sensor.transport}, {sensor.reliability})"
            )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to segment."""
        result = super().on_activate(state)
        if self.session is not None and result == TransitionCallbackReturn.SUCCESS:
            self.session.activate()
            self._is_active = True
            self._training.go_on()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the pass in flight and stop."""
        self._is_active = False
        if self.session is not None:
            self.session.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the bundle; the next configure opens it anew."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the bundle from whatever state."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close what is open, so that configure may be tried again."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the worker and any training, and give everything back; harmless at any time."""
        self._is_active = False
        self._training.stop()
        self._diagnostics.follow(())
        session, self.session = self.session, None
        if session is not None:
            session.close()

    def _names(self) -> list[str]:
        names = self._settings["sensors"]
        if not self._settings["bundle"]:
            raise MileError("no bundle is given; set the parameter bundle to a bundle's folder")
        if not names:
            raise MileError("no sensor is given; set the parameter sensors to a list of names, and NAME.topic of each")
        for name in names:
            if not name.isidentifier() or not name.isascii():
                raise MileError(f"sensor {name!r} cannot be part of a topic's name; use letters, digits and _")
        if len(set(names)) < len(names):
            raise MileError(f"the sensors {', '.join(names)} have a name twice; give each its own")
        return names

    def _check_topics(self, names: list[str]) -> None:
        """Refuse topics that no topic can be called: they are only subscribed to once somebody listens."""
        for name in names:
            given = self._settings.sensor(name)
            for key in ("topic", "camera_info"):
                if not given[key]:
                    continue
                try:
                    validate_full_topic_name(expand_topic_name(given[key], self.get_name(), self.get_namespace()))
                except (ValueError, NameValidationException) as problem:
                    reason = str(problem).splitlines()[0].rstrip(":").split(", at /")[0]
                    raise MileError(f"sensor {name!r} has {key} {given[key]!r}: {reason}; give another") from None

    def _warn_of_unknown(self, names: list[str]) -> None:
        """Say which parameters were given that are none: a misspelt one would have no effect, and nobody would know."""
        # Parameters given for names that were never declared are nowhere else to be seen in rclpy.
        unknown = [name for name in self._parameter_overrides if not self.has_parameter(name)]
        if unknown:
            listed, sensors = ", ".join(sorted(unknown)[:8]), ", ".join(names)
            self.get_logger().warning(
                f"without effect: {listed}; these parameters are misspelt, or of a sensor that is none of {sensors}"
            )

    def _change(self, name: str, value: Any) -> str | None:
        try:
            if self.session is not None:
                self.session.change(name, value)
        except MileError as problem:
            return str(problem)
        return None
