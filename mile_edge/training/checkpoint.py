"""Training state on disk, without pickle: safetensors with the bookkeeping in its header, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint held."""

    tensors: dict[str, torch.Tensor]
    step: int
    seconds: float
    history: list[tuple[int, float, float]]
    best: float


class Checkpoint:
    """One file that always holds the last finished epoch.

    Args:
        path: the file.
        fingerprint: of everything that decides the run's steps; a checkpoint of another run is not resumed.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint

    def load(self) -> SavedState | None:
        """The saved state, or ``None`` where there is none or it belongs to another run."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                header = file.metadata() or {}
                if header.get("fingerprint") != self.fingerprint:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError:
            return None
        history = [(int(step), float(loss), float(miou)) for step, loss, miou in json.loads(header["history"])]
        return SavedState(tensors, int(header["step"]), float(header["seconds"]), history, float(header["best"]))

    def save(
        self,
        tensors: dict[str, torch.Tensor],
        step: int,
        seconds: float,
        history: Sequence[tuple[int, float, float]],
        best: float,
    ) -> None:
        """Write aside, flush, rename: a kill leaves the old checkpoint or the new one."""
        header = {
            "fingerprint": self.fingerprint,
            "step": str(step),
            "seconds": str(seconds),
            "history": json.dumps(list(history)),
            "best": str(best),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(self.path.name + ".aside")
        save_file(tensors, aside, header)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(self.path)
