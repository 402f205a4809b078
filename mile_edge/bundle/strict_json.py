"""JSON from strangers: a reader that refuses what `json` lets through, and typed access to an object's fields."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from mile_edge.errors import MileError

MAX_DEPTH = 32
MAX_DIGITS = 24
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LONG = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
SHA256 = re.compile(r"[0-9a-f]{64}")


def shown(value: object) -> str:
    """A value for an error message: plain ASCII on one line, so that a hostile file cannot write to the terminal."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse one JSON object; as `parse_value`, and ValueError for another type."""
    value = parse_value(text)
    if isinstance(value, dict):
        return value
    raise ValueError("is not a JSON object")


def parse_value(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not UTF-8 or not JSON, repeats a key, holds NaN, Infinity or a number out of range, a lone
            surrogate, or is nested deeper than MAX_DEPTH; the message is a phrase without a subject.
    """
    try:
        raw = text.encode() if isinstance(text, str) else text
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_unique_keys,
            parse_int=_integer if _LONG.search(raw) else None,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise ValueError(f"is not UTF-8 at byte {start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels") from None
    # A bundle has hundreds of headers: only what could hide depth or a surrogate is walked value by value.
    if b"\\u" in raw or not _is_shallow(raw):
        check_plain(value)
    return value


def _is_shallow(valid: bytes) -> bool:
    brackets = _STRING.sub(b"", valid).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if not brackets:
            return True
    return False


def check_plain(value: object) -> None:
    """Raise ValueError unless a value is JSON of bounded depth with finite numbers and encodable text."""
    pending: list[tuple[dict[Any, Any] | list[Any] | tuple[Any, ...], int]] = [([value], 0)]
    while pending:
        container, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(container, dict):
            if not all(isinstance(key, str) for key in container):
                raise ValueError("has a key that is not text")
            children = [*container, *container.values()]
        else:
            children = list(container)
        for child in children:
            if isinstance(child, (dict, list, tuple)):
                pending.append((child, depth + 1))
            else:
                _check_scalar(child)


def _check_scalar(value: object) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"holds text that is not Unicode, {shown(value)}") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"holds the number {value}")
    elif not (value is None or isinstance(value, (bool, int))):
        raise ValueError(f"holds a {type(value).__name__}, which JSON cannot")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"has the key {shown(key)} twice")
            seen.add(key)
    return result


def _integer(text: str) -> int:
    # int() of a megabyte of digits takes seconds on Python 3.10, which has no limit of its own.
    if len(text) > MAX_DIGITS:
        raise ValueError(f"holds a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds the number {text[:24]}")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"holds the number {text}")


class Fields:
    """The fields of one JSON object, each read once with its type and range; `finish` refuses what was not read."""

    def __init__(self, value: object, where: str, error: type[MileError], remedy: str) -> None:
        self._where = where
        self._error = error
        self._remedy = remedy
        if not isinstance(value, dict):
            self.fail(where, value, "an object")
        self._values: dict[str, Any] = dict(value)

    def fail(self, key: str, value: object, expected: str) -> NoReturn:
        """Raise the error for one field."""
        raise self._error(f"field {key} is {shown(value)} where {expected} is needed; {self._remedy}")

    def path(self, key: str) -> str:
        """A field's name from the top of the document."""
        return f"{self._where}.{key}" if self._where else key

    def peek(self, key: str) -> Any:
        """A field's raw value, still to be taken; None where it is missing."""
        return self._values.get(key)

    def take(self, key: str) -> Any:
        """A field's raw value, which must be there."""
        if key not in self._values:
            raise self._error(f"field {self.path(key)} is missing; {self._remedy}")
        return self._values.pop(key)

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number; true and 1.0 are none."""
        value = self.take(key)
        if type(value) is not int or not low <= value <= high:
            self.fail(self.path(key), value, f"a whole number from {low} to {high}")
        return int(value)

    def number(self, key: str, low: float, high: float) -> float:
        """A number within bounds, which NaN and infinity never are."""
        value = self.take(key)
        # `low <= inf <= high` and NaN are both caught by the comparison, whatever the bounds.
        if type(value) not in (int, float) or not low <= value <= high:
            self.fail(self.path(key), value, f"a number from {low:g} to {high:g}")
        return float(value)

    def text(self, key: str, limit: int = 256) -> str:
        """Printable text on one line."""
        return self.as_text(self.path(key), self.take(key), limit)

    def as_text(self, path: str, value: object, limit: int) -> str:
        """A value that must be printable text, for entries of a list."""
        if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
            self.fail(path, value, f"printable text of 1 to {limit} letters")
        return value

    def matching(self, key: str, pattern: re.Pattern[str], meaning: str) -> str:
        """Text that matches a pattern in full."""
        value = self.take(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.fail(self.path(key), value, meaning)
        return value

    def name(self, key: str) -> str:
        """An expert's name."""
        return self.matching(key, NAME, "a name of lower-case letters, digits, - and _ (at most 64)")

    def sha256(self, key: str) -> str:
        """A SHA-256 in hexadecimal digits."""
        return self.matching(key, SHA256, "a SHA-256 in 64 hexadecimal digits")

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of a few words."""
        value = self.take(key)
        if value not in choices or not isinstance(value, str):
            self.fail(self.path(key), value, "one of " + ", ".join(choices))
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object of any content."""
        value = self.take(key)
        if not isinstance(value, dict):
            self.fail(self.path(key), value, "an object")
        return value

    def items(self, key: str, low: int, high: int) -> list[Any]:
        """A list of bounded length, of any content."""
        value = self.take(key)
        if not isinstance(value, list) or not low <= len(value) <= high:
            self.fail(self.path(key), value, f"a list of {low} to {high} entries")
        return value

    def inner(self, key: str) -> Fields:
        """An object whose fields are to be read one by one."""
        return Fields(self.take(key), self.path(key), self._error, self._remedy)

    def inners(self, key: str, low: int, high: int) -> list[Fields]:
        """A list of such objects."""
        path = self.path(key)
        return [
            Fields(value, f"{path}[{index}]", self._error, self._remedy)
            for index, value in enumerate(self.items(key, low, high))
        ]

    def finish(self) -> None:
        """Refuse a field that was not taken."""
        for key in self._values:
            raise self._error(f"field {shown(self.path(key))} is not known to this version; {self._remedy}")


def fields_of_texts(
    texts: Mapping[str, str], *, integers: Iterable[str], values: Iterable[str], error: type[MileError], remedy: str
) -> Fields:
    """The fields of a safetensors file's metadata, which is text by format, each as the type it stands for.

    Args:
        texts: the metadata.
        integers: entries that are whole numbers; one that is none stays text, which `Fields.integer` then refuses.
        values: entries that are JSON.
        error: what is raised, here and by the fields.
        remedy: what a message advises.

    Raises:
        MileError: of the type `error`: an entry is no JSON.
    """
    found: dict[str, Any] = dict(texts)
    for key in integers:
        text = texts.get(key, "")
        if text.isascii() and text.isdigit() and len(text) <= 16:
            found[key] = int(text)
    for key in values:
        if key in texts:
            try:
                found[key] = parse_value(texts[key])
            except ValueError as problem:
                raise error(f"metadata {key} {problem}; {remedy}") from None
    return Fields(found, "", error, remedy)
