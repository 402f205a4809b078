"""Names from strangers, as topics, domains and encodings are, made fit to be shown."""

from __future__ import annotations

import unicodedata

_UNFIT = ("Cc", "Cf", "Cs")


def legible(text: str) -> str:
    r"""A text on one line whose control characters, lone surrogates and reversals are each a replacement character.

    >>> legible("/cam\x1b[31m/image")
    '/cam�[31m/image'
    """
    if text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in _UNFIT else letter for letter in text)
