"""How one expert lies in a row of the bank: the single place that knows where each number goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle.strict_json import Fields
from mile_edge.errors import ExpertError

if TYPE_CHECKING:
    from mile_edge.bundle.expert import Expert

# Low enough that softmax and argmax never choose the class, and still a finite number in fp16.
UNUSED_BIAS = -1e4
# The id of a pixel that has no class; classes lie below it.
VOID = 255


@dataclass(frozen=True)
class LowRankLayer:
    """One adapted layer: A is (rank, in_features), B is (out_features, rank); rank None is the layout's.

    A convolution's input features are its input channels, those under the kernel's centre; of the first one, whose path
    has a kernel of its own, each number of the window.
    """

    name: str
    in_features: int
    out_features: int
    rank: int | None = None


@dataclass(frozen=True)
class UnpackedRow:
    """What a row holds: A and B per layer, and the classifier of the classes that are in use.

    low_rank: layer name -> ((rank, in), (out, rank)) float32; class_ids: C ids in the bundle's label space;
    classifier_weight: (C, hidden) float32; classifier_bias: (C,) float32.
    """

    low_rank: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    class_ids: tuple[int, ...]
    classifier_weight: NDArray[np.float32]
    classifier_bias: NDArray[np.float32]


@dataclass(frozen=True)
class LowRankLayout:
    """A row: each layer's A (rank, in) and B (out, rank), row-major; classifier weight (max_classes, hidden); bias."""

    rank: int
    layers: tuple[LowRankLayer, ...]
    hidden: int
    max_classes: int

    @cached_property
    def _offsets(self) -> dict[str, int]:
        offsets, position = {}, 0
        for layer in self.layers:
            offsets[layer.name] = position
            position += self.rank_of(layer) * (layer.in_features + layer.out_features)
        return offsets

    @cached_property
    def classifier_offset(self) -> int:
        """Where the classifier's weight starts, which is also how many numbers the adapters of one expert have."""
        return sum(self.rank_of(layer) * (layer.in_features + layer.out_features) for layer in self.layers)

    def rank_of(self, layer: LowRankLayer) -> int:
        """Rank of one layer's pair."""
        return self.rank if layer.rank is None else layer.rank

    @property
    def bias_offset(self) -> int:
        """Where the classifier's bias starts."""
        return self.classifier_offset + self.max_classes * self.hidden

    @property
    def row_length(self) -> int:
        """P, how many numbers one row has."""
        return self.bias_offset + self.max_classes

    def offset(self, layer_name: str) -> int:
        """Where a layer's A starts in the row; its B follows directly.

        Raises:
            ExpertError: the layout has no such layer.
        """
        try:
            return self._offsets[layer_name]
        except KeyError:
            raise ExpertError(
                f"layer {layer_name!r} is not adapted in this bundle; it adapts {len(self.layers)} layers, see inspect"
            ) from None

    def pack(self, expert: Expert, class_ids: Sequence[int]) -> NDArray[np.float32]:
        """An expert as a row of the bank.

        Args:
            expert: one that `check_expert` accepted for this layout.
            class_ids: for each of the expert's classes its id in the bundle's label space, in the expert's order.

        Returns:
            (P,) float32. Adapter "none" leaves zeros; a class the expert lacks has weight 0 and bias UNUSED_BIAS.

        Raises:
            ExpertError: class ids are repeated, out of range or not one per class, or a shape does not fit.
        """
        ids = np.asarray(class_ids, dtype=np.int64)
        if ids.shape != (len(expert.classes),) or len(set(ids.tolist())) != ids.size:
            raise ExpertError(
                f"expert {expert.name!r} has {len(expert.classes)} classes and needs as many different ids"
            )
        if ids.size and not 0 <= ids.min() <= ids.max() < self.max_classes:
            raise ExpertError(f"class id {ids.max()} does not fit into {self.max_classes} classes; export with more")
        row = np.zeros(self.row_length, dtype=np.float32)
        weight = row[self.classifier_offset : self.bias_offset].reshape(self.max_classes, self.hidden)
        bias = row[self.bias_offset :]
        bias[:] = UNUSED_BIAS
        try:
            if expert.adapter != "none":
                for layer in self.layers:
                    a, b = self._views(row, layer)
                    # Fewer ranks leave the rest of their place zero, which is no rank at all.
                    if layer.rank is None and expert.rank < self.rank:
                        a, b = a[: expert.rank], b[:, : expert.rank]
                    a[...], b[...] = self._exact(expert.low_rank[layer.name], a, b)
            weight[ids] = self._exact((expert.classifier_weight,), weight[ids])[0]
            bias[ids] = self._exact((expert.classifier_bias,), bias[ids])[0]
        except (KeyError, ValueError) as error:
            raise ExpertError(
                f"expert {expert.name!r} does not fit the bundle's rows ({error}); check it with check_expert first"
            ) from None
        return row

    def unpack(self, row: NDArray[np.floating]) -> UnpackedRow:
        """The parts of a (P,) row, as copies in float32; classes whose bias is UNUSED_BIAS are left out.

        Raises:
            ExpertError: the row has another length.
        """
        if row.shape != (self.row_length,):
            raise ExpertError(f"a row of shape {row.shape} is not one of this bundle's {self.row_length} numbers")
        values = np.array(row, dtype=np.float32)
        weight = values[self.classifier_offset : self.bias_offset].reshape(self.max_classes, self.hidden)
        bias = values[self.bias_offset :]
        used = np.flatnonzero(bias != UNUSED_BIAS)
        return UnpackedRow(
            low_rank={layer.name: self._views(values, layer) for layer in self.layers},
            class_ids=tuple(used.tolist()),
            classifier_weight=weight[used],
            classifier_bias=bias[used],
        )

    def _views(self, row: NDArray[np.float32], layer: LowRankLayer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        start, rank = self._offsets[layer.name], self.rank_of(layer)
        middle = start + rank * layer.in_features
        end = middle + layer.out_features * rank
        return (
            row[start:middle].reshape(rank, layer.in_features),
            row[middle:end].reshape(layer.out_features, rank),
        )

    @staticmethod
    def _exact(given: Sequence[NDArray[np.floating]], *slots: NDArray[np.float32]) -> Sequence[NDArray[np.floating]]:
        # Assignment would broadcast a (1, n) array silently over a (m, n) slot.
        for array, slot in zip(given, slots, strict=True):
            if array.shape != slot.shape:
                raise ValueError(f"shape {array.shape} instead of {slot.shape}")
        return given


def read_layout(fields: Fields) -> LowRankLayout:
    """A manifest's layout, every field checked.

    Raises:
        BundleError: a field is missing, unknown or out of range, or a layer is named twice.
    """
    rank = fields.integer("rank", 1, 1024)
    layers: list[LowRankLayer] = []
    for entry in fields.inners("layers", 1, 4096):
        layer = LowRankLayer(
            name=entry.text("name"),
            in_features=entry.integer("in_features", 1, 2**20),
            out_features=entry.integer("out_features", 1, 2**20),
            rank=None if entry.peek("rank") is None else entry.integer("rank", 1, 1024),
        )
        entry.finish()
        layers.append(layer)
    seen: set[str] = set()
    for index, layer in enumerate(layers):
        if layer.name in seen:
            fields.fail(fields.path(f"layers[{index}].name"), layer.name, "a layer named only once")
        seen.add(layer.name)
    layout = LowRankLayout(
        rank, tuple(layers), fields.integer("hidden", 1, 2**16), fields.integer("max_classes", 1, VOID)
    )
    fields.finish()
    return layout
