"""A running segmenter takes over what another process does to its bundle: real processes, and frames all the while."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mile_edge.bundle import Bundle, write_expert
from mile_edge.errors import BundleError
from mile_edge.runtime import Segmenter


def elsewhere(*words: object) -> None:
    """Run ``mile-edge experts`` in a process of its own."""
    line = [sys.executable, "-m", "mile_edge", "experts", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def flowing(segmenter: Segmenter, frame: np.ndarray) -> Iterator[list[str]]:
    """Frames without a pause meanwhile; the experts that they went through, or what was raised."""
    seen: list[str] = []
    stop = threading.Event()

    def run() -> None:
        try:
            while not stop.is_set():
                seen.append(segmenter(frame).expert[0])
        except Exception as problem:  # whatever a frame raises must fail the test and not end a thread unseen
            seen.append(repr(problem))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_experts_that_another_process_adds_removes_and_rolls_back_are_taken_over_while_frames_flow(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    folder = tiny_bundle
    file = tmp_path / "guest.safetensors"
    with Segmenter.open(folder) as segmenter:
        names = segmenter.experts
        last = names[-1]
        write_expert(file, replace(next(e for e in Bundle.open(folder).experts() if e.name == last), name="guest"))
        segmenter.pin(last, stream="front")
        assert not segmenter.refresh()
        with flowing(segmenter, street_frames["clear"]) as seen:
            elsewhere("remove", folder, last)
            assert segmenter.experts == names
            assert segmenter.refresh()
            assert segmenter.experts == names[:-1]
            assert not segmenter.refresh()
            elsewhere("add", folder, file)
            assert segmenter.refresh()
            assert segmenter.experts == (*names[:-1], "guest")
            elsewhere("rollback", folder)
            assert segmenter.refresh()
            assert segmenter.experts == names[:-1]
            assert segmenter.experts == tuple(entry.name for entry in Bundle.open(folder).manifest.experts)
        assert seen
        assert set(seen) <= {*names, "guest"}, seen
        # A pin of an expert that went is gone, also where the expert came back.
        assert segmenter(street_frames["clear"], stream="front").expert[0] in segmenter.experts
        # Its own change goes on from what the other process left.
        segmenter.add_expert(file, "own")
        assert segmenter.experts == tuple(entry.name for entry in Bundle.open(folder).manifest.experts)
        assert not segmenter.refresh()


def test_a_candidate_that_another_process_enters_runs_in_shadow_here(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    folder = tiny_bundle
    last = Bundle.open(folder).experts()[-1]
    write_expert(tmp_path / "guest.safetensors", replace(last, name="guest"))
    with Segmenter.open(folder) as segmenter:
        elsewhere("add", folder, tmp_path / "guest.safetensors", "--shadow", 2)
        assert segmenter.refresh()
        for _ in range(40):
            segmenter(street_frames["clear"])
            segmenter.wait_for_shadow()
        assert segmenter.shadow is not None
        assert segmenter.shadow.outcome == "live"
        assert "guest" in segmenter.experts


def test_a_margin_that_another_process_calibrates_is_taken_over_unless_one_was_asked_for(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle) as segmenter, Segmenter.open(tiny_bundle, hysteresis=0.25) as asked:
        before = segmenter.hysteresis
        gate = segmenter.manifest.gate
        assert segmenter(street_frames["night"], stream="a").expert == ("night",)
        Bundle.open(tiny_bundle).set_gate(replace(gate, hysteresis=1e4))
        assert segmenter.refresh() and asked.refresh()
        assert (segmenter.hysteresis, asked.hysteresis) == (1e4, 0.25)
        assert segmenter(street_frames["fog"], stream="a").expert == ("night",)
        asked.hysteresis = None
        assert asked.hysteresis == 1e4
        segmenter.rollback()
        assert segmenter.hysteresis == before
        assert segmenter(street_frames["fog"], stream="a").expert == ("fog",)


def test_a_folder_that_is_damaged_or_gone_leaves_the_frames_as_they_are_until_it_is_mended(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    folder = tiny_bundle
    with Segmenter.open(folder) as segmenter:
        before = segmenter(street_frames["clear"]).mask.tobytes()
        whole = (folder / "manifest.json").read_bytes()
        (folder / "manifest.json").write_bytes(whole[:100])
        for _ in range(2):
            with pytest.raises(BundleError):
                segmenter.refresh()
        assert segmenter(street_frames["clear"]).mask.tobytes() == before
        (folder / "manifest.json").unlink()
        assert not segmenter.refresh()
        (folder / "manifest.json").write_bytes(whole)
        assert not segmenter.refresh()
        elsewhere("remove", folder, segmenter.experts[-1])
        assert segmenter.refresh()
    assert not segmenter.refresh()
