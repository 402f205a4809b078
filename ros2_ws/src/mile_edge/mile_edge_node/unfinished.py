"""The training that a node has begun and not ended: what a kill or a power cut leaves to go on with, with no ROS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

from mile_edge.bundle.files import named, read_regular, write_whole
from mile_edge.bundle.strict_json import parse_object
from mile_edge.errors import RecipeError
from mile_edge_node.trainer import Order

_MAX_BYTES = 1 << 16


class Unfinished:
    """One file in the folder of trainings; it is there from the start of a training until its end.

    Args:
        folder: of trainings; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "unfinished.json"

    def keep(self, order: Order) -> None:
        """Remember an order.

        Raises:
            RecipeError: the folder cannot be written.
        """
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps(asdict(order)).encode(), f"training record {named(self._file)}", RecipeError)

    def read(self, tell: Callable[[str], None] = lambda _: None) -> Order | None:
        """The order that was not ended, None where there is none.

        Args:
            tell: is given the sentence that says why a record that is there is not understood.
        """
        where = f"training record {named(self._file)}"
        if not self._file.exists():
            return None
        try:
            order = Order(**parse_object(read_regular(self._file, _MAX_BYTES, where, RecipeError)))
            if not all(type(getattr(order, each.name)).__name__ == each.type for each in fields(Order)):
                raise TypeError
            if not 0 <= order.steps < 1 << 32:
                raise ValueError
        except RecipeError as problem:
            tell(str(problem))
        except (ValueError, TypeError):
            tell(f"{where} is damaged; send the goal of the training again")
        else:
            return order
        return None

    def forget(self) -> None:
        """The training has ended, one way or the other."""
        with contextlib.suppress(OSError):
            self._file.unlink()
