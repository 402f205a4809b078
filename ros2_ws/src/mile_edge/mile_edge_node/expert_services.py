"""The services about experts; frames keep flowing through every one of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mile_edge_interfaces.msg import Expert
from mile_edge_interfaces.srv import AddExpert, ListExperts, RemoveExpert, SetExpert
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from mile_edge.errors import MileError
from mile_edge_node.bundle_watch import forget_gone
from mile_edge_node.experts import add_from
from mile_edge_node.parameters import AUTO
from mile_edge_node.session import Session
from mile_edge_node.settings import Settings

_CLOSED = "no bundle is open; configure the node first"


class ExpertServices:
    """`~/add_expert`, `~/remove_expert`, `~/list_experts` and `~/set_expert`.

    Args:
        node: in any state.
        settings: of the node.
        session: gives the session, None while not configured.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, session: Callable[[], Session | None]) -> None:
        self._node, self._settings, self._session = node, settings, session
        # One change at a time, as the bundle has it, and apart from images and transitions.
        group = MutuallyExclusiveCallbackGroup()
        for kind, name, act in (
            (AddExpert, "add_expert", self._add),
            (RemoveExpert, "remove_expert", self._remove),
            (ListExperts, "list_experts", self._list),
            (SetExpert, "set_expert", self._set),
        ):
            node.create_service(kind, f"~/{name}", self._answering(act), callback_group=group)

    def _answering(self, act: Callable[[Session, Any, Any], str]) -> Callable[[Any, Any], Any]:
        def answer(request: Any, response: Any) -> Any:
            session = self._session()
            try:
                if session is None:
                    raise MileError(_CLOSED)
                response.message = act(session, request, response)
                response.success = True
            except MileError as problem:
                response.success, response.message = False, str(problem)
            except Exception as problem:  # a service that raises would take the whole node down
                response.success, response.message = False, f"{type(problem).__name__}: {problem}"
                self._node.get_logger().error(response.message)
            if session is not None:
                fill_loaded(response, session)
            return response

        return answer

    def _add(self, session: Session, request: Any, response: Any) -> str:
        most = self._settings["max_expert_bytes"]
        frames = self._settings["shadow_frames"]
        added = add_from(session.segmenter, request.path, request.data, request.sha256, request.name, most, frames)
        session.announce()
        if frames:
            return f"expert {added!r} is in shadow for {frames} frames; none of its masks is published before"
        return f"expert {added!r} is added; the next frame may use it"

    def _remove(self, session: Session, request: Any, response: Any) -> str:
        session.segmenter.remove_expert(request.name)
        forget_gone(self._node, self._settings, session)
        return f"expert {request.name!r} is removed; the others' masks stay as they are"

    def _list(self, session: Session, request: Any, response: Any) -> str:
        bundle, rows = session.segmenter.bundle, session.segmenter.rows
        manifest = bundle.manifest
        for entry, expert in zip(manifest.experts, bundle.experts(), strict=True):
            response.details.append(
                Expert(
                    name=entry.name,
                    id=rows.get(entry.name, 0),
                    sha256=entry.sha256,
                    sensors=list(expert.sensors),
                    domains=list(expert.domains),
                    threshold=manifest.gate.thresholds.get(entry.name, math.nan),
                    pinned=[sensor or "*" for sensor, pinned in session.pins.items() if pinned == entry.name],
                )
            )
        response.free = manifest.capacity + 1 - len(manifest.experts)
        return f"{len(manifest.experts)} experts are loaded and {response.free} more fit"

    def _set(self, session: Session, request: Any, response: Any) -> str:
        expert, sensor = request.expert or AUTO, request.sensor
        if sensor and sensor not in session.sensors:
            raise MileError(f"sensor {sensor!r} is not configured; configured are {', '.join(session.sensors)}")
        if sensor:
            session.pin(expert, sensor)
        else:
            # Through the parameter, so that it shows what holds for all sensors.
            result = self._node.set_parameters([Parameter("expert", value=expert)])[0]
            if not result.successful:
                raise MileError(result.reason)
        who = f"sensor {sensor!r}" if sensor else "every sensor"
        return f"the gate chooses for {who}" if expert == AUTO else f"{who} uses expert {expert!r}"


def fill_loaded(response: Any, session: Session) -> None:
    """Put the names and ids of the experts loaded now into a response or result."""
    rows = session.segmenter.rows
    names = [name for name in session.segmenter.experts if name in rows]
    response.experts, response.ids = names, [rows[name] for name in names]
