"""One expert: what a trainer hands over and a robot loads, as a frozen dataclass and as one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle.adapter_tensors import STORED, Pair, is_of_pair, pair_bytes, read_pairs, write_pairs
from mile_edge.bundle.checks import MAX_COUNT, check_numbers
from mile_edge.bundle.files import named, read_regular, write_whole
from mile_edge.bundle.labels import ClassLabel, class_labels
from mile_edge.bundle.manifest import TAPS
from mile_edge.bundle.package import Package, read_package
from mile_edge.bundle.strict_json import Fields, check_plain, fields_of_texts, shown
from mile_edge.bundle.tensor_file import Tensor, content_digest, read_tensors, write_tensors
from mile_edge.errors import ExpertError

FORMAT = "mile-edge-expert"
# Schema 1 knew fp16 only; files in fp16 still say 1, so that an older mile-edge reads them.
SCHEMA = 2
MAX_BYTES = 64 << 20
ADAPTERS = ("low_rank", "self_activated", "none")
REMEDY = "write it again with this mile-edge"
FLOATS = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Expert:
    """An expert's numbers and where they come from.

    name: lower-case letters, digits, - and _.
    base_sha256, rank, tap: what it was trained on; a bundle with others refuses it.
    adapter: "low_rank"; "self_activated" for ranks that weigh themselves token by token; or "none" for the base's own
        file and for statistics without an adapter.
    low_rank: layer name -> (A (rank, in), B (out, rank)), scaling already folded into B; empty for "none".
    stored: "fp16" or "int8", what the file holds A and B in; see `mile_edge.bundle.adapter_tensors`.
    classifier_weight: (C, hidden); classifier_bias: (C,); classes: C labels in the same order.
    mean: (D,) mean of the gate's feature over `count` frames.
    scatter: (D, D) sum of outer products of the centred features.
    prototypes: (K, D) for a k-means gate, or None: the mean is the only prototype.
    attributes: what its frames have in common with some other experts', such as "night"; empty = sensors and domains.
    features: (N, D) gate features of N frames, kept for a gate that is fitted on those of all experts, or None.
    sensors: kinds it was trained for, empty = any; domains: conditions it was trained in, "*" = any.
    training, scores: JSON objects for people and reports; nothing reads a decision from them.
    package: version and signature of a published expert; None for a plain one. A signature holds for this very content.
    """

    name: str
    base_sha256: str
    rank: int
    adapter: str
    low_rank: Mapping[str, Pair]
    classifier_weight: FLOATS
    classifier_bias: FLOATS
    classes: tuple[ClassLabel, ...]
    mean: FLOATS
    scatter: FLOATS
    count: int
    prototypes: FLOATS | None = None
    sensors: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    tap: str = "early"
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    features: FLOATS | None = None
    attributes: tuple[str, ...] = ()
    package: Package | None = None
    stored: str = "fp16"

    def sizes(self) -> dict[str, int]:
        """Bytes on disk: "adapter" (as stored), "head" (fp32), "gate" (statistics in fp32, kept features in fp16)."""
        prototypes = 0 if self.prototypes is None else self.prototypes.size
        features = 0 if self.features is None else self.features.size
        return {
            "adapter": pair_bytes(self.low_rank, self.stored),
            "head": 4 * (self.classifier_weight.size + self.classifier_bias.size),
            "gate": 4 * (self.mean.size + self.scatter.size + prototypes) + 2 * features,
        }

    def __eq__(self, other: object) -> bool:
        """Equal in every field, arrays in every number and shape."""
        if not isinstance(other, Expert):
            return NotImplemented
        return all(_same(getattr(self, each.name), getattr(other, each.name)) for each in fields(self))


def read_expert(path: str | os.PathLike[str]) -> Expert:
    """Read one expert file.

    Returns:
        The expert; arrays are read-only float32, A and B with the precision that they are stored in.

    Raises:
        ExpertError: the path is not a plain file of at most 64 MiB, not an expert file, or its numbers make no sense.
    """
    where = f"expert file {named(path)}"
    return parse_expert(read_regular(path, MAX_BYTES, where, ExpertError), where)


def write_expert(path: str | os.PathLike[str], expert: Expert) -> None:
    """Write one expert file atomically: whoever opens the path sees the old file or the whole new one.

    Raises:
        ExpertError: the expert would be refused on reading, or the file cannot be written.
    """
    write_whole(Path(path), expert_bytes(expert), f"expert file {named(path)}", ExpertError)


def expert_bytes(expert: Expert) -> bytes:
    """An expert as the bytes of its file, equal for equal experts.

    Raises:
        ExpertError: it would be refused on reading, also because a number of A or B does not fit fp16.
    """
    where = f"expert {shown(expert.name)}"
    for name in ("training", "scores", "sensors", "domains", "attributes"):
        try:
            check_plain(getattr(expert, name))
        except ValueError as error:
            raise ExpertError(f"{where} has {name} that {error}; give plain JSON values") from None
    if expert.stored not in STORED:
        raise ExpertError(f"{where} is to be stored in {shown(expert.stored)}; choose {' or '.join(STORED)}")
    quantized = expert.stored == "int8" and bool(expert.low_rank)
    if quantized:
        check_numbers(expert, where)
    try:
        tensors = _tensors(expert)
    except (TypeError, ValueError) as error:
        raise ExpertError(f"{where} has an array that is not numbers ({error}); give numpy arrays") from None
    metadata = {
        "format": FORMAT,
        "schema": "2" if quantized else "1",
        "name": expert.name,
        "base_sha256": expert.base_sha256,
        "rank": str(expert.rank),
        "adapter": expert.adapter,
        "tap": expert.tap,
        "count": str(expert.count),
        "classes": json.dumps([{"name": label.name, "color": list(label.color)} for label in expert.classes]),
        "sensors": json.dumps(list(expert.sensors)),
        "domains": json.dumps(list(expert.domains)),
        "training": json.dumps(expert.training, sort_keys=True),
        "scores": json.dumps(expert.scores, sort_keys=True),
    }
    if expert.attributes:
        metadata["attributes"] = json.dumps(list(expert.attributes))
    if expert.package is not None:
        metadata["package"] = expert.package.statement()
    metadata["digest"] = content_digest(tensors, metadata)
    if expert.package is not None and expert.package.signature:
        metadata["signature"] = expert.package.signature
    data = write_tensors(tensors, metadata)
    parse_expert(data, where)
    return data


def parse_expert(data: bytes, where: str, *, check_digest: bool = True) -> Expert:
    """An expert from the bytes of its file.

    Args:
        data: the whole file.
        where: how messages name it.
        check_digest: compare the content with the digest inside; a bundle has compared the whole file's hash already.

    Raises:
        ExpertError: see `read_expert`.
    """
    if len(data) > MAX_BYTES:
        raise ExpertError(f"{where} would have {len(data)} bytes and at most {MAX_BYTES} are read; use a smaller rank")
    try:
        tensors, metadata = read_tensors(data)
    except ValueError as error:
        raise ExpertError(f"{where} {error}; fetch or write it again") from None
    if metadata.get("format") != FORMAT:
        raise ExpertError(f"{where} is a safetensors file but not an expert of mile-edge; make one with train expert")
    try:
        expert = _expert(tensors, _structured(metadata))
    except ExpertError as error:
        raise ExpertError(f"{where}: {error}") from None
    digest = metadata.pop("digest", None)
    # The signature covers the digest, and so cannot be within it.
    metadata.pop("signature", None)
    if (
        check_digest
        and digest is not None
        and digest != content_digest({name: tensor.array for name, tensor in tensors.items()}, metadata)
    ):
        raise ExpertError(f"{where} is damaged: its content does not match its own digest; fetch or write it again")
    check_numbers(expert, where)
    return expert


def _structured(metadata: dict[str, str]) -> Fields:
    return fields_of_texts(
        metadata,
        integers=("schema", "rank", "count"),
        values=("classes", "sensors", "domains", "attributes", "training", "scores", "package"),
        error=ExpertError,
        remedy=REMEDY,
    )


def _expert(tensors: dict[str, Tensor], meta: Fields) -> Expert:
    meta.take("format")
    schema = meta.peek("schema")
    if type(schema) is int and schema > SCHEMA:
        raise ExpertError(f"its schema is {schema} and this mile-edge reads up to {SCHEMA}; update mile-edge here")
    meta.integer("schema", 1, SCHEMA)
    adapter = meta.choice("adapter", ADAPTERS)
    pairs: dict[str, Tensor] = {}
    plain: dict[str, FLOATS] = {}
    for name, tensor in tensors.items():
        if is_of_pair(name):
            pairs[name] = tensor
        elif name == "gate.features":
            plain[name] = _stored_as(name, tensor, "F16")
        elif name in ("classifier.weight", "classifier.bias", "gate.mean", "gate.scatter", "gate.prototypes"):
            plain[name] = _stored_as(name, tensor, "F32")
        else:
            raise ExpertError(f"tensor {shown(name)} is not part of an expert; {REMEDY}")
    low_rank, stored = read_pairs(pairs)
    for name in ("classifier.weight", "classifier.bias", "gate.mean", "gate.scatter"):
        if name not in plain:
            raise ExpertError(f"tensor {name} is missing; {REMEDY}")
    if meta.peek("digest") is not None:
        meta.sha256("digest")
    expert = Expert(
        name=meta.name("name"),
        base_sha256=meta.sha256("base_sha256"),
        rank=meta.integer("rank", 0, 1024),
        adapter=adapter,
        low_rank=low_rank,
        stored=stored,
        classifier_weight=plain["classifier.weight"],
        classifier_bias=plain["classifier.bias"],
        classes=class_labels(meta.inners("classes", 1, 255)),
        mean=plain["gate.mean"],
        scatter=plain["gate.scatter"],
        count=meta.integer("count", 2, MAX_COUNT),
        prototypes=plain.get("gate.prototypes"),
        sensors=_names(meta, "sensors"),
        domains=_names(meta, "domains"),
        tap=meta.choice("tap", TAPS),
        training=meta.mapping("training"),
        scores=meta.mapping("scores"),
        features=plain.get("gate.features"),
        attributes=() if meta.peek("attributes") is None else _names(meta, "attributes"),
        package=read_package(meta),
    )
    meta.finish()
    return expert


def _names(meta: Fields, key: str) -> tuple[str, ...]:
    return tuple(meta.as_text(f"{key}[{index}]", value, 64) for index, value in enumerate(meta.items(key, 0, 256)))


def _stored_as(name: str, tensor: Tensor, dtype: str) -> FLOATS:
    if tensor.dtype != dtype:
        raise ExpertError(f"tensor {shown(name)} has type {tensor.dtype} instead of {dtype}; {REMEDY}")
    return tensor.array


def _tensors(expert: Expert) -> dict[str, FLOATS]:
    # A number beyond fp16 becomes infinite here and is then refused as such, with the tensor's name.
    tensors = write_pairs(expert.low_rank, expert.stored)
    with np.errstate(over="ignore"):
        tensors["classifier.weight"] = np.asarray(expert.classifier_weight).astype("<f4")
        tensors["classifier.bias"] = np.asarray(expert.classifier_bias).astype("<f4")
        tensors["gate.mean"] = np.asarray(expert.mean).astype("<f4")
        tensors["gate.scatter"] = np.asarray(expert.scatter).astype("<f4")
        if expert.prototypes is not None:
            tensors["gate.prototypes"] = np.asarray(expert.prototypes).astype("<f4")
        if expert.features is not None:
            tensors["gate.features"] = np.asarray(expert.features).astype("<f2")
    return tensors


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(_same(left, right) for left, right in zip(one, other, strict=True))
    return bool(one == other)
