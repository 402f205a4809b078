"""The action `~/train_expert`: training in a child process, with feedback and cancel."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mile_edge_interfaces.action import TrainExpert
from rclpy.action import ActionClient, ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode

from mile_edge.bundle.admission import check_room
from mile_edge.errors import ExpertError, MileError
from mile_edge.workers.limits import Limits, cores_for_training, memory_for_training, read_cores
from mile_edge_node.expert_services import fill_loaded
from mile_edge_node.session import Session
from mile_edge_node.settings import Settings
from mile_edge_node.trainer import Order, Training, TrainingProgress, check_interpreter, command
from mile_edge_node.unfinished import Unfinished

_NAME = "~/train_expert"
_PATIENCE_S = 60.0


class TrainingAction:
    """`~/train_expert`; one training at a time.

    Args:
        node: in any state.
        settings: of the node.
        session: gives the session, None while not configured.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, session: Callable[[], Session | None]) -> None:
        self._node, self._settings, self._session = node, settings, session
        self._ended = threading.Condition()
        self._running: str | None = None
        self._stopping = threading.Event()
        self._group = ReentrantCallbackGroup()
        self._server = ActionServer(
            node,
            TrainExpert,
            _NAME,
            execute_callback=self._execute,
            goal_callback=self._goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=self._group,
        )
        self._client: ActionClient | None = None

    @property
    def running(self) -> str | None:
        """Name of the expert that is being trained."""
        return self._running

    def stop(self) -> None:
        """End a training that is under way, and wait for that; the next activation goes on with it."""
        self._stopping.set()
        with self._ended:
            self._ended.wait_for(lambda: self._running is None, _PATIENCE_S)
        self._stopping.clear()

    def go_on(self) -> None:
        """Go on with the training that the last run of the node began and did not end, as with a goal sent again."""
        if not self._settings["train_resume"] or self._running is not None:
            return
        log, session = self._node.get_logger(), self._session()
        order = Unfinished(self._folder()).read(log.warning)
        if order is None or session is None:
            return
        if order.bundle != _path_of(session):
            log.warning(f"the training of {order.name!r} was for bundle {order.bundle}; open that one to go on with it")
            return
        cancel = self._node.resolve_service_name(f"{_NAME}/_action/cancel_goal")
        log.info(
            f"the training of {order.name!r} goes on, which the last run of the node did not end; to end it: "
            f"ros2 service call {cancel} action_msgs/srv/CancelGoal"
        )
        # As a goal like any other, so that it is seen, cancelled and refused like any other.
        self._client = self._client or ActionClient(self._node, TrainExpert, _NAME, callback_group=self._group)
        threading.Thread(target=self._send, args=(self._client, order), daemon=True).start()

    def _send(self, client: ActionClient, order: Order) -> None:
        fields = {name: value for name, value in vars(order).items() if name != "bundle"}
        if client.wait_for_server(timeout_sec=_PATIENCE_S):
            client.send_goal_async(TrainExpert.Goal(**fields))

    def _goal(self, goal: TrainExpert.Goal) -> GoalResponse:
        with self._ended:
            if self._running is None:
                self._running = goal.name
                return GoalResponse.ACCEPT
        self._node.get_logger().error(
            f"train_expert {goal.name!r} is refused: the training of {self._running!r} is under way; wait for it or "
            "cancel it first"
        )
        return GoalResponse.REJECT

    def _execute(self, handle: Any) -> TrainExpert.Result:
        result = TrainExpert.Result()
        began = time.monotonic()
        session = self._session()
        try:
            if session is None:
                raise MileError("no bundle is open; configure the node first")
            result.success, result.message = self._train(handle, session)
        except MileError as problem:
            result.message = str(problem)
        except OSError as problem:
            result.message = f"the training cannot run: {problem.strerror}; check train_folder and train_python"
        finally:
            with self._ended:
                self._running = None
                self._ended.notify_all()
        result.seconds = time.monotonic() - began
        if session is not None:
            fill_loaded(result, session)
        if handle.is_cancel_requested:
            self._node.get_logger().info(result.message)
            handle.canceled()
        elif result.success:
            self._node.get_logger().info(result.message)
            handle.succeed()
        else:
            self._node.get_logger().error(f"train_expert: {result.message}")
            handle.abort()
        return result

    def _train(self, handle: Any, session: Session) -> tuple[bool, str]:
        goal, log = handle.request, self._node.get_logger()
        if session.segmenter.trust.policy == "signed":
            raise ExpertError(
                "expert_policy is signed and what is trained here has no publisher's signature; train in the workshop"
            )
        data = str(Path(goal.data).absolute()) if goal.data else ""
        order = Order(_path_of(session), data, goal.name, goal.sensor, goal.domain, goal.steps, goal.gate_only)
        python, folder = self._settings["train_python"] or sys.executable, self._folder()
        out, unfinished = folder / f"{goal.name}.safetensors", Unfinished(folder)
        line = command(order, python, self._limits(), out, self._settings["train_device"])
        tell = _Feedback(handle)
        tell("starting", TrainingProgress())
        # A node that was killed after the training and before its end has only the last step left.
        trained = unfinished.read() == order and out.exists()
        if not trained:
            check_room(session.segmenter.manifest, goal.name, f"the expert {goal.name!r} to train")
            check_interpreter(python)
            out.unlink(missing_ok=True)
        unfinished.keep(order)
        ended = True
        try:
            if not trained:
                training = Training(line, python, folder, log.info)
                training.wait(lambda progress: tell("training", progress) or self._ends(handle))
                if handle.is_cancel_requested:
                    return False, f"the training of {goal.name!r} was cancelled; the same goal resumes it"
                if self._stopping.is_set():
                    ended = False
                    return False, f"the training of {goal.name!r} ended with the node; once active it goes on with it"
            tell("adding", TrainingProgress())
            frames = self._add(session, out)
        finally:
            if ended:
                unfinished.forget()
        out.unlink(missing_ok=True)
        when = f"once it is compared on {frames} frames" if frames else "from the next frame on"
        return True, f"expert {goal.name!r} is trained and added; its masks are published {when}"

    def _add(self, session: Session, out: Path) -> int:
        """Add what was trained; on how many frames it is compared before it goes live."""
        digest, manifest = hashlib.sha256(out.read_bytes()).hexdigest(), session.segmenter.manifest
        frames = int(self._settings["shadow_frames"])
        if any(entry.sha256 == digest for entry in manifest.experts):
            # The node was killed just after it had been added.
            return 0
        if manifest.candidate is not None and manifest.candidate.sha256 == digest:
            return frames
        try:
            session.segmenter.add_expert(out, shadow=frames or None)
            return frames
        except MileError as problem:
            raise ExpertError(f"{str(problem).rstrip('.')}; the trained expert lies in {out}") from None

    def _ends(self, handle: Any) -> bool:
        return bool(handle.is_cancel_requested or self._stopping.is_set())

    def _folder(self) -> Path:
        return Path(self._settings["train_folder"] or "~/.ros/mile_edge").expanduser().absolute()

    def _limits(self) -> Limits:
        """What a training may take from the node.

        Raises:
            RecipeError: train_cores is no list of processors that the node may use.
        """
        cores = self._settings["train_cores"]
        return Limits(
            read_cores(cores) if cores else cores_for_training(),
            self._settings["train_nice"],
            self._settings["train_memory"] or memory_for_training(),
        )


class _Feedback:
    """Publishes how far a goal is."""

    def __init__(self, handle: Any) -> None:
        self._handle, self._began = handle, time.monotonic()

    def __call__(self, stage: str, progress: TrainingProgress) -> None:
        steps = progress.steps or self._handle.request.steps
        feedback = TrainExpert.Feedback(stage=stage, step=progress.step, steps=steps)
        feedback.loss, feedback.miou = progress.loss, progress.miou
        feedback.seconds = time.monotonic() - self._began
        self._handle.publish_feedback(feedback)


def _path_of(session: Session) -> str:
    return str(session.segmenter.bundle.path.absolute())
