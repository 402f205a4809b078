"""Ways in which bytes, texts and values from outside go wrong; all chance comes from the dice, so a seed repeats it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

_WHOLE = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
_TEXTS = ("", "\0", "../../etc/passwd", "/etc/passwd", "a" * 300, "\u202e", "\ud800", "*", "true", "{}", "\n")
_NUMBERS = (0, -1, 1, 255, 256, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.0, -0.0, 1e-320, 1e308, 0.5, 1.5)
_TOKENS = (
    *("{", "}", "[", "]", ":", ",", '"', "'", "- ", "? ", "&a ", "*a ", "<<: *a", "!!python/object:os.system "),
    *("!!binary ", "|\n", ">\n", "#", "%", "@", "\t", "\n", "---\n", "...\n", "null", "NaN", "Infinity", "-1", "1e999"),
    *("0x7f", "1_0", "true", "2026-13-45", "9" * 400, "\0", "\ufeff", "\x85", "[" * 200, "{a: " * 200, '{"a":' * 200),
    *("255", "~", "=", "!"),
)


def mutated_bytes(data: bytes, dice: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One to twenty faults in a file: flipped, overwritten, cut out, put in, doubled, cut short, crossed."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 5, 20))):
        if not found:
            found = bytearray(dice.randbytes(dice.randrange(1, 64)))
        at = dice.randrange(len(found))
        # Headers are short and full of meaning: half of all faults are made there.
        at = at % min(len(found), 1 << dice.randrange(4, 13)) if dice.random() < 0.5 else at
        fault = dice.randrange(9)
        if fault == 0:
            found[at] ^= 1 << dice.randrange(8)
        elif fault == 1:
            found[at] = dice.randrange(256)
        elif fault in (2, 3):
            width = dice.choice((1, 2, 4, 8))
            value = (dice.choice(_WHOLE) + dice.choice((-1, 0, 0, 1))) % (1 << 8 * width)
            found[at : at + width] = value.to_bytes(width, dice.choice(("little", "little", "big")))
        elif fault == 4:
            del found[at : at + dice.choice((1, 2, 4, 8, 64, 1024))]
        elif fault == 5:
            found[at:at] = dice.randbytes(dice.choice((1, 2, 4, 8, 64)))
        elif fault == 6:
            length = dice.choice((4, 8, 64, 512))
            target = dice.randrange(len(found))
            found[target:target] = found[at : at + length]
        elif fault == 7 and dice.random() < 0.5:
            del found[at:]
        elif others:
            other = dice.choice(others)
            if other:
                start = dice.randrange(len(other))
                length = dice.choice((8, 64, 512))
                found[at : at + length] = other[start : start + length]
    return bytes(found)


def mutated_text(data: bytes, dice: random.Random) -> bytes:
    """The same for text: also with tokens that mean something to YAML and JSON, and with lines moved about."""
    if dice.random() < 0.3:
        return mutated_bytes(data, dice)
    text = data.decode("utf-8", "replace")
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        at = dice.randrange(len(text) + 1)
        fault = dice.randrange(4)
        if fault == 0:
            text = text[:at] + dice.choice(_TOKENS) + text[at:]
        elif fault == 1:
            text = text[:at] + dice.choice(_TOKENS) + text[at + dice.randrange(1, 12) :]
        elif fault == 2:
            lines = text.splitlines(keepends=True)
            if lines:
                lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))
                text = "".join(lines)
        else:
            text = text[:at] + text[at + dice.randrange(1, 40) :]
    return text.encode("utf-8", "surrogatepass" if dice.random() < 0.1 else "replace")


def mutated_value(value: Any, dice: random.Random) -> Any:
    """A JSON value with one to three of its parts replaced, removed, renamed or doubled."""
    found = copy.deepcopy(value)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        holder, key = _place(found, dice)
        if holder is None:
            return hostile(dice)
        fault = dice.randrange(5)
        if fault <= 2:
            holder[key] = hostile(dice, holder[key])
        elif fault == 3:
            del holder[key]
        elif isinstance(holder, dict):
            holder[dice.choice((*_TEXTS, key + "x"))] = holder.pop(key)
        else:
            # The part itself and no copy of it: copying what is nested 2000 deep would end the run.
            holder.insert(key, dice.choice(holder))
    return found


def hostile(dice: random.Random, instead_of: Any = None) -> Any:
    """A value that nobody expects, or one a little beside the one that is expected."""
    kind = dice.randrange(8)
    if kind == 0 and isinstance(instead_of, (int, float)):
        return instead_of + dice.choice((-1, 1, 0.5, 2**31, -(2**63)))
    if kind == 1 and isinstance(instead_of, str):
        return instead_of + dice.choice(_TEXTS)
    if kind == 2 and isinstance(instead_of, list):
        return instead_of * dice.choice((2, 50))
    if kind == 3:
        nested: Any = dice.choice((1, "x", None))
        for _ in range(dice.choice((1, 2, 70, 2000))):
            nested = [nested] if dice.random() < 0.5 else {"a": nested}
        return nested
    if kind == 4:
        return dice.choice(_TEXTS)
    if kind == 5:
        return dice.choice((None, True, False, [], {}, [[]], [None] * 3))
    return dice.choice(_NUMBERS)


def as_json(value: Any, dice: random.Random) -> bytes:
    """A value as JSON text; surrogates and over-long numbers are written as they are."""
    try:
        return json.dumps(value, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 5000 + b"]" * 5000


def _place(value: Any, dice: random.Random) -> tuple[Any, Any]:
    """A random part of a value: its holder and its key there."""
    holder, key = None, None
    while isinstance(value, (dict, list)) and value:
        if holder is not None and dice.random() < 0.25:
            break
        holder = value
        key = dice.choice(list(value)) if isinstance(value, dict) else dice.randrange(len(value))
        value = holder[key]
    return holder, key


Mutate = Callable[[bytes, random.Random], bytes]
