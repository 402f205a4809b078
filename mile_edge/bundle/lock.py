"""One writer at a time: a lock that dies with its process and leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from mile_edge.bundle.files import named, reason
from mile_edge.bundle.owner import MAX_BYTES, Owner, read_owner
from mile_edge.errors import BundleError

LOCK_FILE = ".lock"
POLL_S = 0.02
WAIT_S = 10.0


@contextlib.contextmanager
def locked(folder: Path, wait_s: float | None = None) -> Iterator[None]:
    """Hold the bundle's lock; the kernel drops it when the process dies, however it dies.

    Args:
        folder: the bundle.
        wait_s: how long to wait for another writer, in seconds; WAIT_S by default.

    Raises:
        BundleError: another process holds it for longer (who and since when is said), or the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        stream = _acquire(path, folder, time.monotonic() + (WAIT_S if wait_s is None else wait_s))
    except OSError as failure:
        raise BundleError(
            f"bundle {named(folder)} cannot be changed: {reason(failure)}; check its permissions and the disk"
        ) from None
    with stream:
        try:
            yield
        finally:
            # Unlinked while held: whoever waits on this inode sees that the name is gone and takes a fresh one.
            with contextlib.suppress(OSError):
                path.unlink()


def _acquire(path: Path, folder: Path, deadline: float) -> FileIO:
    while True:
        # A file object, not a bare descriptor: an interrupt anywhere here closes it and with it the lock.
        stream = FileIO(path, "r+", opener=_open_lock)
        try:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BundleError(f"bundle {named(folder)} has a {LOCK_FILE} that is not a plain file; remove it")
            if _try_lock(stream):
                if _is_current(path, stream):
                    _sign(stream)
                    return stream
            elif time.monotonic() >= deadline:
                raise BundleError(
                    f"bundle {named(folder)} is being changed by {_owner(stream)}; wait for it and try again"
                )
            else:
                time.sleep(POLL_S)
        except BaseException:
            stream.close()
            raise
        stream.close()


def _open_lock(path: str, _: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _try_lock(stream: FileIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failure:
        if failure.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is_current(path: Path, stream: FileIO) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(stream.fileno())
    return (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino)


def _sign(stream: FileIO) -> None:
    # For people only; a full disk must not stop a removal.
    with contextlib.suppress(OSError):
        stream.truncate(0)
        stream.write(Owner.me().to_json().encode() + b"\n")


def _owner(stream: FileIO) -> str:
    owner = read_owner(stream.read(MAX_BYTES))
    return "another process" if owner is None else str(owner)
