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


def examples_of(epilog: str, command: str) -> str:
    r"""An epilog for one of several commands that share it: its own examples, and what stands below all of them.

    >>> examples_of("examples:\n  mile-edge a b x\n  mile-edge a c y\n\nBoth are safe.", "a c")
    'examples:\n  mile-edge a c y\n\nBoth are safe.'
    """
    examples, _, rest = epilog.rpartition("\n\n")
    own = [line for line in examples.splitlines() if f"{line} ".startswith(f"  mile-edge {command} ")]
    return "\n".join(["examples:", *own, "", rest])


def write_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
