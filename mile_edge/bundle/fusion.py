"""Fusion of several sensors as a bundle describes it: which paths, how the weights lie in a vector, which files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle.network import Network, read_network
from mile_edge.bundle.strict_json import Fields

if TYPE_CHECKING:
    from mile_edge.bundle.fusion_head import FusionHead

# What is fused: the mean over the sensors present, a mean whose weights a router gives, or both; "aux" adds a second
# decoder that judges blocks of the fused features.
FUSIONS = ("uniform", "routed", "both", "both-aux")
AUX_SCALES = (2, 4, 8)
WIDTH = 128


@dataclass(frozen=True)
class FusionLayout:
    """Where each weight lies in the vector that the graph takes: row-major, in the order of `shapes`.

    kind: one of FUSIONS; width: F, numbers per pixel that are fused; hidden: H, of the base's decoder; max_classes: C.
    """

    kind: str
    width: int
    hidden: int
    max_classes: int

    @property
    def uniform(self) -> bool:
        """Whether the plain mean over sensors is one of the paths."""
        return self.kind != "routed"

    @property
    def routed(self) -> bool:
        """Whether a router's mean is one of the paths."""
        return self.kind != "uniform"

    @property
    def auxiliary(self) -> bool:
        """Whether there is a second decoder."""
        return self.kind == "both-aux"

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight. Those of PER_CLASS have one row per class, in the bundle's label space."""
        width, hidden, classes = self.width, self.hidden, self.max_classes
        shapes: dict[str, tuple[int, ...]] = {
            "embed.weight": (width, hidden),
            "context.weight": (width, hidden),
            "embed.bias": (width,),
        }
        if self.uniform:
            shapes["uniform.weight"] = (width, width)
        if self.routed:
            shapes |= {"route.weight": (width,), "route.context": (hidden,), "routed.weight": (width, width)}
        shapes |= {"main.bias": (width,), "main.weight": (classes, width), "score.bias": (classes,)}
        if self.auxiliary:
            shapes |= {f"aux.{scale}.weight": (classes, width) for scale in AUX_SCALES}
        return shapes

    @property
    def length(self) -> int:
        """L, how many numbers the vector has."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def empty(self) -> NDArray[np.float32]:
        """The vector of a head that was never trained, (L,): every sensor counts the same and nothing is corrected."""
        return np.zeros(self.length, np.float32)

    def pack(self, head: FusionHead, class_ids: Sequence[int]) -> NDArray[np.float32]:
        """A head as the vector (L,).

        Args:
            head: one that `check_head` accepted for this layout.
            class_ids: for each of the head's classes its id in the bundle's label space; a class that the head does not
                know is never corrected.
        """
        vector, start = self.empty(), 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            slot = vector[start:stop].reshape(shape)
            if per_class(name):
                slot[list(class_ids)] = head.weights[name]
            else:
                slot[...] = head.weights[name]
            start = stop
        return vector


def per_class(name: str) -> bool:
    """Whether a weight has one row per class."""
    return name in ("main.weight", "score.bias") or name.startswith("aux.")


@dataclass(frozen=True)
class FusionInfo:
    """What a manifest says of fusion: the graph with the fused outputs, and the head, if one was trained.

    kind, width: of the graph; network: `fused-....onnx`; file, sha256: of the head, None while there is none.
    """

    kind: str
    width: int
    network: Network
    file: str | None = None
    sha256: str | None = None


def head_file(sha256: str) -> str:
    """Where a head lies, relative to the bundle: under another name for other content, so that none is torn."""
    return f"fusion-{sha256[:8]}.safetensors"


def graph_file(sha256: str) -> str:
    """Where a graph with fused outputs lies, relative to the bundle."""
    return f"fused-{sha256[:8]}.onnx"


def read_fusion(fields: Fields) -> FusionInfo:
    """A manifest's fusion, every field checked.

    Raises:
        BundleError: a field is missing, unknown or out of range.
    """
    network = read_network(fields.inner("network"))
    kind, width = fields.choice("kind", FUSIONS), fields.integer("width", 1, 4096)
    file, sha256 = fields.take("file"), None
    if file is None:
        fields.take("sha256")
    else:
        sha256 = fields.sha256("sha256")
        if file != head_file(sha256):
            fields.fail(fields.path("file"), file, f"the path {head_file(sha256)}")
    if network.file != graph_file(network.sha256):
        fields.fail(fields.path("network.file"), network.file, f"the path {graph_file(network.sha256)}")
    fields.finish()
    return FusionInfo(kind, width, network, file, sha256)
