"""The safetensors format, read and written strictly.

The safetensors library accepts repeated JSON keys, reports a wrong type as a KeyError and orders metadata at random, so
the same expert would get another hash each time. Here the same content gives the same bytes, and every lie of a header
is found before anything is allocated from it. The files open in the library and the other way round.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle.strict_json import parse_object, shown

MAX_HEADER = 1 << 20
MAX_DIMENSIONS = 4
MAX_DIMENSION = 2**31
DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I8": np.dtype("i1")}


class Tensor(NamedTuple):
    """A tensor as read: the type it is stored in, and its numbers as read-only float32."""

    dtype: str
    array: NDArray[np.float32]


class _Span(NamedTuple):
    start: int
    stop: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def write_tensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes, equal for equal input; tensors of a type in DTYPES only."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {}
    parts: list[bytes] = []
    position = 0
    # Wider types first keep every tensor aligned, as the library does.
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        part = np.ascontiguousarray(array).tobytes()
        entries[name] = {
            "dtype": names[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [position, position + len(part)],
        }
        position += len(part)
        parts.append(part)
    return b"".join((_head(metadata, entries), *parts))


def _head(metadata: Mapping[str, str], entries: Mapping[str, Any]) -> bytes:
    header = {"__metadata__": dict(sorted(metadata.items())), **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a file; nothing of its tensors is looked at.

    Raises:
        ValueError: see `read_tensors`.
    """
    return _metadata(_header(data)[0])


def without_metadata(data: bytes, key: str | None) -> bytes:
    """A file without one entry of its metadata and with its header as this module writes it.

    Args:
        data: the whole file.
        key: the entry; None takes nothing away, so that a file which this module wrote comes back byte for byte.

    Raises:
        ValueError: see `read_tensors`.
    """
    header, start = _header(data)
    metadata = _metadata(header)
    metadata.pop(key or "", None)
    return _head(metadata, header) + data[start:]


def content_digest(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """SHA-256 over metadata and tensors by name: a flipped bit in a weight is noticed wherever the file travels."""
    described = [[name, list(tensors[name].shape)] for name in sorted(tensors)]
    digest = hashlib.sha256(json.dumps([dict(sorted(metadata.items())), described]).encode())
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name], dtype="<f4").data.cast("B"))
    return digest.hexdigest()


def read_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its metadata.

    Raises:
        ValueError: it is not a safetensors file, or one whose header lies; the message is a phrase without a subject.
    """
    header, start = _header(data)
    metadata = _metadata(header)
    spans = sorted(_span(name, entry) for name, entry in header.items())
    end = 0
    for span in spans:
        if span.start != end:
            raise ValueError(f"has a gap or an overlap before tensor {shown(span.name)}")
        end = span.stop
    size = len(data) - start
    if end > size:
        raise ValueError(f"is cut off: tensor {shown(spans[-1].name)} ends at byte {end} of {size}")
    if end < size:
        raise ValueError(f"has {size - end} bytes after its last tensor")
    tensors: dict[str, Tensor] = {}
    # One conversion per run of a type: an expert has a hundred small tensors and a bundle a hundred experts.
    for dtype, run in itertools.groupby(spans, key=lambda span: span.dtype):
        tensors.update(_convert(data, start, dtype, list(run)))
    return tensors, metadata


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    if not data:
        raise ValueError("is empty")
    if len(data) < 8:
        raise ValueError(f"is not a safetensors file: it has only {len(data)} bytes")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise ValueError(f"is not a safetensors file, or has too much metadata: its header would have {length} bytes")
    if length > len(data) - 8:
        raise ValueError(f"is cut off: its header has {length} bytes and the whole file {len(data)}")
    try:
        return parse_object(data[8 : 8 + length]), 8 + length
    except ValueError as error:
        raise ValueError(f"is not a safetensors file: its header {error}") from None


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    """Taken out of the header: what is left describes tensors."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("has metadata that is not text")
    return metadata


def _convert(data: bytes, start: int, dtype: str, run: list[_Span]) -> Iterator[tuple[str, Tensor]]:
    kind = DTYPES[dtype]
    first = run[0].start
    count = (run[-1].stop - first) // kind.itemsize
    values = np.frombuffer(data, dtype=kind, count=count, offset=start + first).astype(np.float32)
    values.flags.writeable = False
    for span in run:
        part = values[(span.start - first) // kind.itemsize : (span.stop - first) // kind.itemsize]
        yield span.name, Tensor(dtype, part.reshape(span.shape))


def _span(name: str, entry: object) -> _Span:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"describes tensor {shown(name)} otherwise than by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"has tensor {shown(name)} of type {shown(dtype)} instead of {' or '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_size(size) for size in shape):
        raise ValueError(f"has tensor {shown(name)} of the impossible shape {shown(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise ValueError(f"has tensor {shown(name)} at the impossible offsets {shown(offsets)}")
    start, stop = offsets
    if start < 0 or stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"has tensor {shown(name)} of shape {shown(shape)} in {stop - start} bytes at {start}")
    return _Span(start, stop, name, dtype, tuple(shape))


def _size(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_DIMENSION
