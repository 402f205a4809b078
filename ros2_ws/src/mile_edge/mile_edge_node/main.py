"""`ros2 run mile_edge segmenter`: the node as a process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType


def main() -> int:
    """Run the node until SIGINT or SIGTERM; a second signal ends it at once."""
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
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = SegmenterNode()
    except ParameterException as problem:
        print(f"mile_edge: {problem}", file=sys.stderr)
        return 1
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(node)
    # The executor blocks outside Python, where a signal handler of Python's would wait for the next message.
    spinning = threading.Thread(target=executor.spin, name="executor", daemon=True)
    stop = threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    spinning.start()
    # With a time limit, because a wait without one would not let signals through on every platform.
    while not stop.wait(1.0) and spinning.is_alive():
        pass
    node.close()
    executor.shutdown(timeout_sec=2.0)
    spinning.join(timeout=2.0)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0 if stop.is_set() else 1


if __name__ == "__main__":
    sys.exit(main())
