"""Training beside the robot's work: real child processes, that report, fail with a sentence and can be ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mile_edge_node.trainer import Order, Training, TrainingProgress, check_interpreter, command

from mile_edge.errors import RecipeError

FOG = Order("bundle", "/", "fog")


def child(code: str, folder: Path) -> Training:
    return Training([sys.executable, "-c", code], sys.executable, folder / "train")


def test_the_command_says_all_that_was_ordered_and_runs_at_low_priority() -> None:
    order = Order("bundle", "/", "harbour", "thermal", "night", 30, True)
    line = command(order, "python9", 19, Path("/out/harbour.safetensors"))
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
    ):
        assert part in said
    assert "--sensors" not in command(FOG, "python9", 19, Path("/out/fog.safetensors"))


@pytest.mark.parametrize(
    ("order", "reason"), [(Order("b", "/", "../x"), "lower-case"), (Order("b", "/no/bag", "fog"), "does not exist")]
)
def test_an_order_that_cannot_work_is_refused_before_anything_starts(order: Order, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        command(order, "python9", 19, Path("/out/x.safetensors"))


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
