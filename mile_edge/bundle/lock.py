"""One writer at a time: a lock that dies with its process and leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from mile_edge.bundle.files import named, reason
from mile_edge.errors import BundleError

LOCK_FILE = ".lock"
POLL_S = 0.02


@contextlib.contextmanager
def locked(folder: Path, wait_s: float = 10.0) -> Iterator[None]:
    """Hold the bundle's lock; the kernel drops it when the process dies, however it dies.

    Args:
        folder: the bundle.
        wait_s: how long to wait for another writer, in seconds.

    Raises:
        BundleError: another process holds it for longer (its pid is named), or the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        descriptor = _acquire(path, folder, time.monotonic() + wait_s)
    except OSError as failure:
        raise BundleError(
            f"bundle {named(folder)} cannot be changed: {reason(failure)}; check its permissions and the disk"
        ) from None
    try:
        yield
    finally:
        # Unlinked while held: whoever waits on this inode sees that the name is gone and takes a fresh one.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, folder: Path, deadline: float) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError(f"bundle {named(folder)} has a {LOCK_FILE} that is not a plain file; remove it")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as failure:
                if failure.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                if time.monotonic() >= deadline:
                    raise BundleError(
                        f"bundle {named(folder)} is being changed by {_owner(descriptor)}; wait for it and try again"
                    ) from None
            else:
                if _is_current(path, descriptor):
                    # The pid is for people only; a full disk must not stop a removal.
                    with contextlib.suppress(OSError):
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return descriptor
                os.close(descriptor)
                continue
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(POLL_S)


def _is_current(path: Path, descriptor: int) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino)


def _owner(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).strip()
    return f"process {text.decode()}" if text.isdigit() else "another process"
