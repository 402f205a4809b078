"""int8 bundles: what is quantised and what is not, what it costs, and that experts come and go as before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="int8 calibration needs onnx")
pytest.importorskip("torch", reason="the workshop side needs torch")

from bundle_makers import is_one_sentence, tree
from conftest import REFERENCE
from onnx import numpy_helper

from mile_edge.bundle import Bundle, verify_bundle, write_expert
from mile_edge.cli.main import main
from mile_edge.data.folder import FolderDataset
from mile_edge.data.world import write_folder
from mile_edge.errors import BundleError, DataError
from mile_edge.export.bundle import base_of
from mile_edge.quantization.bundle import Progress, calibrate_int8
from mile_edge.quantization.recipe import Int8Recipe
from mile_edge.runtime import Segmenter
from mile_edge.runtime.bench import bench
from workshop import SIZE, export_random, random_expert

# Every layer is tried alone, so tests leave most of them out; what stays has both sides of the tap, every kind of layer
# and a slice of the decoder.
FEW = (r".*stages\.[12]\..*", r".*blocks\.1\..*", r".*attention\..*", r".*linear_(projections|fuse#).*", "node_.*")
QUICK = {"limit": 8, "exclude": FEW}
LOOSE = Int8Recipe(max_drop=100, max_rerouted=100, max_shift=1000, **QUICK)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[FolderDataset]:
    """Sixteen small frames of a procedural street, by day and in fog."""
    root = tmp_path_factory.mktemp("int8-frames")
    made = [write_folder(root / name, [seed], 8, (name,), "camera", SIZE) for name, seed in (("clear", 3), ("fog", 4))]
    return [FolderDataset(path) for path in made]


@pytest.fixture(scope="module")
def source(workshop_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An untrained SegFormer-B0 with one random expert."""
    folder = tmp_path_factory.mktemp("int8-source")
    shutil.copytree(workshop_bundle, folder / "bundle")
    return with_expert(Bundle.open(folder / "bundle"), folder, "fog", 1)


@pytest.fixture(scope="module")
def int8(source: Bundle, frames: list[FolderDataset], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same in int8, whatever it costs."""
    return calibrate_int8(source, frames, tmp_path_factory.mktemp("int8") / "bundle", LOOSE)[0]


def with_expert(bundle: Bundle, folder: Path, name: str, seed: int) -> Bundle:
    write_expert(folder / f"{name}.safetensors", random_expert(bundle, name, seed))
    return bundle.add(folder / f"{name}.safetensors")


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


class Graph:
    """A segmenter's graph with its nodes by what they write."""

    def __init__(self, bundle: Bundle) -> None:
        self.model = onnx.load(bundle.network_path)
        self.nodes = {output: node for node in self.model.graph.node for output in node.output}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

    def quantised(self) -> list[onnx.NodeProto]:
        kinds = {"MatMul", "Gemm", "Conv"}
        return [node for node in self.model.graph.node if node.op_type in kinds and self.is_restored(node.input[1])]

    def is_restored(self, name: str) -> bool:
        return name in self.nodes and self.nodes[name].op_type == "DequantizeLinear"


def test_products_are_quantised_on_both_sides_symmetrically_and_nothing_else_is(int8: Bundle) -> None:
    graph = Graph(int8)
    products = graph.quantised()
    account = json.loads((int8.path / "int8.json").read_text())
    assert len(products) == account["int8_layers"] == sum(layer["int8"] for layer in account["layers"]) == 9
    for node in products:
        activation, weight = (graph.nodes[name] for name in node.input[:2])
        values, steps, zeros = (graph.constants[name] for name in weight.input)
        axis = weight.attribute[0].i
        assert values.dtype == np.int8 and steps.shape == zeros.shape == (values.shape[axis],) and not zeros.any()
        assert axis == (0 if node.op_type == "Conv" else 1)
        before = graph.nodes[activation.input[0]]
        assert before.op_type == "QuantizeLinear" and list(before.input[1:]) == list(activation.input[1:])
        step, zero = (graph.constants[name] for name in activation.input[1:])
        assert step.shape == () and step > 0 and zero.dtype == np.int8 and zero == 0
        assert all(graph.constants[name].dtype == np.float32 for name in node.input[2:])
    others = [node for node in graph.model.graph.node if node not in products and node.op_type != "DequantizeLinear"]
    restored = {name for node in others for name in node.input if graph.is_restored(name)}
    assert not restored, "LayerNorm, softmax, the gate and the low-rank path read what was there before"
    assert sum(node.op_type == "LowRank" for node in others) > 10
    onnx.checker.check_model(graph.model)


def test_everything_but_the_graphs_goes_over_bit_for_bit_and_the_source_stays(
    source: Bundle, frames: list[FolderDataset], tmp_path: Path
) -> None:
    shutil.copytree(source.path, tmp_path / "source")
    before = tree(tmp_path / "source")
    made, _ = calibrate_int8(Bundle.open(tmp_path / "source"), frames, tmp_path / "made", LOOSE)
    assert tree(tmp_path / "source") == before
    assert verify_bundle(made.path) == []
    files = {name: content for name, content in tree(made.path).items() if name.startswith("experts/")}
    assert files == {name: content for name, content in before.items() if name.startswith("experts/")} and files
    old, new = json.loads(source.manifest.to_json()), json.loads(made.manifest.to_json())
    for network in ("network", "base_graph"):
        assert (old[network].pop("precision"), new[network].pop("precision")) == ("fp32", "int8")
        assert old[network].pop("sha256") != new[network].pop("sha256")
    assert old == new
    assert made.network_path.stat().st_size < source.network_path.stat().st_size


def test_experts_come_and_go_on_an_int8_bundle_and_leave_the_others_bit_identical(int8: Bundle, tmp_path: Path) -> None:
    shutil.copytree(int8.path, tmp_path / "bundle")
    with Segmenter.open(tmp_path / "bundle", hysteresis=0) as segmenter:
        segmenter.pin("fog")
        before = segmenter(noise(0))
        write_expert(tmp_path / "rain.safetensors", random_expert(int8, "rain", 7))
        segmenter.add_expert(tmp_path / "rain.safetensors")
        after = segmenter(noise(0))
        segmenter.pin("rain")
        assert (segmenter(noise(0)).mask != before.mask).any(), "the low-rank path is alive"
        segmenter.remove_expert("rain")
        segmenter.pin("fog")
        last = segmenter(noise(0))
    for other in (after, last):
        assert (before.mask == other.mask).all() and (before.confidence == other.confidence).all()


def test_an_expert_fits_source_and_int8_alike(source: Bundle, int8: Bundle, tmp_path: Path) -> None:
    for bundle in (source, int8):
        folder = tmp_path / bundle.manifest.network.precision
        shutil.copytree(bundle.path, folder)
        assert with_expert(Bundle.open(folder), tmp_path, "rain", 7).manifest.experts[-1].name == "rain"


def test_bounds_of_nothing_leave_masks_of_no_folder_worse_and_distances_untouched(
    source: Bundle, frames: list[FolderDataset], tmp_path: Path
) -> None:
    strict = Int8Recipe(max_drop=0.0, max_rerouted=0.0, max_shift=0.0, **QUICK)
    made, account = calibrate_int8(source, frames, tmp_path / "made", strict)
    assert account["result"]["drop"] <= 0 and account["result"]["shift"] == 0 == account["result"]["rerouted"]
    assert account["int8_layers"] > 0 and not any(layer["int8"] for layer in account["layers"] if layer["gate"])
    with Segmenter(source) as before, Segmenter(made) as after:
        for seed in range(3):
            assert (before(noise(seed)).distance == after(noise(seed)).distance).all()


def test_an_excluded_layer_is_never_quantised_and_has_no_cost(int8: Bundle) -> None:
    account = json.loads((int8.path / "int8.json").read_text())
    excluded = [layer for layer in account["layers"] if LOOSE.excludes(layer["name"])]
    assert len(excluded) > 40 and all(layer["cost"] is None and not layer["int8"] for layer in excluded)
    names = {tensor.name for tensor in Graph(int8).model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert not [name for name in names if "stages.1" in name]


@pytest.fixture(scope="module")
def int8_half(frames: list[FolderDataset], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An fp16 bundle in int8, ranges by entropy."""
    folder = tmp_path_factory.mktemp("int8-half")
    half = Bundle.open(export_random(folder / "source", alone=True, precision="fp16"))
    return calibrate_int8(half, frames, folder / "made", replace(LOOSE, ranges="entropy"))[0]


def test_half_precision_stays_half_beside_int8(int8_half: Bundle) -> None:
    assert int8_half.manifest.network.precision == "int8-fp16" and int8_half.manifest.network.half
    account = json.loads((int8_half.path / "int8.json").read_text())
    assert account["rest"] == "fp16" and account["recipe"]["ranges"] == "entropy" and account["int8_layers"] > 3
    graph = Graph(int8_half)
    for node in graph.quantised():
        assert all(graph.constants[graph.nodes[name].input[1]].dtype == np.float16 for name in node.input[:2])
    with Segmenter(int8_half) as segmenter:
        assert segmenter(noise(0)).mask.shape == (1, *SIZE)


@pytest.mark.parametrize(
    ("precision", "experts", "batch"),
    [*(("int8", experts, batch) for experts in (16, 128) for batch in (1, 4)), ("int8-fp16", 16, 4)],
)
def test_tensorrt_builds_int8_strongly_typed_for_every_bank_and_batch(
    int8: Bundle, request: pytest.FixtureRequest, tmp_path: Path, precision: str, experts: int, batch: int
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install 'mile-edge[rtx]')")
    from mile_edge.runtime.tensorrt.api import find_api
    from mile_edge.runtime.tensorrt.build import BuildOptions, build_engine

    made: Bundle = int8 if precision == "int8" else request.getfixturevalue("int8_half")
    gate = replace(made.manifest.gate, thresholds={}, novelty=None)
    manifest = replace(made.manifest, experts=(), capacity=experts, gate=gate)
    graphs = (made.network_path.read_bytes(), Path(str(made.base_graph_path)).read_bytes())
    bundle = Bundle.create(tmp_path / "bundle", manifest, *graphs, made.experts()[0])
    path, engine = build_engine(bundle, find_api("tensorrt-rtx"), BuildOptions(batch, capabilities=("8.9",)))
    assert (engine.precision, engine.bank_rows, engine.max_batch) == (precision, experts + 1, batch)
    assert path.stat().st_size == engine.engine_bytes > 1 << 20


def test_real_frames_keep_their_masks_and_their_experts(real_data: Path, tmp_path: Path) -> None:
    day = real_data / "camvid" / "day"
    if not (day / "test").is_dir():
        pytest.skip(f"real frames are absent: {day} does not exist")
    source = Bundle.open(REFERENCE)
    made, account = calibrate_int8(source, [FolderDataset(day / "train")], tmp_path / "made", Int8Recipe(**QUICK))
    assert account["int8_layers"] > 4 and account["result"]["drop"] <= 1.0
    unseen = FolderDataset(day / "test")
    with Segmenter(source, hysteresis=0) as before, Segmenter(made, hysteresis=0) as after:
        for index in range(0, len(unseen), 20):
            one, other = before(unseen[index].frame), after(unseen[index].frame)
            assert one.expert == other.expert
            assert (one.mask == other.mask).mean() > 0.98
            assert other.distance[0, other.expert_index] == pytest.approx(one.distance[0, one.expert_index], rel=0.1)


def test_the_benchmark_compares_with_a_base_in_int8_that_shares_its_weights(int8: Bundle) -> None:
    result = bench(int8, rounds=1, threads=1)
    assert result.base_ms > 0 and result.gated_ms > 0
    graph = onnx.load(int8.base_graph_path, load_external_data=False).graph
    small = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims]
    assert sum(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in small) > 4


def test_an_int8_bundle_says_that_training_needs_the_base(int8: Bundle) -> None:
    with pytest.raises(BundleError, match="name the base with --base FOLDER"):
        base_of(int8)


def test_an_interrupt_leaves_nothing_behind(source: Bundle, frames: list[FolderDataset], tmp_path: Path) -> None:
    def interrupt(stage: str, _passes: int) -> None:
        if stage == "putting layers back":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_int8(source, frames, tmp_path / "made", LOOSE, Progress(stage=interrupt))
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_one_sentence_before_any_work(
    source: Bundle, int8: Bundle, frames: list[FolderDataset], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    few = [write_folder(tmp_path / "few", [3], 3, ("clear",), "camera", SIZE)]
    cases = [
        (int8, frames, tmp_path / "new", BundleError, "int8 already"),
        (source, frames, tmp_path / "there", BundleError, "it exists"),
        (source, [FolderDataset(path) for path in few], tmp_path / "new", DataError, "leave 3 frames"),
    ]
    for bundle, data, out, kind, words in cases:
        with pytest.raises(kind, match=words) as refusal:
            calibrate_int8(bundle, data, out, LOOSE)
        assert is_one_sentence(refusal.value)
    assert not (tmp_path / "new").exists()


def test_the_command_takes_a_recipe_and_overrules_it(
    source: Bundle, frames: list[FolderDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "ranges: entropy\nlimit: 8\nmax_drop: 100\nmax_shift: 1000\nmax_rerouted: 100\n"
        "exclude: ['.*stages.*', 'tap.*']\n"
    )
    data = [str(folder.path) for folder in frames]
    command = ["calibrate", "int8", str(source.path), "--data", *data, "--recipe", str(recipe)]
    assert main([*command, "--out", str(tmp_path / "a"), "--ranges", "minmax", "--json"]) == 0
    account = json.loads(capsys.readouterr().out)
    assert (account["recipe"]["ranges"], account["recipe"]["max_drop"]) == ("minmax", 100)
    assert account["int8_layers"] == 8 and account == json.loads((tmp_path / "a" / "int8.json").read_text())
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    assert f"8 of {account['candidates']} layers in int8" in shown.replace("\n", " ")
    for options, words in ((["--max-drop", "-1"], "max_drop is -1"), (["--ranges", "kl"], "ranges is 'kl'")):
        assert main([*command, "--out", str(tmp_path / "c"), *options]) == 2
        assert words in capsys.readouterr().err
    recipe.write_text("range: entropy\n")
    assert main([*command, "--out", str(tmp_path / "c")]) == 2
    assert "unknown key 'range'" in capsys.readouterr().err
