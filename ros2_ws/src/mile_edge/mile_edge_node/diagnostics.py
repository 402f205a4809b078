"""`/diagnostics`: one line for the node and one per sensor, through diagnostic_updater."""

from __future__ import annotations

from collections.abc import Callable

from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.lifecycle import LifecycleNode

from mile_edge_node.session import Session
from mile_edge_node.settings import Settings
from mile_edge_node.tally import ERROR, OK, WARN, Verdict

_LEVELS = {OK: b"\x00", WARN: b"\x01", ERROR: b"\x02"}


class Diagnostics:
    """Reports on whatever session there is.

    Args:
        node: in any state.
        settings: of the node.
        session: gives the session, None while not configured.
        active: whether the node is active.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Settings,
        session: Callable[[], Session | None],
        active: Callable[[], bool],
    ) -> None:
        self._settings, self._session, self._active = settings, session, active
        self._updater = Updater(node)
        # Two robots' nodes have lines of the same names: this tells them apart.
        self._updater.setHardwareID(node.get_fully_qualified_name())
        self._updater.add("segmenter", lambda status: _fill(status, self._node_verdict()))
        self._sensors: tuple[str, ...] = ()

    def follow(self, sensors: tuple[str, ...]) -> None:
        """Report on these sensors from now on."""
        for name in self._sensors:
            self._updater.removeByName(f"sensor {name}")
        for name in sensors:
            self._updater.add(f"sensor {name}", self._task(name))
        self._sensors = sensors

    def _task(self, name: str) -> Callable[[DiagnosticStatusWrapper], DiagnosticStatusWrapper]:
        return lambda status: _fill(status, self._sensor_verdict(name))

    def _node_verdict(self) -> Verdict:
        session = self._session()
        if session is None:
            return Verdict(WARN, "not configured: no bundle is open; configure and activate the node", {})
        manifest = session.segmenter.manifest
        values = {
            "bundle": manifest.name,
            "base": manifest.base.model,
            "backend": self._settings["backend"],
            "experts": ", ".join(session.segmenter.experts),
            "pinned": ", ".join(f"{sensor or 'all'}: {expert}" for sensor, expert in session.pins.items()),
        }
        fused = session.fused
        if fused is not None:
            values["fused"] = ", ".join(f"{sensor} {share:.2f}" for sensor, share in fused.weights.items())
            values["not fused"] = ", ".join(f"{sensor} ({reason})" for sensor, reason in fused.absent.items())
        recorder = session.recorder
        if recorder is not None:
            values["novel frames kept"] = str(recorder.frames)
            values["novel frames (MB)"] = f"{recorder.megabytes:.1f} of {recorder.budget_mb:g}"
            values["novel frames dropped"] = str(recorder.dropped)
        if not self._active():
            return Verdict(WARN, "configured but not active: no frame is taken; activate the node", values)
        if session.unfused or (fused is not None and fused.absent):
            reason = session.unfused or f"without {values['not fused']}"
            return Verdict(WARN, f"fusion: {reason}", values)
        if recorder is not None and recorder.problem:
            return Verdict(WARN, recorder.problem, values)
        return Verdict(OK, f"active with {len(session.segmenter.experts)} experts", values)

    def _sensor_verdict(self, name: str) -> Verdict:
        session = self._session()
        topics = session.topics.get(name) if session is not None else None
        if session is None or topics is None or not self._active():
            return Verdict(OK, "not active", {})
        return session.tallies[name].verdict(
            subscribed=topics.subscribed,
            publishers=topics.publishers,
            dropped=session.queue.dropped(name),
            limited=session.queue.limited(name),
            stale_after=self._settings["stale_after"],
        )


def _fill(status: DiagnosticStatusWrapper, verdict: Verdict) -> DiagnosticStatusWrapper:
    status.summary(_LEVELS[verdict.level], verdict.message)
    for key, value in verdict.values.items():
        status.add(key, value)
    return status
