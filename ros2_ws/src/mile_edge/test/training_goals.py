"""Goals of `~/train_expert`, and a program that trains without end."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from mile_edge_interfaces.action import TrainExpert
from rclpy.action import ActionClient

from harness import Bench

# An interpreter with torch and mile_edge, for the tests that really train.
WORKSHOP = os.environ.get("MILE_EDGE_WORKSHOP_PYTHON", "")


class Goal:
    """A goal under way."""

    def __init__(self, bench: Bench, client: ActionClient, **fields: Any) -> None:
        assert client.wait_for_server(timeout_sec=30)
        self.feedback: list[Any] = []
        self._bench = bench
        # The client drops an answer that comes before it has noted what it asked, and another thread may be that quick.
        self.handle = self._get(
            bench.within(
                lambda: client.send_goal_async(
                    TrainExpert.Goal(**fields), feedback_callback=lambda m: self.feedback.append(m.feedback)
                )
            )
        )

    def result(self, patience: float = 60.0) -> Any:
        return self._get(self.handle.get_result_async(), patience)

    def cancel(self) -> None:
        self._get(self.handle.cancel_goal_async())

    @staticmethod
    def _get(future: Any, patience: float = 30.0) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(patience)
        return future.result()


def endless(folder: Path) -> Path:
    """A program in place of the interpreter: it answers the question for torch and then trains without end."""
    program = folder / "python"
    program.write_text('#!/bin/sh\ncase "$1" in -c) exit 0;; esac\necho $$ > pid\nexec sleep 600\n')
    program.chmod(0o755)
    return program
