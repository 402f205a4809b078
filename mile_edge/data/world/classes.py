"""What the world's labels and domains are called."""

from __future__ import annotations

WORLD_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("sky", (70, 130, 180)),
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("pole", (153, 153, 153)),
    ("vegetation", (107, 142, 35)),
    ("car", (0, 0, 142)),
    ("person", (220, 20, 60)),
)
"""(name, RGB colour) in id order: the position is the label id."""

SKY, ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, CAR, PERSON = range(len(WORLD_CLASSES))

DOMAINS: tuple[str, ...] = ("clear", "dusk", "night", "fog", "rain", "snow")
SENSORS: tuple[str, ...] = ("camera", "depth", "thermal")
