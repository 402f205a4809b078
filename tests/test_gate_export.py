"""A bundle exported again with a soft gate: same experts, another way to use them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")
onnx = pytest.importorskip("onnx", reason="the workshop side needs onnx")

from mile_edge.bundle import Bundle, write_expert
from mile_edge.cli.main import main
from mile_edge.errors import BundleError
from mile_edge.export.agreement import compare
from mile_edge.export.bundle import base_of
from mile_edge.runtime import Segmenter
from workshop import coarse_frames, random_expert

RECIPE = """
size: [64, 96]
rank: 4
capacity: 5
max_classes: 5
gate: {gate}
"""


def add_random(bundle: Bundle, folder: Path, names: tuple[str, ...], scale: float = 1.0) -> Bundle:
    for seed, name in enumerate(names):
        expert = random_expert(bundle, name, seed)
        pairs = {layer: (a, scale * b) for layer, (a, b) in expert.low_rank.items()}
        # Near enough that no expert has all the weight.
        mean = 0.99 * np.asarray(bundle.experts()[0].mean) + 0.01 * np.asarray(expert.mean)
        write_expert(folder / f"{name}.safetensors", replace(expert, low_rank=pairs, mean=mean.astype(np.float32)))
        bundle = bundle.add(folder / f"{name}.safetensors")
    return bundle


@pytest.fixture(scope="module")
def exported(workshop_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A bundle of three experts and the base, and the same again under the gate asked for."""
    folder = tmp_path_factory.mktemp("gates")
    shutil.copytree(workshop_bundle, folder / "hard")
    add_random(Bundle.open(folder / "hard"), folder, ("fog", "night", "rain"))

    def make(gate: str) -> Path:
        out = folder / gate.split()[0]
        if not out.exists():
            recipe = folder / f"{out.name}.yaml"
            recipe.write_text(RECIPE.format(gate=gate))
            assert main(["export", str(folder / "hard"), "--recipe", str(recipe), "--out", str(out), "--json"]) == 0
        return out

    return make


SEMLA = "semla\ntop_k: 2\ntau: 0.01"


@pytest.mark.parametrize("gate", [SEMLA, "uniform"], ids=["semla", "uniform"])
def test_a_soft_gate_agrees_with_torch_and_tells_its_weights(exported: Callable[[str], Path], gate: str) -> None:
    bundle = Bundle.open(exported(gate))
    assert [entry.name for entry in bundle.manifest.experts] == ["base", "fog", "night", "rain"]
    agreement = compare(bundle, coarse_frames(4), base_of(bundle))
    assert agreement["experts_equal"] == 1.0
    assert agreement["pixels_equal"] >= 0.999, agreement
    with Segmenter(bundle, hysteresis=0) as segmenter:
        result = segmenter(np.stack(coarse_frames(4)))
    assert result.weights.sum(axis=1) == pytest.approx(1)
    assert ((result.weights > 0).sum(axis=1) == (2 if gate == SEMLA else 4)).all()
    assert not result.weights[:, 4:].any(), "free rows take no part"
    if gate == SEMLA:
        assert (result.weights.argmax(axis=1) == result.expert_index).all()


def test_masks_under_a_pinned_expert_are_bit_identical_whoever_came_later(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(exported(SEMLA), tmp_path / "bundle")
    frame = coarse_frames(1)[0]

    def masks(segmenter: Segmenter) -> dict[str, bytes]:
        found = {}
        for name in ("base", "fog", "night", "rain"):
            segmenter.pin(name)
            result = segmenter(frame)
            assert result.expert == (name,)
            assert result.weights.max() == 1.0
            found[name] = result.mask.tobytes() + result.confidence.tobytes()
        segmenter.auto()
        return found

    with Segmenter.open(tmp_path / "bundle") as segmenter:
        before, soft = masks(segmenter), segmenter(frame).weights
        add_random(Bundle.open(tmp_path / "bundle"), tmp_path, ("snow",))
        segmenter.bundle.remove("snow")
        segmenter.add_expert(tmp_path / "snow.safetensors")
        assert masks(segmenter) == before
        segmenter.remove_expert("snow")
        assert np.array_equal(segmenter(frame).weights, soft)


def test_a_pinned_expert_is_the_hard_gates_and_experts_without_a_path_are_the_base(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    soft = exported(SEMLA)
    shutil.copytree(soft, tmp_path / "bundle")
    add_random(Bundle.open(tmp_path / "bundle"), tmp_path, ("still",), scale=0.0)
    frame = coarse_frames(1)[0]
    with Segmenter.open(tmp_path / "bundle") as segmenter, Segmenter.open(soft.with_name("hard")) as hard:
        for name in ("base", "fog"):
            segmenter.pin(name)
            hard.pin(name)
            assert (segmenter(frame).mask == hard(frame).mask).mean() > 0.999
        segmenter.pin("base")
        base = segmenter(frame).mask
        segmenter.auto()
        both = segmenter(frame, only=("base", "still"))
        assert (both.weights > 0).sum() == 2
        assert np.array_equal(both.mask, base)


def test_only_the_functions_that_a_gate_calls_are_in_its_graph(exported: Callable[[str], Path]) -> None:
    model = onnx.load(exported(SEMLA) / "segmenter.onnx")
    assert [function.name for function in model.functions] == ["LowRankMix"]


def test_the_gates_settings_are_shown_and_are_the_networks(
    exported: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(exported(SEMLA))
    capsys.readouterr()
    assert main(["inspect", str(bundle.path), "--json"]) == 0
    gate = json.loads(capsys.readouterr().out)["gate"]
    assert (gate["kind"], gate["top_k"], gate["tau"]) == ("semla", 2, 0.01)
    with pytest.raises(BundleError, match=r"gate\.tau is 0\.01"):
        bundle.set_gate(replace(bundle.manifest.gate, tau=0.5))
