"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
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


def check_place(out: Path, bundle: Path, bags: Iterable[Path]) -> None:
    """Refuse a folder for outputs that would mix with what a replay reads: the next replay would read them, too.

    Args:
        bags: folders and files of this machine.

    Raises:
        RecipeError: it lies in a bundle, or in the folder of a bag.
    """
    inside = {out.resolve(), *out.resolve().parents}
    what = "a bundle" if bundle.resolve() in inside or any(map(_is_bundle, inside)) else None
    for bag in bags:
        # A bag's file may lie among other files, but a folder with metadata is one bag.
        folder = bag if os.path.isdir(bag) else bag.parent  # noqa: PTH112 - Path's raises for what may not be read
        if (folder == bag or os.path.isfile(folder / "metadata.yaml")) and folder.resolve() in inside:  # noqa: PTH113
            what = f"the bag '{bag}'"
    if what is not None:
        raise RecipeError(f"The output folder '{out}' lies inside {what}; name another with --out.")


def publish(files: Mapping[Path, Path], stale: Collection[Path] = ()) -> None:
    """Put finished files in their places; at no moment does one lie beside another run's.

    All of them are on the disk before anything of an older run goes, and that goes before the first of them comes.

    Args:
        files: source to target, the one last whose presence says that all are there.
        stale: what an older run may have left besides.
    """
    for source in files:
        with source.open("rb") as file:
            os.fsync(file.fileno())
    for old in (*reversed(list(files.values())), *stale):
        old.unlink(missing_ok=True)
    for source, target in files.items():
        source.replace(target)


def publish_texts(texts: Mapping[Path, str], folder: Path) -> None:
    """Write texts into `folder`, and put them in their places as `publish` does."""
    publish(write_aside(texts, folder))


def write_aside(texts: Mapping[Path, str], folder: Path) -> dict[Path, Path]:
    """Write the text of each target into `folder`; gives source to target."""
    sources = {folder / target.name: target for target in texts}
    for source, target in sources.items():
        # A path of undecodable bytes keeps them as escapes, which JSON reads too.
        source.write_text(texts[target], encoding="utf-8", errors="backslashreplace")
    return sources


def _is_bundle(folder: Path) -> bool:
    return os.path.isfile(folder / "manifest.json") and os.path.isdir(folder / "experts")  # noqa: PTH112, PTH113


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
