"""Reading ahead: the next frames are read and decoded in a thread while the network works on this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Reads `items` in a thread, at most `depth` ahead of `until`; use as a context manager."""

    def __init__(self, items: Iterable[Item], depth: int = 4) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="read-ahead", daemon=True)

    def __enter__(self) -> Ahead[Item]:
        """Start reading."""
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        """Stop reading and wait until the thread has let go of the items."""
        self._stop.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.05)

    def until(self, stop: Callable[[], bool]) -> Iterator[Item]:
        """Yield the items until `stop` says True, even while none comes; raises what reading them raised."""
        while not stop():
            try:
                item, problem = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if problem is not None:
                raise problem
            if item is None:
                return
            yield item

    def _fill(self) -> None:
        try:
            for item in self._items:
                self._queue.put((item, None))
                if self._stop.is_set():
                    return
        except BaseException as problem:  # handed to the thread that iterates
            self._queue.put((None, problem))
        else:
            self._queue.put((None, None))

    def _drain(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return
