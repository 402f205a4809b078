"""Class maps: from the label ids of a bag to the label space of a bundle.

A class map is a YAML file that gives each source class, by id or by name, a class of the bundle, or 255 for void::

    source: classes.yaml    # needed only where source classes are given by name: its `classes` list their ids
    sky: sky
    pavement: sidewalk      # by the source's name
    8: car                  # by the source's id
    bicyclist: 255          # no such class here: void

Ids that the map does not name are outside the label space: a label that holds one is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mile_edge.data.folder import VOID
from mile_edge.errors import DataError
from mile_edge.yaml_file import read_yaml

OUTSIDE = -1


def identity_map(classes: int) -> np.ndarray:
    """(256,) int16: ids below `classes` and void map to themselves, all others to `OUTSIDE`."""
    table = np.full(256, OUTSIDE, np.int16)
    table[:classes] = np.arange(classes)
    table[VOID] = VOID
    return table


def read_class_map(path: Path | str, names: Sequence[str]) -> np.ndarray:
    """Read a class map.

    Args:
        path: the YAML file.
        names: classes of the bundle; the place is the id.

    Returns:
        (256,) int16: the bundle's id for each source id, 255 for void, `OUTSIDE` for ids that the map does not name.

    Raises:
        DataError: the file cannot be read, or a class on either side does not exist.
    """
    path = Path(path)
    entries = _load(path)
    source = _source_ids(path, entries.pop("source")) if "source" in entries else {}
    table = np.full(256, OUTSIDE, np.int16)
    table[VOID] = VOID
    for key, value in entries.items():
        table[_source_id(path, key, source)] = _target_id(path, value, names)
    return table


def starting_rows(path: Path | str, names: Sequence[str], source: Sequence[str] = ()) -> tuple[int | None, ...]:
    """Which source class each class is like, for a classifier that starts from another's rows.

    Of several source classes that become one, the first in the file counts: half a bus and half a car is neither.

    Args:
        path: a class map.
        names: the classes that it leads to.
        source: names of the source classes, where they are known; the file's own `source` comes first.

    Returns:
        For each of ``names`` a source class, ``None`` where the map gives it none.

    Raises:
        DataError: as for :func:`read_class_map`.
    """
    path = Path(path)
    entries = _load(path)
    given = entries.pop("source", [{"id": row, "name": name} for row, name in enumerate(source)])
    ids = _source_ids(path, given)
    rows: dict[int, int] = {}
    for key, value in entries.items():
        rows.setdefault(_target_id(path, value, names), _source_id(path, key, ids))
    return tuple(rows.get(place) for place in range(len(names)))


def apply_class_map(label: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Map a label (H, W) uint8 to the bundle's ids (H, W) uint8, 255 = void.

    Raises:
        DataError: the label holds an id outside the label space.
    """
    mapped: np.ndarray = table[label]
    if (mapped == OUTSIDE).any():
        stray = int(label[mapped == OUTSIDE].min())
        raise DataError(f"A label holds the id {stray}, which the label space does not have; give a class map.")
    return mapped.astype(np.uint8)


def _load(path: Path) -> dict[Any, Any]:
    values = read_yaml(path, "class map", DataError)
    if not isinstance(values, dict) or not values:
        raise DataError(f"The class map '{path}' is not a mapping; write lines such as 'pavement: sidewalk'.")
    return dict(values)


def _source_ids(path: Path, source: Any) -> dict[str, int]:
    """Names to ids of the label space that the bag was labelled in."""
    listed = source
    if isinstance(source, str):
        listed = _load(path.parent / source).get("classes")
    try:
        return {str(entry["name"]): int(entry["id"]) for entry in listed}
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        raise DataError(
            f"The source of the class map '{path}' lists no classes; each needs an id and a name, as in classes.yaml."
        ) from None


def _source_id(path: Path, key: Any, source: dict[str, int]) -> int:
    number = source.get(key, key) if isinstance(key, str) else key
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < VOID:
        hint = "name its file under 'source'" if not source else f"it has {', '.join(source)}"
        raise DataError(f"The class map '{path}' names the source class {key!r}, which is unknown; {hint}.")
    return number


def _target_id(path: Path, value: Any, names: Sequence[str]) -> int:
    if value == VOID and not isinstance(value, bool):
        return VOID
    if value not in names:
        raise DataError(
            f"The class map '{path}' names the class {value!r}, which the bundle does not have; it has "
            f"{', '.join(names)}, or 255 for void."
        )
    return list(names).index(value)
