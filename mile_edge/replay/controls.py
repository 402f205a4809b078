"""Routing that knows everything or nothing, to hold a gate against: oracle and random, by pinning experts."""

from __future__ import annotations

import numpy as np

from mile_edge.data.folder import FolderDataset
from mile_edge.errors import DataError, RecipeError
from mile_edge.replay.gate import right_expert
from mile_edge.runtime import Segmenter

ROUTINGS = ("gate", "oracle", "random")


class Control:
    """Who chooses the experts of a segmenter.

    Args:
        segmenter: its gate is overruled unless the routing is ``gate``.
        routing: one of ``ROUTINGS``.
        seed: of chance.

    Raises:
        RecipeError: the seed is negative.
    """

    def __init__(self, segmenter: Segmenter, routing: str, seed: int = 0) -> None:
        self._segmenter, self._routing = segmenter, routing
        if seed < 0:
            raise RecipeError(f"The seed of chance is {seed}; give 0 or more.")
        self._random = np.random.default_rng(seed)

    def before_folder(self, folder: FolderDataset) -> None:
        """The oracle pins the expert that is right for the folder's sensor and domain.

        Raises:
            DataError: no expert is.
        """
        if self._routing != "oracle":
            return
        right = right_expert(self._segmenter.bundle.choices(), folder.sensor, folder.domain)
        if right is None:
            raise DataError(
                f"no expert is right for {folder.sensor} frames of domain {folder.domain!r} in {folder.path}; name "
                "another with --domain, or leave the choice to the gate"
            )
        self._segmenter.pin(right)

    def before_frame(self) -> None:
        """Chance pins an expert, the base among them, each with the same probability."""
        if self._routing == "random":
            self._segmenter.pin(str(self._random.choice(self._segmenter.experts)))
