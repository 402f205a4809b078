"""How work beside the frames lets them pass.

A frame's thread gives Python's lock away while the network runs and wants it back afterwards. A thread that is busy in
Python, as one that parses an expert, then keeps it for `sys.getswitchinterval()`, 5 ms unless it was set: once for each
time that the frame asks, so a frame may lose several such turns to one change.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Long enough that the switches themselves cost nothing beside a change of some 10 ms.
_TURN_S = 1e-4
_lock = threading.Lock()
_inside = 0
_usual = 0.0


@contextmanager
def giving_way() -> Iterator[None]:
    """Inside, a thread that waits for Python's lock gets it within 0.1 ms; any number of threads may be inside.

    The interval is the process's: what it was when the first came in is set again when the last goes out.
    """
    global _inside, _usual
    with _lock:
        if _inside == 0:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual, _TURN_S))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                sys.setswitchinterval(_usual)
