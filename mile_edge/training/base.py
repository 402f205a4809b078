"""Training the base: once, with every weight free."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from mile_edge.bundle import ClassLabel
from mile_edge.data.folder import Dataset
from mile_edge.errors import DataError
from mile_edge.network.base import Base, load_base
from mile_edge.training.augment import Augmentation
from mile_edge.training.fit import FitResult, Progress, Schedule, fit


class Logits(nn.Module):
    """A Hugging Face segmentation network that returns its scores and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised pixels to (B, classes, h, w) scores."""
        return self.model(pixel_values=pixels).logits


def train_base(
    source: str,
    data: Sequence[Dataset],
    validation: Sequence[Dataset],
    out: Path,
    *,
    size: tuple[int, int],
    schedule: Schedule,
    augmentation: Augmentation,
    rows: Sequence[int | None] | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    device: str = "cpu",
) -> FitResult:
    """Train every weight of a network and save it as a Hugging Face folder with ``training.json`` beside it.

    Args:
        source: see :func:`mile_edge.network.base.load_base`; a trained folder is trained further.
        data: labelled frames, all with the same classes.
        validation: frames that decide which weights are kept; the last weights where there are none.
        out: the folder to write, replaced as a whole; ``OUT.checkpoint`` is what a killed run resumes from.
        size: (height, width) of the network.
        rows: of the source's classifier that the classes start from, see :func:`mile_edge.network.base.load_base`.
        tell: is given one sentence where the run goes on from its checkpoint, or cannot.
        device: that the steps run on, "cpu" or "cuda".

    Raises:
        DataError: data sets of different classes, or without labels.
        RecipeError: the source cannot be loaded.
    """
    classes = shared_classes([*data, *validation])
    torch.manual_seed(schedule.seed)
    model = load_base(source, len(classes), rows)
    # Dropout on the largest map costs a tenth of the step and helps little beside the random views.
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    network = Logits(model.requires_grad_(True))
    checkpoint = out.with_name(out.name + ".checkpoint")
    held_out = [frame for folder in validation for frame in folder]
    result = fit(
        network,
        [frame for folder in data for frame in folder],
        held_out,
        size=size,
        num_classes=len(classes),
        schedule=schedule,
        augmentation=augmentation,
        checkpoint=checkpoint,
        train_statistics=True,
        report=report,
        tell=tell,
        device=device,
    )
    model.config.id2label = {index: label.name for index, label in enumerate(classes)}
    model.config.label2id = {label.name: index for index, label in enumerate(classes)}
    account = {
        "source": source,
        "data": [str(folder.path) for folder in data],
        "size": list(size),
        "classes": [asdict(label) for label in classes],
        "schedule": asdict(schedule),
        "augmentation": asdict(augmentation),
        "miou": result.miou if held_out else None,
        "seconds": round(result.seconds, 1),
        "history": result.history,
    }
    _save(model, account, out)
    checkpoint.unlink(missing_ok=True)
    return result


def shared_classes(folders: Sequence[Dataset]) -> tuple[ClassLabel, ...]:
    """The classes that all folders agree on.

    Raises:
        DataError: there is no folder, or two disagree.
    """
    if not folders:
        raise DataError("no data set was given; name at least one folder with images/ and labels/")
    for folder in folders[1:]:
        if folder.classes != folders[0].classes:
            raise DataError(f"{folder.path} and {folders[0].path} have different classes; train them apart")
    return folders[0].classes


def _save(model: Base, account: Mapping[str, object], out: Path) -> None:
    aside = out.with_name(out.name + ".aside")
    shutil.rmtree(aside, ignore_errors=True)
    model.eval().save_pretrained(aside)
    (aside / "training.json").write_text(json.dumps(account, indent=1))
    if out.exists():
        replaced = out.with_name(out.name + ".replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        out.rename(replaced)
        aside.rename(out)
        shutil.rmtree(replaced)
    else:
        aside.rename(out)
