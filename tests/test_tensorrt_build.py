"""Engines are really built, with TensorRT-RTX and without a GPU; every field of an engine's manifest is checked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install 'mile-edge[rtx]')")

from mile_edge.bundle import Bundle
from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt.api import find_api
from mile_edge.runtime.tensorrt.backend import read_engine
from mile_edge.runtime.tensorrt.build import BuildOptions, build_engine
from mile_edge.runtime.tensorrt.device import DeviceInfo
from mile_edge.runtime.tensorrt.manifest import EngineManifest, EngineTensor, check_engine, engine_path, manifest_path
from mile_edge.runtime.tensorrt.progress import BuildProgress

API = find_api("tensorrt-rtx")


def with_capacity(bundle: Path, capacity: int, out: Path) -> Bundle:
    """The same network and base under a bank of another size."""
    whole = Bundle.open(bundle)
    gate = replace(whole.manifest.gate, thresholds={}, novelty=None)
    manifest = replace(whole.manifest, experts=(), capacity=capacity, gate=gate)
    graphs = (whole.network_path.read_bytes(), Path(str(whole.base_graph_path)).read_bytes())
    return Bundle.create(out, manifest, *graphs, whole.experts()[0])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A bundle at 64x96 by precision, exported once."""
    pytest.importorskip("torch", reason="the workshop side needs torch")
    from workshop import export_random

    made: dict[str, Path] = {}

    def of(precision: str) -> Path:
        if precision not in made:
            folder = tmp_path_factory.mktemp(precision)
            made[precision] = export_random(folder / "bundle", alone=True, precision=precision)
        return made[precision]

    return of


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, EngineManifest]:
    """The reference bundle's engine."""
    from conftest import REFERENCE

    bundle = Bundle.open(REFERENCE)
    out = tmp_path_factory.mktemp("engine") / "reference.engine"
    return bundle, *build_engine(bundle, API, BuildOptions(capabilities=("8.9",)), out)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("experts", [16, 128])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_are_built_for_every_precision_bank_and_batch(
    small: Callable[[str], Path],
    tmp_path: Path,
    precision: str,
    experts: int,
    batch: int,
) -> None:
    bundle = with_capacity(small(precision), experts, tmp_path / "bundle")
    path, manifest = build_engine(bundle, API, BuildOptions(max_batch=batch, capabilities=("8.9",)))
    rows, length = experts + 1, bundle.manifest.low_rank.row_length
    bank = "HALF" if precision == "fp16" else "FLOAT"
    assert manifest.inputs == (
        EngineTensor("frames", "UINT8", (-1, 64, 96, 3)),
        EngineTensor("bank", bank, (rows, length)),
        EngineTensor("prototypes", "FLOAT", (rows, 1, 64)),
        EngineTensor("whitening", "FLOAT", (64, 64)),
        EngineTensor("gate_bias", "FLOAT", (-1, rows)),
    )
    assert manifest.outputs == (
        EngineTensor("mask", "UINT8", (-1, 64, 96)),
        EngineTensor("confidence", "UINT8", (-1, 64, 96)),
        EngineTensor("expert", "INT32", (-1,)),
        EngineTensor("distance", "FLOAT", (-1, rows)),
    )
    assert (manifest.precision, manifest.bank_rows, manifest.max_batch) == (precision, rows, batch)
    assert path == engine_path(bundle, "tensorrt-rtx")
    found, data = read_engine(path, bundle, API)
    assert found == manifest
    assert len(data) == manifest.engine_bytes > 1 << 20


WRONG = {
    "backend": "tensorrt",
    "version": "10.3.0",
    "onnx_sha256": "0" * 64,
    "precision": "fp16",
    "height": 480,
    "width": 640,
    "bank_rows": 129,
    "row_length": 7,
    "prototypes": 3,
    "dim": 32,
    "plugin_sha256": "1" * 64,
}


@pytest.mark.parametrize("field", WRONG)
def test_each_wrong_field_is_refused_by_name(built: tuple[Bundle, Path, EngineManifest], field: str) -> None:
    bundle, _, manifest = built
    check_engine(manifest, bundle, API, None)
    with pytest.raises(BackendError, match=rf"engine's {field} is .*mile-edge build .*--backend tensorrt-rtx"):
        check_engine(replace(manifest, **{field: WRONG[field]}), bundle, API, None)


def test_another_device_is_refused_by_name(built: tuple[Bundle, Path, EngineManifest]) -> None:
    bundle, _, manifest = built
    check_engine(manifest, bundle, API, DeviceInfo("NVIDIA L4", "8.9"))
    with pytest.raises(BackendError, match=r"capabilities is 8\.9 and 8\.7 is needed here"):
        check_engine(manifest, bundle, API, DeviceInfo("Orin", "8.7"))
    with pytest.raises(BackendError, match="device is NVIDIA L4 and NVIDIA RTX 4090 is needed here"):
        check_engine(replace(manifest, device="NVIDIA L4"), bundle, API, DeviceInfo("NVIDIA RTX 4090", "8.9"))


@pytest.mark.parametrize("field", [field.name for field in fields(EngineManifest)])
def test_a_manifest_without_a_field_is_refused_by_name(
    built: tuple[Bundle, Path, EngineManifest], tmp_path: Path, field: str
) -> None:
    bundle, _, manifest = built
    engine = tmp_path / "x.engine"
    values = asdict(manifest)
    del values[field]
    manifest_path(engine).write_text(json.dumps(values))
    with pytest.raises(BackendError, match=f"field {field} is missing"):
        EngineManifest.read(engine, bundle.path)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"name": ""}, r"inputs\[1\]\.name"),
        ({"type": "half"}, r"inputs\[1\]\.type"),
        ({"shape": [1.0]}, r"inputs\[1\]\.shape\[0\]"),
        ({"shape": [-2]}, r"inputs\[1\]\.shape\[0\]"),
        ({"stride": 1}, r"inputs\[1\]\.stride"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused_by_name(
    built: tuple[Bundle, Path, EngineManifest], tmp_path: Path, wrong: dict[str, object], where: str
) -> None:
    bundle, _, manifest = built
    engine = tmp_path / "x.engine"
    values = asdict(manifest)
    values["inputs"][1].update(wrong)
    manifest_path(engine).write_text(json.dumps(values))
    with pytest.raises(BackendError, match=where):
        EngineManifest.read(engine, bundle.path)


def test_damaged_engines_are_refused_in_one_sentence(
    built: tuple[Bundle, Path, EngineManifest], tmp_path: Path
) -> None:
    bundle, path, manifest = built
    engine = tmp_path / "x.engine"
    with pytest.raises(BackendError, match="does not exist; build the engine: mile-edge build"):
        read_engine(engine, bundle, API)
    data = path.read_bytes()
    engine.write_bytes(data[:5000])
    with pytest.raises(BackendError, match="has no manifest"):
        read_engine(engine, bundle, API)
    manifest_path(engine).write_text(manifest.to_json())
    with pytest.raises(BackendError, match=f"has 5000 bytes of {len(data)}"):
        read_engine(engine, bundle, API)
    engine.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BackendError, match="damaged, its SHA-256 differs"):
        read_engine(engine, bundle, API)
    manifest_path(engine).write_text("[]")
    with pytest.raises(BackendError, match="not a JSON object"):
        read_engine(engine, bundle, API)


def test_a_bundle_without_its_graph_builds_nothing(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    graph = bundle.network_path
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(BackendError, match="is not the one the manifest names"):
        build_engine(bundle, API, BuildOptions())
    graph.unlink()
    with pytest.raises(BackendError, match=r"has no segmenter\.onnx; export the bundle again"):
        build_engine(bundle, API, BuildOptions())
    assert not (tiny_bundle / "engines").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (BuildOptions(max_batch=0), "--max-batch is 0; give 1 to 64"),
        (BuildOptions(workspace_mib=-1), "--workspace is -1"),
        (BuildOptions(optimization_level=9), "--optimization-level is 9; give 0 to 5"),
        (BuildOptions(capabilities=("9.0",)), r"compute capability 9\.0 is not served by tensorrt-rtx"),
        (BuildOptions(plugin=Path("/nowhere/lib.so")), "plugin /nowhere/lib.so cannot be opened"),
    ],
)
def test_wrong_options_are_refused(tiny_bundle: Path, options: BuildOptions, says: str) -> None:
    with pytest.raises(BackendError, match=says):
        build_engine(Bundle.open(tiny_bundle), API, options)


def test_progress_only_grows(tiny_bundle: Path) -> None:
    seen: list[BuildProgress] = []
    options = BuildOptions(max_batch=1, capabilities=("8.9",))
    build_engine(Bundle.open(tiny_bundle), API, options, report=seen.append)
    shares = [progress.done for progress in seen]
    assert shares == sorted(shares)
    assert 0 < max(shares) <= 1
    assert len({progress.phase for progress in seen}) > 3


def test_an_interrupt_leaves_nothing_behind(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "mile_edge", "build", str(tiny_bundle), "--compute-capability", "8.9"]
    # A shell's background job may have told its children to ignore SIGINT.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not _has_mapped(process.pid, "tensorrt") and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said
    assert not (tiny_bundle / "engines").exists()


def _has_mapped(pid: int, part: str) -> bool:
    try:
        return part in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
