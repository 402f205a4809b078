"""Fixtures that are real things: a shipped bundle, an exported network, rendered frames."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# Their assertions speak as those of the tests themselves do.
pytest.register_assert_rewrite("bag_makers", "bundle_checks", "forks", "replays")

REPOSITORY = Path(__file__).parents[1]
REFERENCE = REPOSITORY / "bundles" / "reference"
# The node's modules that need no ROS, straight from the workspace: what tests/node is about.
sys.path.append(str(REPOSITORY / "ros2_ws" / "src" / "mile_edge"))
DATA = Path(os.environ.get("MILE_EDGE_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"real data is absent: {DATA} does not exist (MILE_EDGE_DATA names another folder)")
    return DATA


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The shipped bundle; no test changes it."""
    path = Path(os.environ.get("MILE_EDGE_BUNDLE", REFERENCE))
    if not path.is_dir():
        pytest.skip(f"there is no bundle at {path} (MILE_EDGE_BUNDLE names another)")
    return path


@pytest.fixture(scope="session")
def domain(bundle: Path) -> str:
    """A domain where the bundle has a right expert for a camera."""
    from mile_edge.bundle import Bundle

    return next(name for e in Bundle.open(bundle).experts() if "camera" in e.sensors for name in e.domains)


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle that a test may change."""
    shutil.copytree(REFERENCE, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory where there is one: these tests kill processes, not disks, and make hundreds of changes."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bag of each kind with the same messages."""
    from bag_makers import record
    from recording import KINDS

    folder = tmp_path_factory.mktemp("bags")
    return {kind: record(folder / f"{kind}{'.bag' if kind[:4] == 'ros1' else ''}", kind) for kind in KINDS}


@pytest.fixture(scope="session")
def street_frames() -> dict[str, np.ndarray]:
    """Frames of one unseen street, (240, 320, 3) uint8, by domain; and of depth and thermal."""
    from mile_edge.data.sensors import DEFAULT_PROFILES
    from mile_edge.data.world import DOMAINS, World

    views = World(4243).views(1.0, DOMAINS)
    frames = {domain: view.rgb for domain, view in views.items()}
    frames["depth"] = DEFAULT_PROFILES["depth"].to_frame(views["clear"].depth, "16UC1")
    frames["thermal"] = DEFAULT_PROFILES["thermal"].to_frame(views["clear"].thermal, "mono16")
    return frames


@pytest.fixture(scope="session")
def workshop_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly exported bundle of an untrained SegFormer-B0 at 64x96, without experts."""
    torch = pytest.importorskip("torch", reason="the workshop side needs torch")
    from workshop import export_random

    torch.manual_seed(0)
    return export_random(tmp_path_factory.mktemp("workshop") / "bundle", alone=True)


@pytest.fixture(scope="session")
def fusing_bundle(workshop_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two experts, the graph that fuses and a head of random weights."""
    pytest.importorskip("torch", reason="the workshop side needs torch")
    from fusion_makers import random_head

    from mile_edge.bundle import Bundle, set_fusion_head, write_expert, write_head
    from mile_edge.export.fusion import give_fusion
    from workshop import random_expert

    folder = tmp_path_factory.mktemp("fusing")
    shutil.copytree(workshop_bundle, folder / "bundle")
    bundle = Bundle.open(folder / "bundle")
    for seed, name in enumerate(("fog", "night")):
        write_expert(folder / f"{name}.safetensors", random_expert(bundle, name, seed))
        bundle = bundle.add(folder / f"{name}.safetensors")
    bundle = give_fusion(bundle, "both-aux", 16)
    write_head(folder / "head.safetensors", random_head(bundle))
    set_fusion_head(bundle, folder / "head.safetensors")
    return folder / "bundle"
