"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mile_edge.errors import RecipeError

_PREFIX = ".replay-"


@contextmanager
def aside(out: Path) -> Iterator[Path]:
    """Make a folder inside `out` to write to before renaming; it is gone at the end, and so are those of killed runs.

    Raises:
        RecipeError: `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for orphan in out.glob(f"{_PREFIX}*"):
            if not _is_running(orphan.name.removeprefix(_PREFIX).partition("-")[0]):
                shutil.rmtree(orphan, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=out))
    except OSError as problem:
        why = "it is a file" if isinstance(problem, FileExistsError) else problem.strerror
        raise RecipeError(f"The output folder '{out}' cannot be written ({why}); name another with --out.") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """Put a finished file in its place, replacing an older one in a single step."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)


def publish_text(text: str, folder: Path, target: Path) -> None:
    """Write a text into `folder` and put it in its place in a single step."""
    source = folder / target.name
    source.write_text(text, encoding="utf-8")
    publish(source, target)


def _is_running(process: str) -> bool:
    if not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
