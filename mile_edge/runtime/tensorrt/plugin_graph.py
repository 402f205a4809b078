"""Edits of an ONNX file that make its parser create plugins, without the ``onnx`` package, which a robot has not.

A model is cut and joined on the level of protobuf's wire format, with the numbers that onnx.proto gives its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mile_edge.errors import BackendError

NAME = "LowRank"
_FUNCTIONS, _FUNCTION_NAME = 25, 1
_GRAPH, _NODE, _OP_TYPE, _ATTRIBUTE = 7, 1, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_TYPE = 1, 3, 4, 20
_TYPE_INT, _TYPE_STRING = 2, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def without_function(model: bytes) -> bytes:
    """An ONNX model without the body of ``mile::LowRank``; the calls of it stay.

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
        raise BackendError(f"the graph defines no function {NAME}, so no plugin can take its place; build without one")
    return b"".join(kept)


def for_python_plugin(model: bytes, namespace: str) -> bytes:
    """The same model, each call of ``mile::LowRank`` marked for a plugin that Python registered as ahead of time.

    Raises:
        BackendError: it is no ONNX model, or calls no such function.
    """
    marks = _field(_ATTRIBUTE, _text_attribute("plugin_namespace", namespace)) + _field(
        _ATTRIBUTE, _flag_attribute("aot")
    )

    def mark(node: bytes) -> bytes:
        ours = any(
            number == _OP_TYPE and node[first:last] == NAME.encode()
            for number, _, first, last in _fields(node, 0, len(node))
        )
        return node + marks if ours else node

    changed = _rewritten(model, _GRAPH, lambda graph: _rewritten(graph, _NODE, mark))
    if changed == model:
        raise BackendError(f"the graph calls no {NAME}, so a plugin has nothing to do; build without one")
    return changed


def _rewritten(message: bytes, wanted: int, change: Callable[[bytes], bytes]) -> bytes:
    parts = []
    for number, start, payload, end in _fields(message, 0, len(message)):
        parts.append(_field(wanted, change(message[payload:end])) if number == wanted else message[start:end])
    return b"".join(parts)


def _text_attribute(name: str, value: str) -> bytes:
    kind = _tag(_ATTRIBUTE_TYPE, _VARINT) + _encoded(_TYPE_STRING)
    return _field(_ATTRIBUTE_NAME, name.encode()) + _field(_ATTRIBUTE_STRING, value.encode()) + kind


def _flag_attribute(name: str) -> bytes:
    kind = _tag(_ATTRIBUTE_TYPE, _VARINT) + _encoded(_TYPE_INT)
    return _field(_ATTRIBUTE_NAME, name.encode()) + _tag(_ATTRIBUTE_INT, _VARINT) + _encoded(1) + kind


def _field(number: int, content: bytes) -> bytes:
    return _tag(number, _LENGTH) + _encoded(len(content)) + content


def _tag(number: int, kind: int) -> bytes:
    return _encoded(number << 3 | kind)


def _encoded(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


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
