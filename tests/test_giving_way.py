"""A change of experts lets frames pass: who waits for Python's lock gets it at once, and only while a change runs."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from bundle_makers import another

from mile_edge.bundle import Bundle, write_expert
from mile_edge.runtime import Segmenter
from mile_edge.runtime.giving_way import giving_way


def turns(seconds: float = 0.5) -> int:
    """How often this thread gets Python's lock back while another one is busy in Python."""
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            sum(range(100))

    thread = threading.Thread(target=busy)
    thread.start()
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0)
        count += 1
    over.set()
    thread.join()
    return count


def test_a_waiting_thread_gets_many_more_turns_inside_than_outside() -> None:
    outside = turns()
    with giving_way():
        inside = turns()
    assert inside > 3 * outside


def test_the_usual_interval_is_back_when_the_last_thread_has_gone_out() -> None:
    usual = sys.getswitchinterval()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with giving_way():
            entered.set()
            leave.wait(30)

    with giving_way():
        inside = sys.getswitchinterval()
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(30)
    assert sys.getswitchinterval() == inside < usual
    leave.set()
    thread.join()
    assert sys.getswitchinterval() == usual


class _Noted(type(Path())):  # type: ignore[misc]
    """A path that notes by how long a turn the process goes when a file of it is opened."""

    intervals: ClassVar[list[float]] = []

    def __fspath__(self) -> str:
        if self.suffix == ".safetensors":
            self.intervals.append(sys.getswitchinterval())
        return str(self)


def test_experts_of_another_process_are_read_inside(tiny_bundle: Path, tmp_path: Path) -> None:
    usual = sys.getswitchinterval()
    write_expert(tmp_path / "new.safetensors", another(tiny_bundle, "new"))
    bundle = Bundle.open(tiny_bundle)
    with Segmenter(replace(bundle, path=_Noted(tiny_bundle))) as segmenter:
        segmenter.refresh()
        _Noted.intervals.clear()
        bundle.add(tmp_path / "new.safetensors")
        assert segmenter.refresh()
        assert "new" in segmenter.experts
    assert _Noted.intervals and max(_Noted.intervals) < usual
    assert sys.getswitchinterval() == usual


def test_an_expert_is_read_inside(tiny_bundle: Path, tmp_path: Path) -> None:
    intervals: list[float] = []

    class Watched(os.PathLike[str]):
        def __fspath__(self) -> str:
            intervals.append(sys.getswitchinterval())
            return str(tmp_path / "new.safetensors")

    usual = sys.getswitchinterval()
    write_expert(tmp_path / "new.safetensors", another(tiny_bundle, "new"))
    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.add_expert(Watched())
    assert intervals and max(intervals) < usual
    assert sys.getswitchinterval() == usual
