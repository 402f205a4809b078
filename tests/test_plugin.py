"""The CUDA kernel: it compiles for every device we name, spills no register, and computes what mile::LowRank means."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mile_edge.errors import BackendError
from mile_edge.export.onnx_functions import add_low_rank_functions
from mile_edge.runtime.tensorrt import plugin, plugin_aot, plugin_graph
from mile_edge.runtime.tensorrt.api import find_api
from mile_edge.runtime.tensorrt.nvrtc import compile_source

REPOSITORY = Path(__file__).parents[1]
SOURCE, HERE = REPOSITORY / "plugin", Path(__file__).parent / "plugin"
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
# Orin, Ada, Hopper, Blackwell (data centre), Thor, Blackwell (workstation).
ARCHITECTURES = ("sm_87", "sm_89", "sm_90", "sm_100", "sm_110", "sm_120")

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not on this machine")


def instances() -> list[tuple[str, int, int, int]]:
    """Number, rank tiles, token tiles and access of each instance that runs where rows are aligned."""
    shapes = [(tiles, 1, 0) for tiles in (1, 2, 4, 8)] + [(tiles, 2, 0) for tiles in (1, 2, 4)]
    return [(number, *shape) for number in ("Half", "Single") for shape in shapes]


def for_the_processor(source: str, program: Path, *options: str) -> None:
    """nvcc hands plain C++ to g++, with CUDA's headers and here without its runtime."""
    if NVCC is None:
        pytest.skip("nvcc is not on this machine")
    command = [
        NVCC,
        "-x",
        "c++",
        "-std=c++17",
        "-O1",
        "-cudart=none",
        "-Xcompiler=-Wall,-Wno-unknown-pragmas",
        f"-I{SOURCE}",
        f"-I{HERE}",
    ]
    done = subprocess.run(
        [*command, *options, str(HERE / source), "-o", str(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernel_compiles_without_spilling_registers(architecture: str, tmp_path: Path) -> None:
    listed = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    if architecture not in listed:
        pytest.skip(f"this nvcc knows no {architecture}")
    source = tmp_path / "instances.cu"
    lines = ['#include "low_rank_kernel.cuh"'] + [
        f"template __global__ void mile::low_rank_kernel<mile::{n}, {r}, {t}, (mile::Access){a}>"
        "(const mile::LowRankArguments);"
        for n, r, t, a in instances()
    ]
    source.write_text("\n".join(lines) + "\n")
    command = [NVCC, "-std=c++17", "-O3", f"-arch={architecture}", "-cubin", "-Xptxas=-v", "-Werror=all-warnings"]
    done = subprocess.run(
        [*command, f"-I{SOURCE}", "-o", str(tmp_path / "out.cubin"), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.cubin").read_bytes().startswith(b"\x7fELF")
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert spills == [("0", "0", "0")] * len(instances()), done.stderr
    registers = dict(re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", done.stderr, re.DOTALL))
    assert len(registers) == len(instances())
    for name, used in registers.items():
        # Two blocks of 256 threads share the 65536 registers of a multiprocessor for the ranks that recipes use.
        assert int(used) <= (128 if re.search(r"Li1ELi[12]E|Li2ELi1E", name) else 255), (name, used)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel and its launcher compiled for the processor, see plugin/simt.h."""
    program = tmp_path_factory.mktemp("simt") / "on_cpu"
    for_the_processor("on_cpu.cpp", program)
    return program


def test_every_block_and_thread_computes_what_a_plain_loop_does(on_cpu: Path) -> None:
    done = subprocess.run([str(on_cpu)], capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) >= 90
    assert all(line.endswith("bits same ok") for line in lines), done.stdout


def test_calls_outside_the_kernels_limits_are_refused(on_cpu: Path) -> None:
    done = subprocess.run([str(on_cpu), "limits"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_benchmarks_plan_is_the_launchers(on_cpu: Path) -> None:
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        from on_gpu.plan import plan
    finally:
        sys.path.pop(0)
    cases = [
        (samples, tokens, inputs, outputs, rank, vector, access, processors)
        for samples in (1, 4)
        for tokens in (1, 300, 4800)
        for inputs, outputs in ((64, 64), (160, 640), (768, 3072), (3072, 768), (37, 51))
        for rank in (1, 8, 16, 33)
        for vector, access in ((8, 0), (4, 0), (8, 1), (4, 2))
        for processors in (16, 132)
    ]
    given = "\n".join(" ".join(map(str, case)) for case in cases)
    done = subprocess.run([str(on_cpu), "plans"], input=given, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases)
    for (*shape, vector, access, processors), line in zip(cases, lines, strict=True):
        own = plan(*shape, vector=vector, access=access, multiprocessors=processors)
        assert [int(value) for value in line.split()] == list(vars(own).values()), (shape, vector, access, processors)
        _, _, inputs, outputs, rank = shape
        fixed = plugin_aot.LayerSizes(vector == 8, inputs, outputs, rank, 0, 0, 0)
        if (own.parts, own.token_tiles) == (1, 1):
            assert (fixed.warps, fixed.rank_tiles, fixed.shared_bytes) == (own.warps, own.rank_tiles, own.shared_bytes)


@needs_nvcc
@pytest.mark.parametrize(
    "sizes",
    [
        plugin_aot.LayerSizes(False, 96, 200, 8, 8000, 16, 784),
        plugin_aot.LayerSizes(False, 33, 50, 11, 4001, 3, 366),
    ],
    ids=["vectors", "odd"],
)
def test_the_entry_for_tensorrt_computes_the_layer_and_compiles(sizes: plugin_aot.LayerSizes, tmp_path: Path) -> None:
    source = tmp_path / "entry.cu"
    source.write_text(plugin_aot.source(sizes))
    places = ("inputs", "outputs", "rank", "row_length", "a_start", "b_start", "warps", "shared_bytes")
    defined = [f"-D{name.upper()}={getattr(sizes, name)}" for name in places]
    program = tmp_path / "entry"
    for_the_processor("entry.cpp", program, f"-I{tmp_path}", *defined)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    half = plugin_aot.source(replace(sizes, half=True))
    source.write_text(half)
    command = [NVCC, "-std=c++17", "-arch=compute_87", "-ptx", f"-I{SOURCE}", "-o", str(tmp_path / "ptx"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ".visible .entry mile_low_rank(" in (tmp_path / "ptx").read_text()


def test_nvrtc_compiles_the_entry_for_tensorrt_where_there_is_no_nvcc() -> None:
    code = plugin_aot.source(plugin_aot.LayerSizes(True, 96, 200, 8, 8000, 16, 784))
    try:
        ptx, _ = compile_source(code, SOURCE, "compute_87")
    except BackendError as reason:
        if "not installed" in str(reason):
            pytest.skip(str(reason))
        raise
    assert b".visible .entry mile_low_rank(" in ptx and not ptx.endswith(b"\0")
    with pytest.raises(BackendError, match="NVRTC refused the kernel"):
        compile_source("no CUDA", SOURCE, "compute_87")


def tiny_graph() -> onnx.ModelProto:
    """One call of mile::LowRank: 35 tokens, 64 to 64, rank 8."""
    inputs = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("product", TensorProto.FLOAT16, ["B", 35, 64]),
            ("bias", TensorProto.FLOAT16, [64]),
            ("x", TensorProto.FLOAT16, ["B", 35, 64]),
            ("bank", TensorProto.FLOAT16, ["E", 1040]),
            ("expert", TensorProto.INT64, ["B"]),
        )
    ]
    places = {"a_start": [0], "a_end": [512], "a_shape": [-1, 8, 64]}
    places |= {"b_start": [512], "b_end": [1024], "b_shape": [-1, 64, 8]}
    node = helper.make_node("LowRank", [i.name for i in inputs], ["y"], domain="mile", rank=8, **places)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["B", 35, 64])
    graph = helper.make_graph([node], "tiny", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    add_low_rank_functions(model)
    return model


def test_a_graph_loses_the_functions_body_and_nothing_else() -> None:
    model = tiny_graph()
    cut = onnx.load_from_string(plugin_graph.without_function(model.SerializeToString()))
    assert [node.op_type for node in cut.graph.node] == ["LowRank"]
    del model.functions[:]
    assert cut == model


def test_calls_are_marked_for_a_plugin_from_python_and_nothing_else_changes() -> None:
    model = tiny_graph()
    marked = onnx.load_from_string(plugin_graph.for_python_plugin(model.SerializeToString(), "mile"))
    onnx.checker.check_model(marked)
    for name, value in (("plugin_namespace", "mile"), ("aot", 1)):
        model.graph.node[0].attribute.append(helper.make_attribute(name, value))
    assert marked == model


@pytest.mark.parametrize("data", [b"", b"no model at all", bytes(range(256)), b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(BackendError, match="the graph"):
        plugin_graph.without_function(data)


def test_a_graph_that_is_cut_short_is_refused() -> None:
    data = tiny_graph().SerializeToString()
    for length in range(0, len(data) - 1, 37):
        with pytest.raises(BackendError, match="the graph"):
            plugin_graph.without_function(data[:length])


def test_an_engine_needs_a_library_again_and_never_the_source_that_was_compiled_into_it(tmp_path: Path) -> None:
    library = tmp_path / "libmile_low_rank.so"
    library.write_bytes(b"a library")
    assert plugin.needed_later(library) == hashlib.sha256(b"a library").hexdigest()
    assert plugin.needed_later(SOURCE / "low_rank_kernel.cuh") is None
    with pytest.raises(BackendError, match=r"libgone\.so"):
        plugin.needed_later(tmp_path / "libgone.so")


def test_tensorrt_rtx_takes_no_plugins_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    api = find_api("tensorrt-rtx")
    with pytest.raises(BackendError, match=r"takes no plugins; build without one"):
        plugin.load(api, tmp_path / "libmile_low_rank.so", None)


def test_a_parser_without_the_function_asks_for_the_plugin(tmp_path: Path) -> None:
    """What an older parser is given: nothing but a plugin named LowRank can satisfy it."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert not parser.parse(plugin_graph.without_function(tiny_graph().SerializeToString()))
    assert "LowRank" in parser.get_error(0).desc() or parser.get_error(0).node_operator() == "LowRank"


@needs_nvcc
@pytest.mark.skipif("TENSORRT_ROOT" not in os.environ, reason="TENSORRT_ROOT names no folder with TensorRT's headers")
def test_the_plugin_compiles_against_tensorrt_and_runs_the_kernel(tmp_path: Path) -> None:
    program = tmp_path / "layer"
    for_the_processor("layer.cpp", program, "-isystem", str(Path(os.environ["TENSORRT_ROOT"]) / "include"))
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr
