"""What a robot's disk and clock do to it: full, read-only, files swapped underneath, time running backwards."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundle_makers import is_one_sentence, make_bundle, make_expert, tree, write_file

from mile_edge.bundle import Bundle, verify_bundle
from mile_edge.errors import MileError
from mile_edge.runtime import Segmenter


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB; skips where this process may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(place: Path, leave: int) -> None:
    """Fill a disk until so many bytes are free."""
    status = os.statvfs(place)
    (place / "filler").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - leave)))


@pytest.mark.parametrize("leave", [0, 4096, 8192, 12288])
def test_a_disk_that_is_really_full_leaves_the_bundle_as_it_was(small_disk: Path, tmp_path: Path, leave: int) -> None:
    bundle = make_bundle(small_disk, make_expert("fog"))
    rain = write_file(tmp_path, make_expert("rain"))
    fill(small_disk, leave)
    before = tree(bundle.path / "experts")
    problem = None
    try:
        bundle.add(rain)
    except MileError as error:
        problem = error
    names = [expert.name for expert in Bundle.open(bundle.path).experts()]
    if problem is None:
        assert names == ["base", "fog", "rain"]
    else:
        assert is_one_sentence(problem) and "no space left on device" in str(problem)
        assert tree(bundle.path / "experts") == before and names == ["base", "fog"]
    assert verify_bundle(bundle.path) == []
    (small_disk / "filler").unlink()
    now = Bundle.open(bundle.path)
    if "rain" not in [expert.name for expert in now.experts()]:
        now.add(rain)
    assert verify_bundle(bundle.path) == []


def test_a_disk_that_turned_read_only_can_be_read_and_is_one_sentence_to_change(
    small_disk: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(small_disk, make_expert("fog"))
    rain = write_file(tmp_path, make_expert("rain"))
    before = tree(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for change in (
        lambda: bundle.add(rain),
        lambda: bundle.remove("fog"),
        lambda: bundle.set_gate(bundle.manifest.gate),
    ):
        with pytest.raises(MileError, match="read-only file system") as caught:
            change()
        assert is_one_sentence(caught.value)
    assert [expert.name for expert in Bundle.open(bundle.path).experts()] == ["base", "fog"]
    assert tree(small_disk) == before


def test_a_clock_that_jumps_back_loses_no_change_and_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path)
    files = [write_file(tmp_path, make_expert(name)) for name in ("fog", "rain", "snow")]
    real, ahead = time.time, iter((10 * 365 * 86400, 0, -10 * 365 * 86400))
    for file in files:
        jump = next(ahead)
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        bundle = bundle.add(file)
        os.utime(bundle.path / "manifest.json", (real() + jump, real() + jump))
    assert [expert.name for expert in Bundle.open(bundle.path).experts()] == ["base", "fog", "rain", "snow"]
    # What was changed last is undone first, whatever the clock said when.
    assert [expert.name for expert in bundle.rollback().experts()] == ["base", "fog", "rain"]
    assert verify_bundle(bundle.path) == []


def test_files_swapped_under_a_running_segmenter_change_no_mask(tiny_bundle: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 60, 80, 3), np.uint8)
    with Segmenter.open(tiny_bundle, threads=1) as segmenter:
        names = segmenter.experts[:3]

        def masks() -> list[np.ndarray]:
            found = []
            for name in names:
                segmenter.pin(name)
                found.append(segmenter(frames).mask)
            return found

        before = masks()
        for path in [tiny_bundle / "segmenter.onnx", *(tiny_bundle / "experts").iterdir()]:
            size = path.stat().st_size
            # In place, as a careless copy does it: whoever mapped the file would see it, or die of it.
            with path.open("r+b") as stream:
                stream.write(os.urandom(4096))
                stream.truncate(size // 2)
        after = masks()
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
        with pytest.raises(MileError) as caught:
            segmenter.add_expert(next((tiny_bundle / "experts").iterdir()), "again")
        assert "\n" not in str(caught.value)
    assert len(verify_bundle(tiny_bundle)) >= 3
    with pytest.raises(MileError, match=r"export the bundle again|has changed since"):
        Segmenter.open(tiny_bundle)
