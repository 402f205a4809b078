"""Training state on disk, without pickle: safetensors with the bookkeeping in its header, replaced atomically."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mile_edge.bundle.files import named, sync_folder
from mile_edge.errors import RecipeError

# Seconds of training that a kill or a power cut may cost.
EVERY_S = 60.0


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint held; ``loss`` is the sum over the steps of the epoch that had begun."""

    tensors: dict[str, torch.Tensor]
    step: int
    seconds: float
    history: list[tuple[int, float, float]]
    best: float
    loss: float = 0.0


class Checkpoint:
    """One file that always holds the last state saved.

    Args:
        path: the file.
        fingerprint: of everything that decides the run's steps; a checkpoint of another run is not resumed.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint

    def load(self, tell: Callable[[str], None] = lambda _: None) -> SavedState | None:
        """The saved state, or ``None`` where there is none that this run could go on from.

        Args:
            tell: is given the sentence that says why a file that is there is not gone on from.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                header = file.metadata() or {}
                if header["fingerprint"] != self.fingerprint:
                    tell(f"checkpoint {named(self.path)} is of other data or settings; training starts anew")
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if header["crc32"] != _crc32(tensors):
                raise ValueError("its numbers are not those that were written")
            history = [(int(step), float(loss), float(miou)) for step, loss, miou in json.loads(header["history"])]
            step, seconds, best, loss = (float(header[key]) for key in ("step", "seconds", "best", "loss"))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            tell(f"checkpoint {named(self.path)} is torn or damaged and is refused; training starts anew")
            return None
        return SavedState(tensors, int(step), seconds, history, best, loss)

    def save(
        self,
        tensors: dict[str, torch.Tensor],
        step: int,
        seconds: float,
        history: Sequence[tuple[int, float, float]],
        best: float,
        loss: float = 0.0,
    ) -> None:
        """Write aside, flush, rename: a kill or a power cut leaves the old checkpoint or the new one.

        Raises:
            RecipeError: the disk refused; the old one is still there.
        """
        header = {
            "fingerprint": self.fingerprint,
            "crc32": _crc32(tensors),
            "step": str(step),
            "seconds": str(seconds),
            "history": json.dumps(list(history)),
            "best": str(best),
            "loss": str(loss),
        }
        aside = self.path.with_name(self.path.name + ".aside")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, aside, header)
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            aside.replace(self.path)
            sync_folder(self.path.parent)
        except (OSError, SafetensorError) as problem:
            why = getattr(problem, "strerror", None) or str(problem).splitlines()[0]
            raise RecipeError(f"checkpoint {named(self.path)} cannot be written ({why}); make room for it") from None


def _crc32(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of all numbers: the format itself notices a file that was cut, but not numbers that are others."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(name.encode(), total))
    return f"{total:08x}"
