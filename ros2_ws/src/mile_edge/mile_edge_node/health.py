"""`ros2 run mile_edge health`: exit status 0 while `/diagnostics` says that the segmenter works; for containers."""

from __future__ import annotations

import argparse
import sys
import time


def main() -> int:
    """Wait for a report of the segmenter; 0 where none of its lines is an error or stale, else 1 with the reason."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.utilities import remove_ros_args

    parser = argparse.ArgumentParser(prog="health", description=__doc__)
    parser.add_argument(
        "--node",
        default="mile_edge",
        help="name of the segmenter, or /NAMESPACE/NAME where there are several (default mile_edge)",
    )
    parser.add_argument("--wait", type=float, default=5.0, help="seconds to wait for its report (default 5)")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    lines: dict[str, DiagnosticStatus] = {}

    def heard(array: DiagnosticArray) -> None:
        lines.update({line.name: line for line in array.status if _is_of(line.name, line.hardware_id, given.node)})

    rclpy.init()
    node = rclpy.create_node("mile_edge_health", use_global_arguments=False)
    node.create_subscription(DiagnosticArray, "/diagnostics", heard, 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    limit = time.monotonic() + given.wait
    while not lines and time.monotonic() < limit:
        executor.spin_once(timeout_sec=0.1)
    node.destroy_node()
    rclpy.try_shutdown()
    bad = [f"{line.name}: {line.message}" for line in lines.values() if line.level >= DiagnosticStatus.ERROR]
    if not lines:
        bad = [f"{given.node} reported nothing on /diagnostics for {given.wait:g} s"]
    # The segmenter's own line is a warning until it is active: then there are no masks either.
    own = lines.get(f"{given.node.rpartition('/')[2]}: segmenter")
    if own is not None and own.level != DiagnosticStatus.OK:
        bad.append(f"{own.name}: {own.message}")
    print("\n".join(bad) or "healthy")
    return 1 if bad else 0


def _is_of(name: str, hardware: str, node: str) -> bool:
    """Whether a line of diagnostics is that node's; a full name is compared with the hardware id, which holds it."""
    return name.startswith(f"{node.rpartition('/')[2]}: ") and (not node.startswith("/") or hardware == node)


if __name__ == "__main__":
    sys.exit(main())
