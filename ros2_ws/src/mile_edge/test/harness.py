"""The node as a process of its own, and a second process (this one) that plays its sensors and listens to it."""

from __future__ import annotations

import array
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from ament_index_python.packages import get_package_prefix
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from mile_edge_interfaces.srv import AddExpert, ListExperts, RemoveExpert, SetExpert
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

REPOSITORY = Path(__file__).parents[4]
REFERENCE = REPOSITORY / "bundles" / "reference"
FULL = os.environ.get("MILE_EDGE_ROS_FULL", "") not in ("", "0")
PATIENCE = 40.0
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE
SERVICES = {
    "add_expert": AddExpert,
    "remove_expert": RemoveExpert,
    "list_experts": ListExperts,
    "set_expert": SetExpert,
}


def eventually(done: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until something holds, and give it back."""
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        if result := done():
            return result
        time.sleep(0.01)
    raise AssertionError(f"not within {patience:g} s: {what}")


def soon(done: Callable[[], Any]) -> bool:
    """Whether something holds within half a second."""
    try:
        return bool(eventually(done, "", 0.5))
    except AssertionError:
        return False


class Inbox:
    """What a topic brought, in order, with the moment of each arrival."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.times: list[float] = []
        self.keep = True
        self.count = 0

    def __call__(self, message: Any) -> None:
        if self.keep or not self.messages:
            self.messages.append(message)
            self.times.append(time.monotonic())
        else:
            self.messages[-1], self.times[-1] = message, time.monotonic()
        self.count += 1

    def wait(self, count: int, patience: float = PATIENCE) -> list[Any]:
        """Wait until so many messages are here in all."""
        eventually(lambda: self.count >= count, f"{count} messages, {self.count} are here", patience)
        return self.messages

    def fresh(self, patience: float = PATIENCE) -> Any:
        """Wait for one more message."""
        return self.wait(self.count + 1, patience)[-1]


def until_flowing(camera: Any, message: Any, inbox: Inbox) -> Any:
    """Publish until an answer is here: discovery takes its time, and best effort may lose a frame."""
    before = inbox.count

    def answered() -> bool:
        camera.publish(message)
        return soon(lambda: inbox.count > before)

    eventually(answered, "an answer")
    return inbox.messages[-1]


def settle(camera: Any, message: Any, inbox: Inbox, mark: int = 2_000_000_000) -> Any:
    """Send one marked frame and wait for what it gives: nothing that was sent before it is still under way then."""
    message.header.stamp.sec = mark
    camera.publish(message)
    eventually(lambda: inbox.messages[-1].header.stamp.sec == mark, "the marked frame")
    return inbox.messages[-1]


class Bench:
    """The other process's side: a node that publishes images, listens and calls."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("bench", namespace=namespace, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._clients: dict[str, Any] = {}

    def _spin(self) -> None:
        while self.context.ok():
            try:
                self._executor.spin_once(timeout_sec=0.1)
            except Exception:  # a node that is being taken down
                if self.context.ok():
                    raise

    def listen(self, topic: str, kind: Any, qos: QoSProfile = RELIABLE) -> Inbox:
        """Subscribe to a topic of the segmenter, for example `camera/mask`."""
        inbox = Inbox()
        self.node.create_subscription(kind, f"mile_edge/{topic}" if not topic.startswith("/") else topic, inbox, qos)
        return inbox

    def camera(self, topic: str, kind: Any = Image, qos: QoSProfile = RELIABLE) -> Any:
        """A publisher of a sensor's images."""
        return self.node.create_publisher(kind, topic, qos)

    def call(self, kind: Any, name: str, request: Any, patience: float = PATIENCE) -> Any:
        """Call a service and wait for the answer."""
        key = f"mile_edge/{name}"
        client = self._clients.get(key) or self.node.create_client(kind, key)
        self._clients[key] = client
        assert client.wait_for_service(timeout_sec=patience), f"no service {key}"
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(patience), f"no answer from {key}"
        return future.result()

    def within(self, call: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """What a call gives in the thread that spins, so that no answer can come before the call has ended."""
        done = threading.Event()
        task = self._executor.create_task(call)
        task.add_done_callback(lambda _: done.set())
        assert done.wait(patience)
        return task.result()

    def ask(self, name: str, /, **fields: Any) -> Any:
        """Call one of the segmenter's own services."""
        return self.call(SERVICES[name], name, SERVICES[name].Request(**fields))

    def change(self, transition: int) -> bool:
        """Ask for a transition; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, "change_state", request).success)

    def state(self) -> str:
        """The state's name."""
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def set(self, **values: Any) -> list[Any]:
        """Set parameters one by one and give the results; `__` in a name stands for a dot."""
        parameters: list[ParameterMessage] = [
            Parameter(name.replace("__", "."), value=value).to_parameter_msg() for name, value in values.items()
        ]
        return list(self.call(SetParameters, "set_parameters", SetParameters.Request(parameters=parameters)).results)

    def close(self) -> None:
        """Take the node down."""
        self._executor.shutdown(timeout_sec=2.0)
        rclpy.shutdown(context=self.context)
        self._thread.join(timeout=5.0)


class Robot:
    """The segmenter as a process.

    Args:
        namespace: of the node.
        parameters: of the node.
        log: file for what it prints.
        prefix: words before the command, for example `setpriv ...`.
    """

    def __init__(self, namespace: str, parameters: Mapping[str, Any], log: Path, prefix: Sequence[str] = ()) -> None:
        program = Path(get_package_prefix("mile_edge")) / "lib" / "mile_edge" / "segmenter"
        words = [*prefix, str(program), "--ros-args", "-r", f"__ns:={namespace}"]
        for name, value in parameters.items():
            words += ["-p", f"{name}:={_yaml(value)}"]
        self.log = log
        with log.open("wb") as out:
            # A process group of its own with default signal handling, as a terminal gives it.
            self.process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def memory(self) -> int:
        """Resident bytes."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self, sign: int = signal.SIGINT, patience: float = 20.0) -> int:
        """Send a signal and give the exit status; a second one, and then force, where that does not help."""
        for attempt in (sign, sign, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(attempt)
            try:
                return self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        return self.process.wait(patience)


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(str, value)) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value)


def image(
    pixels: np.ndarray, encoding: str, stamp: int = 0, frame_id: str = "camera", padding: int = 0, big: bool = False
) -> Image:
    """An image message.

    Args:
        pixels: (H, W) or (H, W, C).
        encoding: as in sensor_msgs.
        stamp: nanoseconds.
        frame_id: of the header.
        padding: bytes behind every row.
        big: most significant byte first.
    """
    if pixels.dtype.itemsize > 1:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    message = Image(encoding=encoding, height=pixels.shape[0], width=pixels.shape[1], step=rows.shape[1])
    message.is_bigendian = int(big)
    message.data = array.array("B", rows.tobytes())
    message.header.stamp = Time(sec=stamp // 10**9, nanosec=stamp % 10**9)
    message.header.frame_id = frame_id
    return message


def pixels_of(message: Image) -> np.ndarray:
    """The (H, W) or (H, W, C) uint8 pixels of a mask, confidence or overlay."""
    flat = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return flat if message.encoding == "mono8" else flat.reshape(message.height, message.width, -1)


def stamp_of(message: Any) -> int:
    """Nanoseconds of a header."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)
