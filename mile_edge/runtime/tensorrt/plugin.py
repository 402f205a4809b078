"""The fused low-rank kernel as a plugin: register its library, and have the ONNX parser use it for ``mile::LowRank``.

TensorRT from about 10.15 creates a plugin instead of inlining the function of the same name when
``OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE`` is set. Older parsers (10.3 on JetPack 6.2) always prefer the function, so
there the graph is parsed without the function's body, and the parser finds the plugin as it does for any unknown node.

TensorRT-RTX 1.7 has the plugin classes but no way to put a plugin into a network: its parser creates the plugin and
then ends the whole process. So a plugin is refused there before anything is registered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt.api import Api

NAME, VERSION = "LowRank", "1"
# The parser looks a node up in the empty namespace unless the node names another (seen with TensorRT-RTX 1.7).
_NAMESPACE = ""
# ModelProto.functions and FunctionProto.name in onnx.proto.
_FUNCTIONS, _FUNCTION_NAME = 25, 1
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def load(api: Api, library: Path, logger: Any) -> None:
    """Register ``mile::LowRank`` from a library that ``plugin/CMakeLists.txt`` built; again is harmless.

    Args:
        api: the TensorRT in use.
        library: ``libmile_low_rank.so``.
        logger: TensorRT's.

    Raises:
        BackendError: this TensorRT takes no plugins, or the library is missing, foreign or built for another one.
    """
    if not hasattr(api.module.INetworkDefinition, "add_plugin_v3"):
        raise BackendError(f"{api.name} {api.version} takes no plugins; build without one, native layers serve as well")
    if not library.is_file():
        raise BackendError(f"plugin {str(library)!r} does not exist; build it with cmake, see plugin/CMakeLists.txt")
    registry = api.module.get_plugin_registry()
    if _creator(registry) is not None:
        return
    registry.load_library(str(library.resolve()))
    if _creator(registry) is None:
        raise BackendError(
            f"plugin {str(library)!r} brings no mile::{NAME} to {api.name} {api.version}; build it on this machine"
        )
    logger.log(api.module.ILogger.Severity.INFO, f"mile::{NAME} is served by {library}")


def parse(api: Api, parser: Any, graph: Path) -> bool:
    """Parse a graph so that a registered plugin takes the place of each ``mile::LowRank``.

    Args:
        parser: a fresh ``OnnxParser``.
        graph: the ONNX file.

    Returns:
        Whether the parser accepted it; why not is in ``parser.get_error``.

    Raises:
        BackendError: the file is no ONNX model.
    """
    flags = api.module.OnnxParserFlag.__members__
    if "ENABLE_PLUGIN_OVERRIDE" in flags:
        parser.set_flag(flags["ENABLE_PLUGIN_OVERRIDE"])
        return bool(parser.parse_from_file(str(graph)))
    return bool(parser.parse(without_function(graph.read_bytes()), str(graph)))


def without_function(model: bytes) -> bytes:
    """An ONNX model without the body of ``mile::LowRank``; the calls of it stay.

    The model is cut on the level of protobuf's wire format: a robot has no ``onnx`` package.

    Raises:
        BackendError: it is no ONNX model, or has no such function.
    """
    kept = []
    for number, start, payload, end in _fields(model, 0, len(model)):
        is_ours = number == _FUNCTIONS and any(
            number == _FUNCTION_NAME and model[first:last] == NAME.encode()
            for number, _, first, last in _fields(model, payload, end)
        )
        if not is_ours:
            kept.append(model[start:end])
    if sum(map(len, kept)) == len(model):
        raise BackendError(f"the graph defines no function {NAME}, so no plugin can take its place; export it again")
    return b"".join(kept)


def _creator(registry: Any) -> Any:
    return registry.get_creator(NAME, VERSION, _NAMESPACE)


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a protobuf message: its number, where it starts, where its content starts, where it ends."""
    while position < end:
        start = position
        tag, position = _varint(data, position, end)
        kind, payload = tag & 7, position
        if kind == _VARINT:
            _, position = _varint(data, position, end)
        elif kind == _LENGTH:
            length, payload = _varint(data, position, end)
            position = payload + length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            position = end + 1
        if position > end:
            raise BackendError("the graph is no ONNX model; export the bundle again")
        yield tag >> 3, start, payload, position


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise BackendError("the graph is no ONNX model; export the bundle again")
