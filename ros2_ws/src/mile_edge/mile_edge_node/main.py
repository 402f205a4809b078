"""`ros2 run mile_edge segmenter`: the node as a process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

# Ctrl-C may bring two signals at once: the terminal's to the whole group, and the one that launch hands on.
_ONE_SIGNAL_S = 1.0


def main() -> int:
    """Run the node until SIGINT or SIGTERM; a second signal, later than a second after the first, ends it at once."""
    # Before the long imports, so that a signal during them is no traceback.
    stop, stopped = threading.Event(), time.monotonic()

    def end(number: int, _: FrameType | None) -> None:
        nonlocal stopped
        if not stop.is_set():
            stopped = time.monotonic()
            stop.set()
        elif time.monotonic() - stopped > _ONE_SIGNAL_S:
            os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        import rclpy
        from rclpy.exceptions import ParameterException
        from rclpy.executors import MultiThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        from mile_edge_node.node import SegmenterNode
    except ImportError as problem:
        print(
            f"mile_edge: {sys.executable} cannot import {problem.name or problem} ({problem}); install the library "
            "for it (pip install FOLDER_OF_MILE_EDGE), or activate the environment that has it, and source ROS",
            file=sys.stderr,
        )
        return 1
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        node = SegmenterNode()
    except (RuntimeError, ParameterException) as problem:
        # RuntimeError is what rclpy makes of arguments and parameter files that it cannot read.
        print(f"mile_edge: {' '.join(str(problem).split())}", file=sys.stderr)
        return 1
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(node)
    # The executor blocks outside Python, where a signal handler of Python's would wait for the next message.
    spinning = threading.Thread(target=executor.spin, name="executor", daemon=True)
    spinning.start()
    # With a time limit, because a wait without one would not let signals through on every platform.
    while not stop.wait(1.0) and spinning.is_alive():
        pass
    node.close()
    executor.shutdown(timeout_sec=2.0)
    spinning.join(timeout=2.0)
    node.destroy_node()
    rclpy.try_shutdown()
    # All is given back: a signal that comes while Python itself ends must not make a failure of it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return 0 if stop.is_set() else 1


if __name__ == "__main__":
    sys.exit(main())
