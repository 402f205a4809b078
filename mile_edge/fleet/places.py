"""Places that hold files: a folder here, or anything fsspec reaches (`s3://`, `gs://`, `sftp://`, `memory://`)."""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from mile_edge.bundle.files import PARTIAL, named, sync_folder
from mile_edge.errors import RecipeError, TransferError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[^:]+)*://")
CHUNK = 1 << 20


def is_url(text: str) -> bool:
    """Whether a text names a place by URL rather than by path."""
    return _SCHEME.match(text) is not None


def has_wildcard(text: str) -> bool:
    """Whether a text is a pattern."""
    return any(letter in text for letter in "*?[")


class Place(ABC):
    """A folder and what lies in it; `name` is always relative, with slashes.

    Raises:
        TransferError: every method, where the place refuses or a name would leave it.
    """

    url: str

    @abstractmethod
    def files(self) -> dict[str, int]:
        """Every file below, by name, with its bytes; empty where the folder does not exist."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""

    @abstractmethod
    def is_folder(self, name: str) -> bool:
        """Whether a name is a folder."""

    @abstractmethod
    def token(self, name: str) -> str:
        """A text that changes when the file does: size and time here, an ETag elsewhere."""

    @abstractmethod
    def pieces(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """The bytes of a file from `start` on, at most CHUNK at a time; close it where the rest is not wanted."""

    @abstractmethod
    def put(self, source: Path, name: str) -> None:
        """Copy a file into the place; it appears under its name whole or not at all."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; harmless where there is none."""

    def read(self, name: str, limit: int) -> bytes:
        """All bytes of a file of at most `limit` bytes."""
        data = bytearray()
        with contextlib.closing(self.pieces(name)) as pieces:
            for piece in pieces:
                data += piece
                if len(data) > limit:
                    break
        if len(data) > limit:
            raise TransferError(f"{self.shown(name)} has more than {limit} bytes; check that it is the right file")
        return bytes(data)

    def shown(self, name: str) -> str:
        """Where a file lies, for a message."""
        return named(f"{self.url.rstrip('/')}/{name}")


def open_place(url: str | os.PathLike[str]) -> Place:
    """The place that a path or URL names; nothing is asked of it yet.

    Raises:
        RecipeError: fsspec, or its package for this scheme, is not installed.
        TransferError: the URL is not understood.
    """
    text = os.fspath(url)
    if not is_url(text):
        return _Folder(Path(text), text)
    if text.lower().startswith("file://"):
        return _Folder(Path(unquote(urlsplit(text).path)), text)
    return _Remote(text)


def checked(name: str) -> str:
    """A name that stays inside its place.

    Raises:
        TransferError: it is absolute, climbs, or is none.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
        raise TransferError(f"the file name {name[:120]!r} leaves its folder or is none; it is not used")
    return str(path)


class _Folder(Place):
    """A folder of this machine."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self.url = folder, url

    def files(self) -> dict[str, int]:
        with _translated(self.url):
            found = (path for path in sorted(self._folder.rglob("*")) if path.is_file() and not path.is_symlink())
            return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in found}

    def size(self, name: str) -> int | None:
        with _translated(self.shown(name)):
            path = self._folder / checked(name)
            return path.stat().st_size if path.is_file() else None

    def is_folder(self, name: str) -> bool:
        return (self._folder / checked(name)).is_dir()

    def token(self, name: str) -> str:
        with _translated(self.shown(name)):
            status = (self._folder / checked(name)).stat()
            return f"{status.st_size}-{status.st_mtime_ns}"

    def pieces(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        with _translated(self.shown(name)), (self._folder / checked(name)).open("rb") as stream:
            stream.seek(start)
            while piece := stream.read(CHUNK):
                yield piece

    def put(self, source: Path, name: str) -> None:
        target = self._folder / checked(name)
        aside = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
        with _translated(self.shown(name)):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with source.open("rb") as given, aside.open("wb") as stream:
                    while piece := given.read(CHUNK):
                        stream.write(piece)
                    stream.flush()
                    os.fsync(stream.fileno())
                aside.replace(target)
                sync_folder(target.parent)
            finally:
                with contextlib.suppress(OSError):
                    aside.unlink()

    def remove(self, name: str) -> None:
        with _translated(self.shown(name)):
            (self._folder / checked(name)).unlink(missing_ok=True)


class _Remote(Place):
    """A folder that fsspec reaches."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError:
            raise RecipeError(
                f"{named(url)} needs fsspec; pip install 'mile-edge[fleet]', or copy the files here"
            ) from None
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as problem:
            raise RecipeError(f"{named(url)} needs another package ({_brief(problem)}); install it") from None
        except Exception as problem:  # each scheme has its own errors
            raise TransferError(f"{named(url)} is not understood ({_brief(problem)}); check the URL") from None

    def files(self) -> dict[str, int]:
        with _translated(self.url):
            self._files.invalidate_cache()
            if not self._files.exists(self._root):
                return {}
            found: dict[str, Any] = self._files.find(self._root, detail=True)
        root = self._root.strip("/") + "/" if self._root.strip("/") else ""
        return {path.strip("/").removeprefix(root): int(about["size"] or 0) for path, about in sorted(found.items())}

    def size(self, name: str) -> int | None:
        with _translated(self.shown(name)):
            self._files.invalidate_cache()
            return int(self._files.size(self._at(name)) or 0) if self._files.isfile(self._at(name)) else None

    def is_folder(self, name: str) -> bool:
        with _translated(self.shown(name)):
            return bool(self._files.isdir(self._at(name)))

    def token(self, name: str) -> str:
        with _translated(self.shown(name)):
            return str(self._files.ukey(self._at(name)))

    def pieces(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        with _translated(self.shown(name)), self._files.open(self._at(name), "rb") as stream:
            stream.seek(start)
            while piece := stream.read(CHUNK):
                yield piece

    def put(self, source: Path, name: str) -> None:
        # Aside first: not every file system makes an upload appear at once.
        aside = self._at(f"{name}.{os.getpid()}{PARTIAL}")
        with _translated(self.shown(name)):
            self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(source), aside)
            self._files.mv(aside, self._at(name))

    def remove(self, name: str) -> None:
        with _translated(self.shown(name)):
            if self._files.exists(self._at(name)):
                self._files.rm_file(self._at(name))

    def glob(self) -> list[str]:
        """The URLs that this one, a pattern, stands for."""
        with _translated(self.url):
            return [str(self._files.unstrip_protocol(path)) for path in sorted(self._files.glob(self._root))]

    def _at(self, name: str) -> str:
        return f"{str(self._root).rstrip('/')}/{checked(name)}"


def matching(pattern: str) -> list[str]:
    """The URLs that a pattern stands for, none where it matches nothing."""
    place = open_place(pattern)
    if isinstance(place, _Remote):
        return place.glob()
    folder = Path(unquote(urlsplit(pattern).path))
    return [path.as_uri() for path in sorted(Path(folder.anchor).glob(str(folder.relative_to(folder.anchor))))]


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except TransferError:
        raise
    except Exception as problem:  # a network's errors share no base class
        reason = _brief(problem)
        raise TransferError(f"{named(where)} cannot be reached ({reason}); check the place and the network") from None


def _brief(problem: BaseException) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    if isinstance(problem, FileNotFoundError):
        return "no such file"
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
