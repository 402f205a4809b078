"""Replay: a recorded bag through a bundle, and a report of what came out. No ROS and no torch needed."""

from mile_edge.replay.options import ReplayOptions
from mile_edge.replay.run import ReplayResult, replay

__all__ = ["ReplayOptions", "ReplayResult", "replay"]
