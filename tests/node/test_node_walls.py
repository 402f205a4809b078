"""What needs no ROS does not import it, and the node's package does not hide the library."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ros2_ws" / "src" / "mile_edge"
PLAIN = (
    "experts",
    "fusing",
    "latest",
    "parameters",
    "pixels",
    "recorder",
    "sensor",
    "tally",
    "trainer",
    "unfinished",
    "worker",
)
ROS = (
    "rclpy",
    "sensor_msgs",
    "std_msgs",
    "vision_msgs",
    "rcl_interfaces",
    "mile_edge_interfaces",
    "diagnostic_updater",
    "launch",
)
ROS_SIDE = (
    "bundle_watch",
    "diagnostics",
    "expert_services",
    "fused_topics",
    "node",
    "session",
    "settings",
    "topics",
    "training_action",
    "main",
    "health",
    "launching",
)


def imports(name: str) -> set[str]:
    tree = ast.parse((PACKAGE / "mile_edge_node" / f"{name}.py").read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {*names, *(node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_module_imports_no_ros_and_no_module_that_does(name: str) -> None:
    for found in imports(name):
        assert found.split(".")[0] not in ROS, f"{name} imports {found}"
        assert found.removeprefix("mile_edge_node.") not in ROS_SIDE, f"{name} imports {found}"


def test_every_module_is_on_one_side() -> None:
    modules = {path.stem for path in (PACKAGE / "mile_edge_node").glob("*.py")} - {"__init__"}
    assert modules == {*PLAIN, *ROS_SIDE}


def test_the_nodes_python_package_is_not_called_like_the_library() -> None:
    setup = (PACKAGE / "setup.py").read_text()
    assert 'packages=["mile_edge_node"]' in setup
    assert 'name="mile_edge_node"' in setup


def test_no_launch_file_evaluates_text_or_needs_the_network() -> None:
    files = sorted((PACKAGE / "launch").glob("*.launch.py"))
    assert files
    for file in files:
        tree = ast.parse(file.read_text())
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "__import__"}, file
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in imported} & {"urllib", "requests", "http", "socket", "pip"}, file
