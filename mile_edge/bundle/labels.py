"""A class and its colour: what an expert brings and a bundle collects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mile_edge.bundle.strict_json import Fields


@dataclass(frozen=True)
class ClassLabel:
    """A class and its colour (red, green, blue), each 0..255; its id is its place in `Manifest.classes`."""

    name: str
    color: tuple[int, int, int]


def class_labels(fields: list[Fields]) -> tuple[ClassLabel, ...]:
    """Classes from their JSON form; refuses a name or a colour that two of them share."""
    labels: list[ClassLabel] = []
    for entry in fields:
        name = entry.text("name", 64)
        color = entry.items("color", 3, 3)
        for part in color:
            if type(part) is not int or not 0 <= part <= 255:
                entry.fail(entry.path("color"), color, "three whole numbers from 0 to 255")
        entry.finish()
        label = ClassLabel(name, (color[0], color[1], color[2]))
        for other in labels:
            if other.name == label.name or other.color == label.color:
                entry.fail(entry.path("name"), name, f"a name and colour that differ from class {other.name}'s")
        labels.append(label)
    return tuple(labels)


def in_colours_of(known: Sequence[ClassLabel], classes: Sequence[ClassLabel]) -> tuple[ClassLabel, ...]:
    """Another data set's classes beside the known ones: equal names get the known colour, new names a free one.

    Data sets choose their colours without knowing of each other, and one label space has each of them once.
    """
    colours = {label.name: label.color for label in known}
    for label in classes:
        color = label.color
        while label.name not in colours and color in colours.values():
            # An odd step meets all 256 values before it returns.
            color = ((color[0] + 67) % 256, (color[1] + (color[0] + 67) // 256) % 256, color[2])
        colours.setdefault(label.name, color)
    return tuple(ClassLabel(label.name, colours[label.name]) for label in classes)
