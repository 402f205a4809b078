"""Which bags are meant: paths, patterns, URLs, and lists of all of these in a file."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mile_edge.errors import BagError
from mile_edge.fleet.places import has_wildcard, is_url, matching
from mile_edge.yaml_file import read_yaml

_LISTS = (".yaml", ".yml", ".txt")
MAX_BAGS = 100_000


def list_bags(given: Sequence[str]) -> list[str]:
    """Every bag that is meant, once, in the order given.

    Args:
        given: a bag's path or URL; a pattern of either (``drives/*.mcap``, ``s3://drives/2026-*``); or a ``.yaml``
            file with a list of these (or a mapping with the list under ``bags``), or a ``.txt`` file with one a line.
            Paths in a file are relative to it.

    Raises:
        BagError: a pattern matches nothing, or a file holds no list.
    """
    found: dict[str, None] = {}
    for text in given:
        is_list = not is_url(text) and Path(text).suffix.lower() in _LISTS and not Path(text).is_dir()
        entries = _listed(Path(text)) if is_list else [text]
        for entry in entries:
            found.update(dict.fromkeys(_expanded(entry)))
    if not found:
        raise BagError(f"No bag is meant by {', '.join(given) or 'nothing'}; name at least one.")
    if len(found) > MAX_BAGS:
        raise BagError(f"{len(found)} bags are meant and at most {MAX_BAGS} make one report; split the list.")
    return list(found)


def _expanded(text: str) -> Iterable[str]:
    # Not Path's: it raises for a name that no file can have.
    if not has_wildcard(text) or (not is_url(text) and os.path.exists(text)):  # noqa: PTH110
        return [text]
    # What starts with a dot lies there half written.
    names = matching(text) if is_url(text) else sorted(glob.glob(text))  # noqa: PTH207 - a pattern may be absolute
    if not names:
        raise BagError(f"No bag matches '{text}'; check the pattern.")
    return names


def _listed(path: Path) -> list[str]:
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            reason = getattr(problem, "strerror", None) or "it is no text"
            raise BagError(f"The list of bags '{path}' cannot be read ({reason}); give one bag a line.") from None
        entries: object = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    else:
        values = read_yaml(path, "list of bags", BagError)
        entries = values.get("bags") if isinstance(values, dict) else values
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry.isprintable() for entry in entries):
        raise BagError(f"The list of bags '{path}' holds no list of paths; write '- drive.mcap', one bag a line.")
    return [entry if is_url(entry) else str(path.parent / entry) for entry in map(str, entries)]
