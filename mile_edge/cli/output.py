"""What several commands write."""

from __future__ import annotations

import json
import sys
from typing import Any


def write_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
