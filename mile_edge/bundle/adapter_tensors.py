"""How low-rank pairs lie in an expert's file: in fp16, or in eight bits with one scale for each rank of A and of B.

Tensors of a layer: ``LAYER.lora_A`` (rank, in) and ``LAYER.lora_B`` (out, rank), both F16 or both I8; with I8 also
``LAYER.lora_scale`` (2, rank) F32, the first row A's scales, the second B's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle.strict_json import shown
from mile_edge.bundle.tensor_file import Tensor
from mile_edge.errors import ExpertError

STORED = ("fp16", "int8")
Pair = tuple[NDArray[np.floating], NDArray[np.floating]]

_A, _B, _SCALE = "lora_A", "lora_B", "lora_scale"
_REMEDY = "write it again with this mile-edge"
# Types that the tensors of a layer may have, by how it is stored.
_TYPES: dict[str, dict[str, tuple[str, ...]]] = {
    "fp16": {_A: ("F16", "F32"), _B: ("F16", "F32")},
    "int8": {_A: ("I8",), _B: ("I8",), _SCALE: ("F32",)},
}
_LARGEST = 127
# Of a scale: with an integer's seven bits a product still fits fp32's 24, so writing again what was read is exact.
_SCALE_BITS = 16


def is_of_pair(name: str) -> bool:
    """Whether a tensor of this name belongs to a layer's pair."""
    layer, _, kind = name.rpartition(".")
    return bool(layer) and kind in (_A, _B, _SCALE)


def pair_bytes(low_rank: Mapping[str, Pair], stored: str) -> int:
    """How many bytes the numbers of all pairs take."""
    numbers = sum(a.size + b.size for a, b in low_rank.values())
    return 2 * numbers if stored == "fp16" else numbers + 8 * sum(len(a) for a, _ in low_rank.values())


def write_pairs(low_rank: Mapping[str, Pair], stored: str) -> dict[str, NDArray[Any]]:
    """The tensors of all pairs, by name.

    Args:
        low_rank: layer name -> (A (rank, in), B (out, rank)), for "int8" finite and of these dimensions.
        stored: "fp16", where a number beyond it becomes infinite, or "int8".
    """
    tensors: dict[str, NDArray[Any]] = {}
    for layer, pair in low_rank.items():
        a, b = np.asarray(pair[0]), np.asarray(pair[1])
        if stored == "int8":
            steps_a, scale_a = _quantize(a)
            steps_b, scale_b = _quantize(b.T)
            tensors[f"{layer}.{_A}"], tensors[f"{layer}.{_B}"] = steps_a, steps_b.T
            tensors[f"{layer}.{_SCALE}"] = np.stack([scale_a, scale_b]).astype("<f4")
            continue
        with np.errstate(over="ignore"):
            tensors[f"{layer}.{_A}"], tensors[f"{layer}.{_B}"] = a.astype("<f2"), b.astype("<f2")
    return tensors


def read_pairs(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Pair], str]:
    """The pairs of all layers in the order of their names, in float32, and how they were stored.

    Args:
        tensors: those of a file for which `is_of_pair` holds.

    Raises:
        ExpertError: a tensor is missing, has another type than its layer, or numbers that `write_pairs` never gives.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = tensor
    stored = "int8" if any(tensor.dtype == "I8" for tensor in tensors.values()) else "fp16"
    types = _TYPES[stored]
    pairs = {}
    for layer, parts in sorted(layers.items()):
        for kind in types:
            if kind not in parts:
                raise ExpertError(f"tensor {shown(f'{layer}.{kind}')} is missing; {_REMEDY}")
        for kind, tensor in parts.items():
            if kind not in types:
                raise ExpertError(f"tensor {shown(f'{layer}.{kind}')} belongs to I8 and its layer is not; {_REMEDY}")
            if tensor.dtype not in types[kind]:
                raise ExpertError(
                    f"tensor {shown(f'{layer}.{kind}')} has type {tensor.dtype} instead of "
                    f"{' or '.join(types[kind])}; {_REMEDY}"
                )
        a, b = parts[_A].array, parts[_B].array
        pairs[layer] = _pair(layer, a, b, parts[_SCALE].array) if stored == "int8" else (a, b)
    return pairs, stored


def _pair(layer: str, a: NDArray[np.float32], b: NDArray[np.float32], scale: NDArray[np.float32]) -> Pair:
    if a.ndim != 2 or b.ndim != 2 or a.size * b.size == 0 or scale.shape != (2, len(a)) or len(a) != b.shape[1]:
        raise ExpertError(
            f"layer {shown(layer)} has A {a.shape}, B {b.shape} and scales {scale.shape} where (rank, in), (out, rank) "
            f"and (2, rank) belong; {_REMEDY}"
        )
    return _dequantize(layer, a, scale[0]), _dequantize(layer, b.T, scale[1]).T


def _quantize(vectors: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(N, M) vectors as multiples of a scale each, in -127..127 with the largest at an end, and the (N,) scales."""
    values = np.asarray(vectors, dtype=np.float64)
    mantissa, exponent = np.frexp(np.abs(values).max(axis=1) / _LARGEST)
    scale = np.ldexp(np.round(mantissa * 2**_SCALE_BITS), exponent - _SCALE_BITS)
    # Below fp32's smallest normal number a scale would lose the bits that make it exact; nothing is lost there.
    scale[scale < np.finfo(np.float32).tiny] = 0
    steps = np.divide(values, scale[:, None], out=np.zeros_like(values), where=scale[:, None] > 0)
    return np.clip(np.round(steps), -_LARGEST, _LARGEST).astype(np.int8), scale.astype(np.float32)


def _dequantize(layer: str, steps: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = steps * scale[:, None]
    if np.isfinite(vectors).all():
        again, same = _quantize(vectors)
        if np.array_equal(again, steps) and np.array_equal(same, scale):
            vectors.flags.writeable = False
            return vectors
    # Accepted, such a file would say one thing when it is read and another when it is signed and written again.
    raise ExpertError(f"layer {shown(layer)} has scales that do not belong to its 8-bit numbers; {_REMEDY}")
