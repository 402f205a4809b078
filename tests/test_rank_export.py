"""DAC and MoRA on a robot: one row of the bank for all tasks, put in place of the one before it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")
onnx = pytest.importorskip("onnx", reason="the workshop side needs onnx")

from test_training import write_data

from mile_edge.bundle import Bundle, Expert, write_expert
from mile_edge.cli.main import main
from mile_edge.errors import BundleError, ExpertError
from mile_edge.export.agreement import compare
from mile_edge.export.bundle import base_of
from mile_edge.runtime import Segmenter
from workshop import coarse_frames, random_expert

LAYERS = "segformer.stages.[23].*(q_proj|v_proj)"
RECIPE = f"""
size: [64, 96]
rank: 12
layers: '{LAYERS}'
prototypes: 3
capacity: 2
max_classes: 5
gate: """


@pytest.fixture(scope="module")
def exported(workshop_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The workshop's base as a bundle of gate mora and one of gate dac, without a task."""
    folder, made = tmp_path_factory.mktemp("ranks"), {}
    for gate in ("mora\ntop_k: 5\ntau: 0.1", "dac"):
        kind = gate.split()[0]
        (folder / f"{kind}.yaml").write_text(RECIPE + gate)
        made[kind] = folder / kind
        arguments = ["export", str(workshop_bundle), "--recipe", str(folder / f"{kind}.yaml"), "--json"]
        assert main([*arguments, "--out", str(made[kind])]) == 0
    return made


def adapter(bundle: Bundle, name: str, ranks: int, seed: int) -> Expert:
    """Random ranks as a task would leave them."""
    expert = random_expert(bundle, name, seed)
    pairs = {layer: (a[:ranks], b[:, :ranks]) for layer, (a, b) in expert.low_rank.items()}
    kind = "self_activated" if bundle.manifest.gate.kind == "mora" else "low_rank"
    means = np.stack([bundle.experts()[0].mean, expert.mean])
    return replace(expert, low_rank=pairs, rank=ranks, adapter=kind, prototypes=means)


def put(bundle: Bundle, expert: Expert, file: Path) -> Bundle:
    write_expert(file, expert)
    return bundle.add(file)


@pytest.mark.parametrize("kind", ["mora", "dac"])
def test_the_newest_adapter_serves_every_frame_and_agrees_with_torch(
    exported: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    bundle = Bundle.open(shutil.copytree(exported[kind], tmp_path / kind))
    called = {node.op_type for node in onnx.load(bundle.network_path).graph.node if node.domain == "mile"}
    assert called == {"LowRankSelf" if kind == "mora" else "LowRank"}
    images = np.stack(coarse_frames(3))
    with Segmenter(bundle, hysteresis=0) as segmenter:
        base = segmenter(images)
        assert set(base.expert) == {"base"}
        # Room for twelve ranks, of which seven are taken; then all.
        for seed, (name, ranks) in enumerate((("one", 7), ("two", 12))):
            write_expert(tmp_path / f"{name}.safetensors", adapter(bundle, name, ranks, seed))
            segmenter.add_expert(tmp_path / f"{name}.safetensors")
            after = segmenter(images)
            assert set(after.expert) == {name}
            assert (after.mask != base.mask).any()
            agreement = compare(segmenter.bundle, list(images), base_of(bundle))
            assert agreement["experts_equal"] == 1
            assert agreement["pixels_equal"] >= 0.999, agreement
        segmenter.pin("base")
        assert np.array_equal(segmenter(images).mask, base.mask)
        segmenter.auto()
        segmenter.remove_expert("two")
        assert set(segmenter(images).expert) == {"one"}, "what came before serves again"


def test_ranks_that_answer_nothing_are_the_base(exported: dict[str, Path], tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(exported["mora"], tmp_path / "mora"))
    made = adapter(bundle, "still", 7, 0)
    write_expert(
        tmp_path / "still.safetensors",
        replace(made, low_rank={layer: (a, np.zeros_like(b)) for layer, (a, b) in made.low_rank.items()}),
    )
    images = np.stack(coarse_frames(2))
    with Segmenter(bundle) as segmenter:
        before = segmenter(images)
        segmenter.add_expert(tmp_path / "still.safetensors")
        assert np.array_equal(segmenter(images).mask, before.mask)


def test_an_adapter_of_another_kind_is_refused_and_nothing_changes(exported: dict[str, Path], tmp_path: Path) -> None:
    mora, dac = (Bundle.open(exported[kind]) for kind in ("mora", "dac"))
    file = tmp_path / "new.safetensors"
    for bundle, expert, words in (
        (mora, adapter(dac, "new", 7, 0), "adapter kind low_rank"),
        (dac, adapter(mora, "new", 7, 0), "adapter kind self_activated"),
        (dac, replace(adapter(dac, "new", 7, 0), rank=8), "for rank 8"),
    ):
        with pytest.raises(ExpertError, match=words):
            put(bundle, expert, file)
    wide = adapter(dac, "new", 12, 0)
    pairs = {layer: (np.tile(a, (2, 1)), np.tile(b, (1, 2))) for layer, (a, b) in wide.low_rank.items()}
    with pytest.raises(ExpertError, match="24 ranks of all its tasks and this bundle room for 12"):
        put(dac, replace(wide, low_rank=pairs, rank=24), file)
    hostile = json.loads((exported["mora"] / "manifest.json").read_text())
    for key, value in (("delta", 7), ("delta", None), ("top_k", 0), ("tau", "warm")):
        broken = {**hostile, "gate": {**hostile["gate"], key: value}}
        with pytest.raises(BundleError, match=f"gate.{key}"):
            type(mora.manifest).from_json(json.dumps(broken))


@pytest.mark.parametrize(("kind", "left"), [("mora", 3), ("dac", 1)])
def test_the_command_trains_task_after_task_into_one_row(
    exported: dict[str, Path], tmp_path: Path, kind: str, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, data = shutil.copytree(exported[kind], tmp_path / kind), tmp_path / "data"
    write_data(data, 3)
    arguments = ["train", "expert", str(bundle), str(data), "--steps", "2", "--batch", "2", "--ranks", "3", "--add"]
    for task in ("one", "two"):
        out = tmp_path / f"{task}.safetensors"
        assert main([*arguments, "--name", task, "--domains", task, "--out", str(out), "--json"]) == 0
    opened = Bundle.open(bundle)
    assert [entry.name for entry in opened.manifest.experts] == ["base", "two"]
    newest = opened.experts()[-1]
    assert newest.rank == 2 * left
    assert newest.domains == ("day", "one", "two")
    assert newest.training["tasks"] == ["one", "two"]
    assert opened.choices() == (newest,)
    capsys.readouterr()
    # A third task would need a fourth prototype.
    assert main([*arguments, "--name", "three", "--out", str(tmp_path / "three.safetensors")]) == 2
    assert "3 domains already" in capsys.readouterr().err
    assert not (tmp_path / "three.safetensors").exists()
