"""A procedural street with true labels: RGB, depth and thermal frames under six kinds of weather."""

from __future__ import annotations

from .bag import write_bag
from .classes import DOMAINS, SENSORS, WORLD_CLASSES
from .preview import write_preview
from .world import World, WorldFrame
from .writer import write_drives, write_folder

__all__ = [
    "DOMAINS",
    "SENSORS",
    "WORLD_CLASSES",
    "World",
    "WorldFrame",
    "write_bag",
    "write_drives",
    "write_folder",
    "write_preview",
]
