"""A trained fusion head: the weights that fuse several sensors' features, as one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle.files import named, read_regular, write_whole
from mile_edge.bundle.fusion import FUSIONS, FusionLayout
from mile_edge.bundle.labels import ClassLabel, class_labels
from mile_edge.bundle.strict_json import Fields, check_plain, fields_of_texts, shown
from mile_edge.bundle.tensor_file import Tensor, read_tensors, write_tensors
from mile_edge.errors import FusionError

FORMAT = "mile-edge-fusion"
SCHEMA = 1
MAX_BYTES = 64 << 20
MAX_NUMBER = 1e6
REMEDY = "train it again: mile-edge train fusion"


@dataclass(frozen=True, eq=False)
class FusionHead:
    """A trained head.

    base_sha256, hidden: what it was trained on; kind, width: as in `FusionLayout`; classes: its label space;
    weights: name -> array of the layout's shapes, one row per class of `classes` where `per_class`;
    training, scores: JSON objects for people and reports.
    """

    base_sha256: str
    kind: str
    width: int
    hidden: int
    classes: tuple[ClassLabel, ...]
    weights: Mapping[str, NDArray[np.floating]]
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> FusionLayout:
        """Of this head alone, its own classes and no more."""
        return FusionLayout(self.kind, self.width, self.hidden, len(self.classes))


def head_bytes(head: FusionHead) -> bytes:
    """A head as the bytes of its file, equal for equal heads.

    Raises:
        FusionError: it would be refused on reading.
    """
    for name in ("training", "scores"):
        try:
            check_plain(getattr(head, name))
        except ValueError as error:
            raise FusionError(f"fusion head has {name} that {error}; give plain JSON values") from None
    metadata = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "base_sha256": head.base_sha256,
        "kind": head.kind,
        "width": str(head.width),
        "hidden": str(head.hidden),
        "classes": json.dumps([{"name": label.name, "color": list(label.color)} for label in head.classes]),
        "training": json.dumps(head.training, sort_keys=True),
        "scores": json.dumps(head.scores, sort_keys=True),
    }
    data = write_tensors({name: np.asarray(array).astype("<f4") for name, array in head.weights.items()}, metadata)
    parse_head(data, "fusion head")
    return data


def write_head(path: str | os.PathLike[str], head: FusionHead) -> None:
    """Write a head's file atomically: whoever opens the path sees the old file or the whole new one.

    Raises:
        FusionError: the head would be refused on reading, or the file cannot be written.
    """
    write_whole(Path(path), head_bytes(head), f"fusion file {named(path)}", FusionError)


def read_head(path: str | os.PathLike[str]) -> FusionHead:
    """Read a head's file.

    Raises:
        FusionError: the path is not a plain file of at most 64 MiB, no fusion head, or its numbers make no sense.
    """
    where = f"fusion file {named(path)}"
    return parse_head(read_regular(path, MAX_BYTES, where, FusionError), where)


def parse_head(data: bytes, where: str) -> FusionHead:
    """A head from the bytes of its file; `where` is how messages name it.

    Raises:
        FusionError: see `read_head`.
    """
    try:
        tensors, metadata = read_tensors(data)
    except ValueError as error:
        raise FusionError(f"{where} {error}; fetch or write it again") from None
    if metadata.get("format") != FORMAT:
        raise FusionError(f"{where} is a safetensors file but no fusion head; make one with mile-edge train fusion")
    try:
        return _head(tensors, _structured(metadata))
    except FusionError as error:
        raise FusionError(f"{where}: {error}") from None


def check_head(head: FusionHead, layout: FusionLayout, base_sha256: str, where: str) -> None:
    """Refuse a head that a bundle's graph cannot take.

    Raises:
        FusionError: it belongs to another base, or to a graph of another kind or width.
    """
    for name, found, wanted in (
        ("base", head.base_sha256[:12], base_sha256[:12]),
        ("kind", head.kind, layout.kind),
        ("width", head.width, layout.width),
        ("decoder width", head.hidden, layout.hidden),
    ):
        if found != wanted:
            raise FusionError(f"{where} is for {name} {found} and this bundle has {wanted}; {REMEDY}")


def _structured(metadata: dict[str, str]) -> Fields:
    return fields_of_texts(
        metadata,
        integers=("schema", "width", "hidden"),
        values=("classes", "training", "scores"),
        error=FusionError,
        remedy=REMEDY,
    )


def _head(tensors: Mapping[str, Tensor], meta: Fields) -> FusionHead:
    meta.take("format")
    meta.integer("schema", 1, SCHEMA)
    head = FusionHead(
        base_sha256=meta.sha256("base_sha256"),
        kind=meta.choice("kind", FUSIONS),
        width=meta.integer("width", 1, 4096),
        hidden=meta.integer("hidden", 1, 2**16),
        classes=class_labels(meta.inners("classes", 1, 255)),
        weights={name: tensor.array for name, tensor in sorted(tensors.items())},
        training=meta.mapping("training"),
        scores=meta.mapping("scores"),
    )
    meta.finish()
    shapes = head.layout.shapes
    for name in (*shapes, *tensors):
        if name not in tensors or name not in shapes:
            why = "missing" if name in shapes else "not part of this kind of head"
            raise FusionError(f"tensor {shown(name)} is {why}; {REMEDY}")
        array = tensors[name].array
        if array.shape != shapes[name]:
            raise FusionError(f"tensor {shown(name)} has shape {array.shape} instead of {shapes[name]}; {REMEDY}")
        if not np.isfinite(array).all() or np.abs(array).max(initial=0) > MAX_NUMBER:
            raise FusionError(f"tensor {shown(name)} holds numbers beyond {MAX_NUMBER:g}; {REMEDY}")
    return head
