"""Whole networks in a study: the frozen base that all methods start from, and networks that are trained whole."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mile_edge.bundle import Bundle, ClassLabel, Expert
from mile_edge.errors import RecipeError
from mile_edge.export.bundle import base_of
from mile_edge.network.base import Base, base_from_weights, base_sha256, config_of, describe, load_base
from mile_edge.network.pool import classifier_parameters, replace_module
from mile_edge.studies.cells import Cell, Job, read_result, written
from mile_edge.studies.data import read_frames, union
from mile_edge.training.augment import Augmentation
from mile_edge.training.base import Logits
from mile_edge.training.expert import ExpertTask, Head, assemble
from mile_edge.training.fit import Schedule, fit
from mile_edge.training.statistics import GateStatistics

WEIGHTS = "weights.safetensors"


def base_cell(source: str, folder: Path) -> Cell:
    """The base of a study.

    Args:
        source: as in a recipe.
        folder: that a path is relative to.

    Raises:
        RecipeError: there is no such base.
    """
    if source.startswith("random:"):
        return Cell("base", {"title": source, "content": source, "named": False}, (), {"source": source})
    path = folder / source
    named = (path / "manifest.json").is_file() or (path / "training.json").is_file()
    params = {"title": path.name, "content": _content(path), "named": named}
    return Cell("base", params, (), {"source": str(path.resolve())})


def _content(path: Path) -> str:
    """A digest of a base's weights and classes; a bundle's thresholds and other experts are no part of them."""
    digest = hashlib.sha256()
    if (path / "manifest.json").is_file():
        bundle = Bundle.open(path)
        own = bundle.experts()[0]
        digest.update(bundle.manifest.base.sha256.encode() + repr(own.classes).encode())
        for array in (own.classifier_weight, own.classifier_bias):
            digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()
    names = ("config.json", "model.safetensors", "training.json")
    files = [file for file in (path, *(path / name for name in names)) if file.is_file()]
    if not files:
        raise RecipeError(f"base '{path}' does not exist; give a bundle, the folder of a base or random:segformer-b0")
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def make_base(job: Job) -> None:
    """Bring the base of a study into one form, wherever it comes from."""
    source = Path(job.where["source"])
    classes: tuple[ClassLabel, ...] = ()
    torch.manual_seed(0)
    if (source / "manifest.json").is_file():
        bundle = Bundle.open(source)
        base, classes = base_of(bundle), bundle.experts()[0].classes
    else:
        base = load_base(job.where["source"])
        if (source / "training.json").is_file():
            told = json.loads((source / "training.json").read_text())["classes"]
            classes = tuple(ClassLabel(each["name"], tuple(each["color"])) for each in told)
    result = {
        "config": config_of(base) | {"num_labels": _classifier(base).out_channels},
        "classes": _plain(classes),
        "parameters": sum(parameter.numel() for parameter in base.parameters()),
        "sha256": base_sha256(base),
    }
    with written(job, result) as folder:
        save_file({name: tensor.contiguous() for name, tensor in base.state_dict().items()}, folder / WEIGHTS)


def read_base(folder: Path) -> Base:
    """The network of a base's cell, frozen."""
    config = dict(read_result(folder)["config"])
    config["id2label"] = {place: str(place) for place in range(config.pop("num_labels"))}
    config["label2id"] = {name: place for place, name in config["id2label"].items()}
    return base_from_weights(config, load_file(folder / WEIGHTS))


def own_expert(folder: Path, rank: int) -> Expert | None:
    """The base's own classifier as an expert without an adapter; nothing where its classes have no names."""
    result = read_result(folder)
    classes = read_classes(result)
    if not classes:
        return None
    weight, bias = classifier_parameters(_classifier(read_base(folder)))
    head = Head(weight.detach().flatten(1).numpy().copy(), bias.detach().numpy().copy(), classes)
    nothing = torch.zeros(1, 1).numpy()
    statistics = GateStatistics(nothing[0], nothing, 2)
    return assemble(ExpertTask("base"), statistics, head, {}, result["sha256"], rank, {})


def train_whole(job: Job) -> None:
    """Train every weight of a network on one task, or on several at once, from the base or from another such network.

    Labels of several label spaces are brought into one: classes that came earlier keep their rows, new ones start at
    zero, and all compete, for nobody tells this network which task a frame belongs to.
    """
    params: Any = job.params
    data = [read_frames(folder) for folder in job.needs["data"]]
    start = read_result(job.one("start")) if "start" in job.needs else None
    before = read_classes(start or read_result(job.one("base")))
    classes = union(before if start else (), *(folder.classes for folder in data))
    base = read_base(job.one("base"))
    if start:
        set_classifier(base, before, before)
        base.load_state_dict(load_file(job.one("start") / WEIGHTS))
    set_classifier(base, before, classes)
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    frames = [frame for folder in data for frame in folder.in_space(classes)]
    torch.manual_seed(params["schedule"]["seed"])
    began = time.process_time()
    done = fit(
        Logits(base.requires_grad_(True)),
        frames,
        [],
        size=tuple(params["size"]),
        num_classes=len(classes),
        schedule=Schedule(**params["schedule"]),
        augmentation=augmentation(params["augmentation"]),
        checkpoint=job.checkpoint,
        train_statistics=True,
        report=job.report,
    )
    result = {
        "classes": _plain(classes),
        "seconds": round(done.seconds, 2),
        "processor_seconds": round(time.process_time() - began, 2),
        "frames": len(frames),
        "head": 4 * sum(parameter.numel() for parameter in _classifier(base).parameters()),
        "bytes": 4 * sum(parameter.numel() for parameter in base.parameters()),
    }
    with written(job, result) as folder:
        save_file({name: tensor.detach().contiguous() for name, tensor in base.state_dict().items()}, folder / WEIGHTS)


def read_network(base: Path, folder: Path) -> tuple[nn.Module, tuple[ClassLabel, ...]]:
    """A network that was trained whole, from pixels to scores, and its classes."""
    network, classes = read_base(base), read_classes(read_result(folder))
    set_classifier(network, classes, classes)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return Logits(network.eval()), classes


def set_classifier(base: Base, before: tuple[ClassLabel, ...], classes: tuple[ClassLabel, ...]) -> None:
    """Give a network a classifier for other classes: rows go with their names, new ones start at zero.

    Args:
        before: classes of the rows it has; where they have no names, its first rows are kept.
    """
    old = _classifier(base)
    fresh = nn.Conv2d(old.in_channels, len(classes), kernel_size=1)
    rows = {label.name: row for row, label in enumerate(before)}
    kept = [rows.get(label.name) if before else row for row, label in enumerate(classes)]
    with torch.no_grad():
        for new, source in zip(classifier_parameters(fresh), classifier_parameters(old), strict=True):
            nn.init.zeros_(new)
            for row, place in enumerate(kept):
                if place is not None and place < len(source):
                    new[row] = source[place]
    replace_module(base, describe(base).classifier, fresh)


def read_classes(result: Mapping[str, Any]) -> tuple[ClassLabel, ...]:
    """Classes from a cell's result."""
    return tuple(ClassLabel(name, tuple(color)) for name, color in result["classes"])


def augmentation(settings: Mapping[str, Any]) -> Augmentation:
    """From plain JSON."""
    crop = settings["crop"]
    return Augmentation(
        scale=tuple(settings["scale"]), foreign=settings["foreign"], crop=None if crop is None else tuple(crop)
    )


def _classifier(base: Base) -> nn.Conv2d:
    return cast("nn.Conv2d", base.get_submodule(describe(base).classifier))


def _plain(classes: tuple[ClassLabel, ...]) -> list[tuple[str, tuple[int, ...]]]:
    return [(label.name, tuple(label.color)) for label in classes]
