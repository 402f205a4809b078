"""Reading files from strangers and writing files that a kill cannot tear."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from mile_edge.errors import MileError

PARTIAL = ".partial"
CHUNK = 1 << 20
MAX_NAMED = 240
# So long, in seconds, nothing aside goes unwritten to; a younger one may be of another host or container, whose process
# ids mean nothing here.
STALE_S = 600.0


def named(path: str | os.PathLike[str]) -> str:
    """A path for a message: on one line whatever its letters, and its end where it is long."""
    text = os.fspath(path)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= MAX_NAMED else "..." + text[-MAX_NAMED:]


def reason(error: OSError) -> str:
    """Why the system refused, in a few words."""
    return (error.strerror or str(error) or type(error).__name__).lower()


@contextlib.contextmanager
def opened_regular(path: str | os.PathLike[str], limit: int, where: str, error: type[MileError]) -> Iterator[int]:
    """A descriptor of a plain file of at most `limit` bytes; links, folders, pipes and devices are refused at once."""
    try:
        # NONBLOCK: opening a pipe without a writer would hang for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failure:
        if failure.errno == errno.ELOOP:
            raise error(f"{where} is a symbolic link; give the file itself") from None
        raise error(f"{where} cannot be opened: {reason(failure)}; check the path and its permissions") from None
    except ValueError:
        raise error(f"{where} cannot be opened: its name holds a zero byte; check the path") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{where} is not a plain file; give a file")
        if status.st_size > limit:
            raise error(
                f"{where} has {status.st_size} bytes and at most {limit} are read; check that it is the right file"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def read_regular(path: str | os.PathLike[str], limit: int, where: str, error: type[MileError]) -> bytes:
    """All bytes of a plain file of at most `limit` bytes."""
    with opened_regular(path, limit, where, error) as descriptor:
        try:
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                data = stream.read(limit + 1)
        except OSError as failure:
            raise error(f"{where} cannot be read: {reason(failure)}; check the disk") from None
    if len(data) > limit:
        raise error(f"{where} grew beyond {limit} bytes while it was read; check that it is the right file")
    return data


def hash_regular(path: str | os.PathLike[str], limit: int, where: str, error: type[MileError]) -> str:
    """The SHA-256 of a plain file, read piece by piece."""
    digest = hashlib.sha256()
    with opened_regular(path, limit, where, error) as descriptor:
        try:
            while piece := os.read(descriptor, CHUNK):
                digest.update(piece)
        except OSError as failure:
            raise error(f"{where} cannot be read: {reason(failure)}; check the disk") from None
    return digest.hexdigest()


def write_synced(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a new file and wait until the disk has it; an older one of that name, also a link, is replaced."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's entries, on the file systems that know how to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as failure:
        if failure.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


def _sweep(path: Path) -> None:
    aside = re.compile(re.escape(f".{path.name}.") + r"(\d{1,9})" + re.escape(PARTIAL))
    for each in path.parent.iterdir():
        found = aside.fullmatch(each.name)
        if found is not None:
            with contextlib.suppress(OSError):
                if time.time() - each.lstat().st_mtime > STALE_S and not _lives(int(found[1])):
                    each.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_whole(path: Path, data: bytes, where: str, error: type[MileError]) -> None:
    """Put a file in place at once: aside, fsync, rename; a failure leaves what was there.

    What a killed process left aside is swept first: the next one has another id and would not write over it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        _sweep(path)
        write_synced(aside, data)
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as failure:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise error(
            f"{where} cannot be written: {reason(failure)}; check the folder, its permissions and its space"
        ) from None
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
