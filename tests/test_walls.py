"""The robot side never sees torch or rclpy, and ROS stays in its workspace."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROBOT = ("bundle", "runtime", "replay", "data", "calibration", "workers", "fleet")
WORKSHOP_ONLY = {"torch", "transformers", "onnx", "onnxscript", "peft", "rclpy", "cv2", "yaml", "scipy"}
ROOMS = ("network", "training", "export", "quantization", "studies")


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("room", ROBOT)
def test_a_robot_side_room_imports_nothing_of_the_workshop(room: str) -> None:
    files = sorted((REPOSITORY / "mile_edge" / room).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            assert name.split(".")[0] not in WORKSHOP_ONLY, f"{file} imports {name}"
            assert not name.startswith(tuple(f"mile_edge.{other}" for other in ROOMS)), f"{file} imports {name}"


def test_no_module_of_the_package_imports_ros() -> None:
    for file in (REPOSITORY / "mile_edge").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(file)} & {"rclpy", "sensor_msgs", "launch"}, file


def test_a_robot_loads_segmenter_replay_and_world_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = sys.modules['transformers'] = None\n"
        "import mile_edge.runtime, mile_edge.replay, mile_edge.bundle, mile_edge.data.world\n"
        "import mile_edge.calibration.gate\n"
        "from mile_edge.cli import main\n"
        "for command in ('demo', 'world', 'calibrate', 'experts', 'replay', 'evaluate', 'bench', 'inspect'):\n"
        "    try: main.main([command, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0, command\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
