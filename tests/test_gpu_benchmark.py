"""benchmarks/gpu.py: what it says without a GPU, how it judges figures, and the launches it makes without nvcc."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the benchmark measures against torch")

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "benchmarks" / "gpu.py"


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence_and_exits_with_2() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "finds no CUDA device; run this where an NVIDIA GPU" in done.stderr


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert runpy.run_path(str(SCRIPT))["main"]([]) == 2
    assert "torch is not installed" in capsys.readouterr().err


def layer(network: str, *, fused: float, matmuls: float, floor: float, batch: int = 1) -> dict[str, Any]:
    row = {"network": network, "layer": "q", "batch": batch, "tokens": 1200, "inputs": 768, "outputs": 768}
    row["floor_us"] = floor
    for kind in ("cold", "warm"):
        for name, value in (("fused", fused), ("two_matmuls", matmuls), ("folded", matmuls), ("as_written", matmuls)):
            row[f"{name}_{kind}_us"] = value
    return row


MACHINE = {"device": "GPU", "capability": "9.0", "driver": "1", "torch": "2", "copy_gb_per_s": 3000.0, "kernel": "nvcc"}


def test_the_worst_shape_decides_whether_a_bound_holds() -> None:
    from on_gpu.report import render, verdicts

    found: dict[str, Any] = {
        "machine": MACHINE,
        "missing": [],
        "layers": [
            layer("segformer-b0", fused=2, matmuls=8, floor=1),
            layer("segformer-b0", fused=2, matmuls=3, floor=1),
            layer("vit-b", fused=3, matmuls=9, floor=2.4),
            layer("vit-b", fused=30, matmuls=9, floor=2.4, batch=4),
        ],
        "correctness": [{"relative_error": 5e-4}, {"relative_error": 7e-4}],
    }
    found["verdicts"] = verdicts(found)
    assert [(entry["figure"], entry["holds"]) for entry in found["verdicts"]] == [
        (1.5, False),
        (pytest.approx(0.8), True),
        (7e-4, True),
        (None, None),
        (None, None),
    ]
    text = render({**found, "networks": [network(1.02), network(1.2, batch=4)]})
    assert "milliseconds per batch of B frames" in text
    assert "[FAILS] fused kernel over torch's two products and addition, SegFormer-B0: 1.5 (bound >= 2.0)" in text
    assert "[open] gated pass over frozen base, CUDA graphs: not measured (bound <= 1.03)" in text


def network(ratio: float, batch: int = 1) -> dict[str, Any]:
    row = {"network": "segformer-b0", "height": 480, "width": 640, "batch": batch, "adapted_layers": 6}
    return row | {"base_ms": 1.0, "gated_native_ms": ratio, "gated_over_base": ratio, "two_passes_over_gated": 2.0}


def test_bounds_are_for_one_frame_and_what_is_no_number_holds_none() -> None:
    from on_gpu.report import BOUNDS, verdicts

    found = {"networks": [network(1.02), network(1.2, batch=4)], "adding": {"delay_max_ms": 0.5}}
    found["correctness"] = [{"relative_error": 1e-4}, {"relative_error": math.nan}]
    holds = {entry["what"].split(",")[0]: entry for entry in verdicts(found)}
    assert holds["gated pass over frozen base"]["holds"] is True
    assert holds["largest relative error"]["holds"] is False
    assert holds["longest delay of a frame by adding"]["bound"] == BOUNDS["add_delay_ms"]


def test_the_exit_code_tells_measured_from_failed_and_from_nothing() -> None:
    from on_gpu.report import exit_code, verdicts

    def code(found: dict[str, Any], *, failed: bool = False) -> int:
        return exit_code({**found, "failed": failed, "verdicts": verdicts(found)})

    assert code({"machine": MACHINE}) == code({"machine": MACHINE, "layers": []}, failed=True) == 2
    assert code({"networks": [network(1.02)]}) == 0
    assert code({"networks": [network(1.02)]}, failed=True) == code({"networks": [network(1.2)]}) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_part_that_fails_says_why_and_ends_only_its_own_process(tmp_path: Path) -> None:
    from on_gpu.apart import Order, run_apart, run_here

    order = Order(1, (1,), REPOSITORY / "bundles" / "reference")
    file = tmp_path / "part.json"
    run_here("experts", order, tmp_path, file)
    written = json.loads(file.read_text())
    assert written["failed"]
    assert written["missing"][0].startswith("experts failed: ")
    answer = run_apart("layers", order, tmp_path, 120)
    assert (answer.figures, answer.missing, answer.failed) == ({}, ["layers failed: it ended with status 2"], True)
    assert run_apart("layers", order, tmp_path, 0.01).missing == ["layers failed: it took longer than 0.01 s"]


def test_what_a_part_measured_before_it_was_ended_is_kept(tmp_path: Path) -> None:
    from on_gpu.apart import _ended

    file = tmp_path / "part.json"
    assert _ended("layers", file, "").missing == ["layers failed: it wrote nothing"]
    file.write_text(json.dumps({"figures": {"layers": [{"batch": 1}]}, "missing": ["no nvcc"], "failed": False}))
    kept = _ended("layers", file, "signal SIGKILL ended it")
    assert kept.figures == {"layers": [{"batch": 1}]}
    assert kept.missing == ["no nvcc", "layers failed: signal SIGKILL ended it"]
    assert kept.failed
    assert not _ended("layers", file, "").failed


def test_an_engines_figures_are_its_times_and_whether_it_says_the_same() -> None:
    from on_gpu.engine import agreement, street, times

    from mile_edge.runtime import Segmenter

    bundle = REPOSITORY / "bundles" / "reference"
    with Segmenter.open(bundle, hysteresis=0, threads=1) as plain, Segmenter.open(bundle, threads=1) as same:
        frames = {"fog": street()["fog"]}
        assert agreement(same, plain, frames) == {"same_pixels": 1.0, "same_experts": 1.0}
        same.pin("night")
        found = agreement(same, plain, frames)
        assert found["same_experts"] == 0.0
        assert found["same_pixels"] < 1.0
        taken = times(plain, 2, 1)
    assert 0 < taken["batch_2_ms"] <= taken["batch_2_p95_ms"]


def test_a_shape_without_the_kernel_is_never_filled_with_another_figure() -> None:
    from on_gpu.report import render, verdicts

    rows = [{k: v for k, v in layer("vit-b", fused=1, matmuls=2, floor=1).items() if not k.startswith("fused")}]
    found: dict[str, Any] = {"machine": MACHINE, "missing": ["no nvcc"], "layers": rows}
    found["verdicts"] = verdicts(found)
    assert all(entry["holds"] is None for entry in found["verdicts"])
    assert "not measured: no nvcc" in render(found)


def test_another_low_rank_function_serves_every_adapted_layer_and_leaves_again() -> None:
    from on_gpu.network import low_rank_by, make_networks

    from mile_edge.network.low_rank import low_rank

    networks = make_networks("segformer-b0", (32, 32), experts=3, half=False, device="cpu")
    calls: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(arguments[5])
        return low_rank(*arguments)

    with torch.no_grad():
        with low_rank_by(networks.gated, counted):
            by_another = networks.gated(*networks.inputs.all())
        assert sorted(calls) == sorted(map(networks.gated.layout.offset, networks.gated.pool.adapters))
        by_own = networks.gated(*networks.inputs.all())
    assert len(calls) == len(networks.gated.pool.adapters)
    assert all(map(torch.equal, by_another, by_own))


def test_nvrtc_compiles_the_kernel_from_the_same_source() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    from on_gpu.kernel import MissingError, compile_cubin

    name = "mile::low_rank_kernel<mile::Half, 1, 1, (mile::Access)0>"
    try:
        cubin, lowered = compile_cubin(name, "sm_87")
    except MissingError as reason:
        if "NVRTC is not installed" in str(reason):
            pytest.skip(str(reason).splitlines()[0])
        raise
    assert lowered.startswith("_ZN4mile15low_rank_kernelINS_4HalfELi1ELi1E")
    assert cubin.startswith(b"\x7fELF")
    with pytest.raises(MissingError, match="NVRTC refused the kernel"):
        compile_cubin("mile::no_such_kernel", "sm_87")
