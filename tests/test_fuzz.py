"""The fuzz driver finds what it is for: each planted fault is counted, saved, and takes no other input with it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
sys.path.append(str(FUZZ))

from fuzzing import Record
from watch import Batch, Findings, Target, watch

from mile_edge.errors import DataError


def planted(data: bytes, _: Path) -> None:
    """Falls over by the first byte."""
    if data[0] == 1:
        raise DataError("the input is no good; give another")
    if data[0] == 2:
        raise KeyError("foreign")
    if data[0] == 3:
        bytes(3 << 30)
    if data[0] == 4:
        began = time.process_time()
        while time.process_time() - began < 30:
            pass
    if data[0] == 5:
        raise DataError("two\nlines; mend it")


def test_every_kind_of_fault_is_found_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watch.SECONDS", 0.2)
    inputs = iter(range(6))
    target = Target("planted", lambda _: bytes([next(inputs)]), planted)
    before = resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_AS)
    findings = watch(target, Batch("planted", 1, 0, 6), tmp_path, tmp_path)
    # A limit left behind would end the rest of the test run.
    assert (resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_AS)) == before
    assert (findings.accepted, findings.refused) == (1, 2)
    said = " ".join(findings.broken)
    assert len(findings.broken) == 4
    assert all(kind in said for kind in ("KeyError", "MemoryError", "TooSlowError", "not one sentence"))
    assert sorted(path.name for path in tmp_path.glob("planted-1-?")) == [f"planted-1-{n}" for n in (2, 3, 4, 5)]


@pytest.mark.parametrize("target", ["expert-header", "bag-rows", "class-map"])
def test_a_few_inputs_of_every_kind_break_nothing(tmp_path: Path, target: str) -> None:
    command = [
        sys.executable,
        str(FUZZ),
        "--inputs",
        "20",
        "--seed",
        "5",
        "--only",
        target,
        "--failures",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 20 inputs broke something" in done.stdout


def test_a_run_goes_on_where_it_was_stopped_and_repeats_what_broke(tmp_path: Path) -> None:
    whole, broken = Batch("planted", 1, 0, 6), Batch("planted", 1, 6, 6)
    record = Record(tmp_path / "record.jsonl")
    record.add(whole, Findings(accepted=2, refused=4))
    record.add(broken, Findings(accepted=5, broken=["planted-1-7: KeyError"]))
    assert Record(tmp_path / "record.jsonl").done == {whole: (2, 4)}
