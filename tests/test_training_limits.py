"""A training beside other work keeps to its cores, its priority and its memory; real processes of this system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mile_edge.cli.main import main
from mile_edge.errors import RecipeError
from mile_edge.workers.limits import Limits, cores_for_training, read_cores, within

USABLE = sorted(os.sched_getaffinity(0))


def child(code: str, **limits: object) -> subprocess.CompletedProcess[str]:
    """Run lines of code within limits in a process of their own, which is the head of a session."""
    lines = f"from mile_edge.workers.limits import Limits, memory_mb, within\nwith within(Limits(**{limits!r})):\n"
    lines = "import json, os, sys, threading, time\nimport numpy as np\n" + lines
    lines += "".join(f"    {line}\n" for line in code.splitlines())
    words = [sys.executable, "-c", lines]
    return subprocess.run(words, capture_output=True, text=True, check=False, start_new_session=True, timeout=120)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,1", "0;1", "99999", "0-99999"])
def test_cores_that_are_no_list_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(RecipeError, match="give numbers and ranges such as 0,2-3"):
        read_cores(text)


def test_cores_that_are_not_there_are_named_with_those_that_are() -> None:
    with pytest.raises(RecipeError, match=f"core 4321 is none that may be used here; use some of {USABLE[0]}"):
        read_cores("4321")
    assert read_cores(f" {USABLE[-1]}, {USABLE[0]}") == tuple(sorted({USABLE[0], USABLE[-1]}))
    assert set(cores_for_training()) < set(USABLE) or len(USABLE) == 1


def test_every_thread_runs_on_the_cores_given_and_gives_way() -> None:
    code = (
        "threads = list(map(int, os.listdir('/proc/self/task')))\n"
        "later = []\n"
        "thread = threading.Thread(target=lambda: later.append(sorted(os.sched_getaffinity(0)))); thread.start()\n"
        "thread.join()\n"
        "print(json.dumps({'cores': [sorted(os.sched_getaffinity(t)) for t in threads] + later,\n"
        "  'nice': [os.getpriority(os.PRIO_PROCESS, t) for t in threads],\n"
        "  'policy': [os.sched_getscheduler(t) for t in threads],\n"
        "  'session': open('/proc/self/autogroup').read() if os.path.exists('/proc/self/autogroup') else '',\n"
        "  'oom': open('/proc/self/oom_score_adj').read().strip()}))"
    )
    done = child(code, cores=(USABLE[-1],), nice=19, memory_mb=10**6)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all(cores == [USABLE[-1]] for cores in told["cores"])
    assert set(told["nice"]) == {19}
    assert set(told["policy"]) == {os.SCHED_IDLE}
    assert not told["session"] or told["session"].split()[-1] == "19"
    assert told["oom"] == "1000"


def test_less_than_the_lowest_priority_is_a_batch_job() -> None:
    done = child("print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))", nice=7)
    assert done.stdout.split() == ["7", str(os.SCHED_BATCH)], done.stderr


def test_without_limits_a_process_stays_what_it_is() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getaffinity(0)
    with within(Limits()):
        pass
    assert before == (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getaffinity(0))


def test_memory_is_what_the_process_has_of_its_own() -> None:
    # In a process of its own: this one gives back what earlier tests left at any moment.
    done = child("before = memory_mb()\nheld = np.ones(50_000_000, np.uint8)\nprint(memory_mb() - before, held.size)")
    assert done.returncode == 0, done.stderr
    assert 45 <= int(done.stdout.split()[0]) <= 60, done.stdout


def test_too_much_memory_ends_in_one_sentence() -> None:
    # A test run in the background of a shell hands on that Ctrl-C is ignored, which the next test is about.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "held = []\nwhile True: held.append(np.ones(2_000_000, np.uint8)); time.sleep(0.005)"
    )
    done = child(code, memory_mb=150)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "RecipeError: the training takes" in last
    assert "may take 150 (--memory, the node's train_memory); allow more" in last


def test_too_much_memory_ends_even_where_nothing_listens_to_an_interrupt() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "held = np.ones(200_000_000, np.uint8)\ntime.sleep(60)"
    )
    began = time.monotonic()
    done = child(code, memory_mb=150)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("mile-edge: the training takes")
    assert done.stderr.strip().count("\n") == 0
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--cores", "x"], "ranges such as"),
        (["--nice", "20"], "--nice is 20; give 0 to 19"),
        (["--nice", "-5"], "--nice"),
        (["--memory", "-1"], "--memory"),
    ],
)
def test_the_command_refuses_limits_that_are_none(
    tmp_path: Path, options: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "expert", "nowhere", str(tmp_path), "--name", "fog", *options]) == 2
    told = capsys.readouterr().err
    assert word in told
    assert told.count("\n") == 1


def test_the_command_trains_within_its_limits_and_says_when_the_memory_is_not_enough(
    workshop_bundle: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="the workshop side needs torch")
    from test_training import write_data

    write_data(tmp_path / "day")
    line = [sys.executable, "-m", "mile_edge", "train", "expert", str(workshop_bundle), str(tmp_path / "day")]
    line += ["--name", "day", "--out", str(tmp_path / "day.safetensors"), "--steps", "20", "--batch", "2", "--json"]
    line += ["--cores", str(USABLE[-1]), "--nice", "19", "--memory"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    small = subprocess.run([*line, "100"], capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert small.returncode == 2
    (sentence,) = [row for row in small.stderr.splitlines() if row.startswith("mile-edge:")]
    assert "MB of memory and may take 100" in sentence
    assert not (tmp_path / "day.safetensors").exists()
    enough = subprocess.run([*line, "4000"], capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert enough.returncode == 0, enough.stderr
    assert json.loads(enough.stdout)["steps"] == 20
    code = (
        "from mile_edge.workers.limits import Limits, within\n"
        f"with within(Limits(cores=({USABLE[-1]},))):\n    import torch; print(torch.get_num_threads())"
    )
    threads = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert threads.stdout.strip() == "1"
    assert torch.get_num_threads() >= 1


def test_a_gpu_that_is_not_there_is_one_sentence(
    workshop_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="the workshop side needs torch")
    from test_training import write_data

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    write_data(tmp_path / "day", 3)
    out = str(tmp_path / "day.safetensors")
    line = ["train", "expert", str(workshop_bundle), str(tmp_path / "day"), "--name", "day", "--out", out]
    assert main([*line, "--device", "cuda", "--steps", "2"]) == 2
    assert "torch finds no CUDA device; leave --device out" in capsys.readouterr().err


def test_on_a_gpu_training_is_on_a_stream_of_the_lowest_priority() -> None:
    torch = pytest.importorskip("torch", reason="the workshop side needs torch")
    from mile_edge.training.device import on_device

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    network = torch.nn.Linear(2, 2)
    with on_device("cuda", network) as place:
        assert torch.cuda.current_stream(place).priority == 0
        assert torch.cuda.current_stream(place) != torch.cuda.default_stream(place)
        assert network.weight.device.type == "cuda"
    assert network.weight.device.type == "cpu"
