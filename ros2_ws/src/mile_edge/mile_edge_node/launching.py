"""What the launch files share."""

from __future__ import annotations

from launch import LaunchContext
from launch.actions import OpaqueFunction


def fail(reason: str) -> OpaqueFunction:
    """An action that ends the launch with a sentence and exit status 1, which a plain shutdown does not have."""

    def end(_: LaunchContext) -> None:
        raise RuntimeError(reason)

    return OpaqueFunction(function=end)
