"""A training step's tensors reuse the memory of those before."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="the workshop side needs torch")

# Steps of a network whose feature maps have 38 MiB each, and how many pages the system gave for the last of them.
PROGRAM = """
import resource, sys, torch
from mile_edge.training.memory import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
torch.set_num_threads(1)
network = torch.nn.Sequential(*[torch.nn.Conv2d(16, 16, 1) for _ in range(8)])
for step in range(16):
    if step == 12:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(torch.ones(8, 16, 240, 320)).relu().sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps what it likes")
def test_what_is_freed_is_used_again_instead_of_fetched_from_the_system() -> None:
    assert pages("kept") < 0.05 * pages("returned")
