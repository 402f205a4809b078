"""What a bundle says about itself: `manifest.json` as frozen dataclasses, strictly validated both ways."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mile_edge.bundle.candidate import Candidate, read_candidate
from mile_edge.bundle.fusion import FusionInfo, FusionLayout, read_fusion
from mile_edge.bundle.gate import Gate, read_gate
from mile_edge.bundle.labels import ClassLabel, class_labels
from mile_edge.bundle.layout import LowRankLayout, read_layout
from mile_edge.bundle.network import BaseInfo, Network, read_base, read_network
from mile_edge.bundle.strict_json import NAME, Fields, check_plain, parse_object
from mile_edge.bundle.versions import SeenVersion, read_versions
from mile_edge.errors import BundleError

SCHEMA = 1
MAX_EXPERTS = 4096
# The bank and the prototypes are allocated from these products, so a manifest may not ask for more than a robot has.
MAX_BANK_NUMBERS = 2**31
TAPS = ("entry", "early", "full")
REMEDY = "restore manifest.json from a copy or export the bundle again"


@dataclass(frozen=True)
class ExpertEntry:
    """One expert of the bundle: its name, its file relative to the bundle, and that file's SHA-256."""

    name: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that `manifest.json` says. The first of `experts` is the base, row 0 of every bank.

    The others' rows are each running bank's own: a place in `experts` changes when one before it goes, a row does not.

    candidate: the expert in shadow, in no row; versions: the newest seen of each packaged expert, also of removed ones.
    """

    name: str
    base: BaseInfo
    classes: tuple[ClassLabel, ...]
    network: Network
    low_rank: LowRankLayout
    gate: Gate
    capacity: int
    sensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    experts: tuple[ExpertEntry, ...] = ()
    base_graph: Network | None = None
    candidate: Candidate | None = None
    versions: dict[str, SeenVersion] = field(default_factory=dict)
    fusion: FusionInfo | None = None
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read a manifest.

        Raises:
            BundleError: it is not strict JSON, of another schema, or a field is missing, unknown or out of range.
        """
        try:
            value = parse_object(text)
        except ValueError as error:
            raise BundleError(f"manifest {error}; {REMEDY}") from None
        schema = value.get("schema")
        if type(schema) is int and schema > SCHEMA:
            raise BundleError(
                f"manifest has schema {schema} and this mile-edge reads up to {SCHEMA}; update mile-edge here"
            )
        return _manifest(Fields(value, "", BundleError, REMEDY))

    def to_json(self) -> str:
        """The manifest as text, the same for equal manifests.

        Raises:
            BundleError: a field would be refused on reading.
        """
        values = asdict(self)
        # What only some bundles have is left out of the others, so that older versions read those.
        values["gate"] = {key: value for key, value in values["gate"].items() if value not in (None, ())}
        for key in ("candidate", "versions", "fusion"):
            if not values[key]:
                del values[key]
        for layer in values["low_rank"]["layers"]:
            if layer["rank"] is None:
                del layer["rank"]
        try:
            check_plain(values)
        except ValueError as error:
            raise BundleError(f"manifest {error}; give plain JSON values in config and sensors") from None
        text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"
        Manifest.from_json(text)
        return text

    @property
    def fusion_layout(self) -> FusionLayout | None:
        """Where each weight of a fusion head lies in the vector that the graph takes; None without fusion."""
        if self.fusion is None:
            return None
        return FusionLayout(self.fusion.kind, self.fusion.width, self.low_rank.hidden, self.low_rank.max_classes)

    def entry(self, name: str) -> ExpertEntry:
        """The expert of that name.

        Raises:
            BundleError: there is none.
        """
        for entry in self.experts:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.experts[:8]) + (", ..." if len(self.experts) > 8 else "")
        raise BundleError(f"bundle {self.name!r} has no expert {name!r}; it has {known or 'none'}")

    def class_ids(self, classes: Iterable[ClassLabel]) -> tuple[int, ...]:
        """The id of each class in this bundle's label space, in the order given.

        Raises:
            BundleError: a class is not in the bundle.
        """
        ids = {label: index for index, label in enumerate(self.classes)}
        try:
            return tuple(ids[label] for label in classes)
        except KeyError as error:
            raise BundleError(
                f"class {error.args[0].name!r} is not in bundle {self.name!r}; add its expert first"
            ) from None

    def with_expert(self, entry: ExpertEntry, classes: Sequence[ClassLabel]) -> Manifest:
        """The manifest with an expert in the next row, or in the row of the one of its name, whose calibration goes.

        Its new classes are appended; existing ids do not move.
        """
        new = tuple(label for label in classes if label not in self.classes)
        experts = tuple(entry if other.name == entry.name else other for other in self.experts)
        return replace(
            self,
            experts=experts if entry in experts else (*experts, entry),
            classes=self.classes + new,
            gate=self.gate.without(entry.name),
        )

    def without_expert(self, name: str) -> Manifest:
        """The manifest without an expert; classes stay, so that ids keep their meaning.

        Raises:
            BundleError: there is no such expert, or it is the base.
        """
        entry = self.entry(name)
        if entry == self.experts[0]:
            raise BundleError(f"expert {name!r} is the base of bundle {self.name!r} and stays; remove another one")
        return replace(
            self,
            experts=tuple(other for other in self.experts if other != entry),
            gate=self.gate.without(name),
        )


def expert_file(name: str, sha256: str) -> str:
    """Where an expert's file lies, relative to the bundle."""
    return f"experts/{name}-{sha256[:8]}.safetensors"


def _manifest(fields: Fields) -> Manifest:
    fields.integer("schema", 1, SCHEMA)
    name = fields.text("name", 128)
    base = read_base(fields.inner("base"))
    low_rank = read_layout(fields.inner("low_rank"))
    classes = class_labels(fields.inners("classes", 0, low_rank.max_classes))
    network = read_network(fields.inner("network"))
    graph_value = fields.take("base_graph")
    base_graph = None if graph_value is None else read_network(Fields(graph_value, "base_graph", BundleError, REMEDY))
    if base_graph is not None and base_graph.file == network.file:
        fields.fail("base_graph.file", base_graph.file, "another file than network.file")
    fusion = None if fields.peek("fusion") is None else read_fusion(fields.inner("fusion"))
    capacity = fields.integer("capacity", 1, MAX_EXPERTS)
    experts = _experts(fields, capacity)
    gate = read_gate(fields.inner("gate"), TAPS, {entry.name for entry in experts}, capacity)
    if (capacity + 1) * max(low_rank.row_length, gate.prototypes * gate.dim) > MAX_BANK_NUMBERS:
        fields.fail("capacity", capacity, f"a bank of at most {MAX_BANK_NUMBERS} numbers")
    sensors = _sensors(fields)
    candidate = None if fields.peek("candidate") is None else read_candidate(fields.inner("candidate"))
    if candidate is not None and candidate.file != expert_file(candidate.name, candidate.sha256):
        fields.fail("candidate.file", candidate.file, "the path of its name and hash")
    versions = read_versions(fields, REMEDY)
    fields.finish()
    return Manifest(
        name,
        base,
        classes,
        network,
        low_rank,
        gate,
        capacity,
        sensors,
        experts,
        base_graph,
        candidate,
        versions,
        fusion,
    )


def _experts(fields: Fields, capacity: int) -> tuple[ExpertEntry, ...]:
    experts: list[ExpertEntry] = []
    seen: set[str] = set()
    for entry in fields.inners("experts", 0, capacity + 1):
        expert = ExpertEntry(entry.name("name"), entry.text("file"), entry.sha256("sha256"))
        if expert.name in seen:
            entry.fail(entry.path("name"), expert.name, "a name that no other expert has")
        if expert.file != expert_file(expert.name, expert.sha256):
            entry.fail(entry.path("file"), expert.file, f"the path {expert_file(expert.name, expert.sha256)}")
        entry.finish()
        seen.add(expert.name)
        experts.append(expert)
    return tuple(experts)


def _sensors(fields: Fields) -> dict[str, dict[str, Any]]:
    sensors = fields.mapping("sensors")
    for kind, profile in sensors.items():
        if not NAME.fullmatch(kind):
            fields.fail("sensors", kind, "a sensor kind such as camera, depth or thermal")
        if not isinstance(profile, dict):
            fields.fail(f"sensors.{kind}", profile, "an object")
    return sensors
