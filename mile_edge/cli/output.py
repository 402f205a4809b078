"""What several commands write."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console

# Wider than any table: rich makes them no wider than what they hold.
_ENDLESS = 2000


def console(stderr: bool = False) -> Console:
    """Where tables go: as wide as the terminal, and uncut where there is none and nobody says otherwise (COLUMNS)."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() or "COLUMNS" in os.environ else _ENDLESS)


def write_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
