"""Replay: a recorded bag through a bundle, and a report of what came out. No ROS and no torch needed."""

from mile_edge.replay.run import ReplayOptions, ReplayResult, replay

__all__ = ["ReplayOptions", "ReplayResult", "replay"]
