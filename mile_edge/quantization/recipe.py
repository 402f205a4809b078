"""Calibration recipes: how a bundle becomes int8; YAML files under ``calib/recipes`` at the top of the repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mile_edge.errors import RecipeError
from mile_edge.quantization.ranges import METHODS
from mile_edge.yaml_file import read_settings

FEWEST = 8


@dataclass(frozen=True)
class Int8Recipe:
    """What decides which layers become int8, and how.

    Attributes:
        ranges: ``percentile``, ``entropy`` or ``minmax``: where an activation saturates.
        percentile: of an activation's magnitudes that must not saturate.
        exclude: regular expressions; layers that one of them matches in full are never quantised.
        max_drop: points of mIoU that no folder may lose.
        max_rerouted: percent of frames that may go to another expert.
        max_shift: percent by which the distances to the chosen expert may change on average; novelty thresholds are
            distances, so they keep their meaning only within this.
        limit: frames for the ranges, and as many others to judge by.
    """

    ranges: str = "percentile"
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    max_drop: float = 1.0
    max_rerouted: float = 0.2
    max_shift: float = 2.0
    limit: int = 64

    def __post_init__(self) -> None:
        """Raises RecipeError where a value cannot work."""
        rules: list[tuple[str, bool, str]] = [
            ("ranges", self.ranges in METHODS, f"one of {', '.join(METHODS)}"),
            ("percentile", _between(self.percentile, 90, 100), "90 to 100"),
            ("max_drop", _between(self.max_drop, 0, 100), "0 to 100 points"),
            ("max_rerouted", _between(self.max_rerouted, 0, 100), "0 to 100 percent"),
            ("max_shift", _between(self.max_shift, 0, 1000), "0 to 1000 percent"),
            ("limit", type(self.limit) is int and FEWEST <= self.limit <= 100_000, f"{FEWEST} to 100000 frames"),
        ]
        for key, good, expected in rules:
            if not good:
                raise RecipeError(f"{key} is {getattr(self, key)!r}; give {expected}")
        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except (re.error, TypeError, RecursionError, OverflowError) as error:
                raise RecipeError(f"exclude holds {pattern!r}, no regular expression ({error}); mend it") from None

    def excludes(self, layer: str) -> bool:
        """Whether a layer stays as it is whatever it costs."""
        return any(re.fullmatch(pattern, layer) for pattern in self.exclude)


def load_int8_recipe(path: Path | str) -> dict[str, Any]:
    """The settings of a recipe file, for :class:`Int8Recipe`.

    Raises:
        RecipeError: no such file, no YAML, or an unknown key; the key is named.
    """
    settings = read_settings(path, Int8Recipe, "calib/recipes")
    exclude = settings.get("exclude", [])
    if not isinstance(exclude, list):
        raise RecipeError(f"recipe '{path}' has exclude {exclude!r}; give a list of regular expressions")
    return {**settings, "exclude": tuple(exclude)}


def _between(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
