"""The action `~/train_expert`: training in a child process, with feedback and cancel."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mile_edge_interfaces.action import TrainExpert
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode

from mile_edge.errors import ExpertError, MileError
from mile_edge_node.expert_services import fill_loaded
from mile_edge_node.session import Session
from mile_edge_node.settings import Settings
from mile_edge_node.trainer import Order, Training, TrainingProgress, check_interpreter, command


class TrainingAction:
    """`~/train_expert`; one training at a time.

    Args:
        node: in any state.
        settings: of the node.
        session: gives the session, None while not configured.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, session: Callable[[], Session | None]) -> None:
        self._node, self._settings, self._session = node, settings, session
        self._busy = threading.Lock()
        self._stopping = threading.Event()
        self._server = ActionServer(
            node,
            TrainExpert,
            "~/train_expert",
            execute_callback=self._execute,
            goal_callback=self._goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )

    def stop(self) -> None:
        """End a training that is under way, and wait for that."""
        self._stopping.set()
        with self._busy:
            self._stopping.clear()

    def _goal(self, _: TrainExpert.Goal) -> GoalResponse:
        if self._busy.locked():
            self._node.get_logger().error("a training is under way; wait for it or cancel it first")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _execute(self, handle: Any) -> TrainExpert.Result:
        result = TrainExpert.Result()
        began = time.monotonic()
        with self._busy:
            session = self._session()
            try:
                if session is None:
                    raise MileError("no bundle is open; configure the node first")
                result.success, result.message = self._train(handle, session)
            except MileError as problem:
                result.message = str(problem)
            except OSError as problem:
                result.message = f"the training cannot run: {problem.strerror}; check train_folder and train_python"
            result.seconds = time.monotonic() - began
            if session is not None:
                fill_loaded(result, session)
        if handle.is_cancel_requested:
            handle.canceled()
        elif result.success:
            handle.succeed()
        else:
            self._node.get_logger().error(f"train_expert: {result.message}")
            handle.abort()
        return result

    def _train(self, handle: Any, session: Session) -> tuple[bool, str]:
        goal, began = handle.request, time.monotonic()
        python = self._settings["train_python"] or sys.executable
        folder = Path(self._settings["train_folder"] or "~/.ros/mile_edge").expanduser().absolute()
        order = Order(
            str(session.segmenter.bundle.path.absolute()),
            str(Path(goal.data).absolute()) if goal.data else "",
            goal.name,
            goal.sensor,
            goal.domain,
            goal.steps,
            goal.gate_only,
        )
        out = folder / f"{goal.name}.safetensors"
        line = command(order, python, self._settings["train_nice"], out)

        def tell(stage: str, progress: TrainingProgress) -> None:
            feedback = TrainExpert.Feedback(stage=stage, step=progress.step, steps=progress.steps or goal.steps)
            feedback.loss, feedback.miou = progress.loss, progress.miou
            feedback.seconds = time.monotonic() - began
            handle.publish_feedback(feedback)

        def tick(progress: TrainingProgress) -> bool:
            tell("training", progress)
            return handle.is_cancel_requested or self._stopping.is_set()

        if session.segmenter.trust.policy == "signed":
            raise ExpertError(
                "expert_policy is signed and what is trained here has no publisher's signature; train in the workshop"
            )
        tell("starting", TrainingProgress())
        check_interpreter(python)
        training = Training(line, python, folder)
        training.wait(tick)
        if handle.is_cancel_requested or self._stopping.is_set():
            return False, f"the training of {goal.name!r} was cancelled; the same goal resumes it"
        tell("adding", training.progress)
        session.segmenter.add_expert(out)
        out.unlink(missing_ok=True)
        return True, f"expert {goal.name!r} is trained and added; the next frame may use it"
