"""A bundle that another process changes, as `mile-edge experts` does, is taken over while frames flow."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from mile_edge.errors import MileError
from mile_edge_node.parameters import AUTO
from mile_edge_node.session import Session
from mile_edge_node.settings import Settings

_EVERY_S = 0.5
# After a change that cannot be taken over, whose files would else be read again at every look.
_PAUSE_S = 5.0


class BundleWatch:
    """Looks at the open bundle's manifest twice a second.

    Looking, and not a service: what `mile-edge experts rollback` or a copied folder does must reach a node that nobody
    told, and inotify sees nothing on network file systems. Where nothing has changed it is one `stat`.

    Args:
        node: in any state.
        settings: of the node.
        session: gives the session, None while not configured.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, session: Callable[[], Session | None]) -> None:
        self._node, self._settings, self._session = node, settings, session
        self._problem, self._next = "", 0.0
        # Steady: simulated time may stand still. In a group of its own: a new expert's file takes a while to be read.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(_EVERY_S, self._look, callback_group=MutuallyExclusiveCallbackGroup(), clock=steady)

    def _look(self) -> None:
        session, log = self._session(), self._node.get_logger()
        if session is None or time.monotonic() < self._next:
            return
        before = set(session.segmenter.experts)
        try:
            changed = session.segmenter.refresh()
        except MileError as problem:
            if str(problem) != self._problem:
                log.error(f"the bundle was changed and the change is not taken over: {problem}")
            self._problem, self._next = str(problem), time.monotonic() + _PAUSE_S
            return
        self._problem = ""
        if changed:
            now = set(session.segmenter.experts)
            told = [
                f"{', '.join(sorted(names))} {word}"
                for names, word in ((now - before, "came"), (before - now, "went"))
                if names
            ]
            what = "; ".join(told) or "the experts' names stay"
            log.info(f"the bundle was changed by another process and is taken over: {what}")
            session.announce()
            forget_gone(self._node, self._settings, session)


def forget_gone(node: LifecycleNode, settings: Settings, session: Session) -> None:
    """Drop the pins of experts that are gone, and the parameter `expert` where it names one of them."""
    for name in set(session.pins.values()) - set(session.segmenter.rows):
        session.forget(name)
    if settings["expert"] not in ("", AUTO, *session.segmenter.rows):
        node.set_parameters([Parameter("expert", value=AUTO)])
