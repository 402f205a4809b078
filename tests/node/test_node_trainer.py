"""Training beside the robot's work: real child processes, that report, fail with a sentence and can be ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mile_edge_node.trainer import Order, Training, TrainingProgress, check_interpreter, command
from mile_edge_node.unfinished import Unfinished

from mile_edge.errors import RecipeError
from mile_edge.workers.limits import Limits

FOG = Order("bundle", "/", "fog")
LIMITS = Limits((0,), 19, 4000)


def child(code: str, folder: Path) -> Training:
    return Training([sys.executable, "-c", code], sys.executable, folder / "train")


def test_the_command_says_all_that_was_ordered_and_runs_at_low_priority() -> None:
    order = Order("bundle", "/", "harbour", "thermal", "night", 30, True)
    line = command(order, "python9", Limits((1, 3), 19, 4000), Path("/out/harbour.safetensors"), "cuda")
    start = line.index("nice")
    assert line[start : start + 4] == ["nice", "-n", "19", "python9"]
    assert line[:start] in ([], ["setpriv", "--pdeathsig", "KILL"])
    said = " ".join(line)
    for part in (
        "train expert bundle /",
        "--name harbour",
        "--out /out/harbour.safetensors",
        "--sensors thermal",
        "--bag-domain night",
        "--steps 30",
        "--gate-only",
        "--cores 1,3 --nice 19 --memory 4000",
        "--device cuda",
    ):
        assert part in said
    assert "--sensors" not in command(FOG, "python9", LIMITS, Path("/out/fog.safetensors"))


@pytest.mark.parametrize(
    ("order", "reason"), [(Order("b", "/", "../x"), "lower-case"), (Order("b", "/no/bag", "fog"), "does not exist")]
)
def test_an_order_that_cannot_work_is_refused_before_anything_starts(order: Order, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        command(order, "python9", LIMITS, Path("/out/x.safetensors"))


def test_an_interpreter_without_torch_is_named_with_what_to_do(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    with pytest.raises(RecipeError, match=r"torch is not installed for .*; install mile-edge\[train\] there"):
        check_interpreter(str(bare / "bin" / "python"))
    with pytest.raises(RecipeError, match="does not run"):
        check_interpreter("/no/such/python")


def test_progress_is_read_from_the_childs_own_lines(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "print('fog: step 50/400 loss 1.250 mIoU -, 0:10 left', file=sys.stderr, flush=True); time.sleep(1)\n"
        "print('fog: step 100/400 loss 0.500 mIoU 0.413, 0:05 left', file=sys.stderr, flush=True); time.sleep(0.3)\n"
    )
    seen: list[TrainingProgress] = []
    child(code, tmp_path).wait(lambda progress: bool(seen.append(progress)), seconds=0.1)
    assert any(progress.step == 50 and progress.loss == 1.25 for progress in seen)
    assert any(progress.step == 100 and progress.miou == 0.413 and progress.steps == 400 for progress in seen)


def test_a_training_that_fails_says_its_own_last_sentence(tmp_path: Path) -> None:
    training = child(
        "import sys; print('x.bag has no label topic; record one', file=sys.stderr); sys.exit(2)", tmp_path
    )
    with pytest.raises(RecipeError, match="has no label topic; record one"):
        training.wait(lambda _: False, seconds=0.05)


def test_a_training_that_was_killed_says_by_what_and_that_it_can_go_on(tmp_path: Path) -> None:
    code = (
        "import os; print('mile-edge: training goes on from step 3 of 9', file=os.sys.stderr); os.kill(os.getpid(), 9)"
    )
    said: list[str] = []
    training = Training([sys.executable, "-c", code], sys.executable, tmp_path, said.append)
    with pytest.raises(RecipeError, match=r"ended by SIGKILL, .* the same goal goes on"):
        training.wait(lambda _: False, seconds=0.05)
    assert said == ["training goes on from step 3 of 9"]


def test_an_order_is_remembered_until_it_is_ended_and_a_damaged_record_is_one_sentence(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path / "work")
    assert unfinished.read() is None
    order = Order("/bundle", "/data", "harbour", "thermal", "night", 30, True)
    unfinished.keep(order)
    assert Unfinished(tmp_path / "work").read() == order
    record = tmp_path / "work" / "unfinished.json"
    whole, said = record.read_bytes(), list[str]()
    for harmed in (
        b"",
        whole[:20],
        b"[1]",
        whole.replace(b"30", b'"30"'),
        whole.replace(b"steps", b"leaps"),
        b"\xff",
        b"[" * 9999,
    ):
        record.write_bytes(harmed)
        assert unfinished.read(said.append) is None
    assert len(said) == 7
    assert all(each.endswith("is damaged; send the goal of the training again") for each in said)
    unfinished.forget()
    unfinished.forget()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"training record .* cannot be written"):
        Unfinished(tmp_path / "file").keep(FOG)


def test_a_cancelled_training_is_gone_with_all_its_children(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid()); open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    training = child(code, tmp_path)
    pid_file = tmp_path / "train" / "pid"
    while not pid_file.exists() or not pid_file.read_text():
        time.sleep(0.02)
    pid = int(pid_file.read_text())
    assert os.getpgid(pid) != os.getpgid(0), "Ctrl-C in the terminal is not for the training"
    training.wait(lambda _: True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    training.stop()
