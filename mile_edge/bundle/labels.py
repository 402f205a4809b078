"""A class and its colour: what an expert brings and a bundle collects."""

from __future__ import annotations

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
