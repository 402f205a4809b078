"""Class increments: an expert brings classes of its own, the label space grows, and nothing learned before moves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from mile_edge.bundle import Bundle
from mile_edge.cli.main import main
from mile_edge.data.folder import FolderDataset
from mile_edge.export.bundle import base_expert, export_bundle
from mile_edge.network.base import load_base
from mile_edge.runtime import Segmenter
from workshop import RECIPE


def some_of(source: Path, classes: Path, count: int, out: Path, colours: dict[str, list[int]]) -> FolderDataset:
    """A few frames of a data set as a domain of their own, known classes in the colours that they have already."""
    for part in ("images", "labels"):
        (out / part).mkdir(parents=True)
        for file in sorted((source / part).iterdir())[:count]:
            shutil.copy(file, out / part)
    settings = yaml.safe_load(classes.read_text())
    for label in settings["classes"]:
        label["color"] = colours.get(label["name"], label["color"])
    (out / "classes.yaml").write_text(yaml.safe_dump({**settings, "domain": out.name}))
    return FolderDataset(out)


@pytest.fixture(scope="module")
def grown(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], Path]:
    """A bundle of CamVid's classes with an expert for dusk and then one for off-road frames and their own classes;
    the masks before the last came, by expert; and the off-road folder."""
    folder = tmp_path_factory.mktemp("classes")
    streets = FolderDataset(real_data / "camvid" / "day" / "train")
    frames = [streets[place] for place in range(6)]
    recipe = replace(RECIPE, max_classes=20)
    base = load_base("random:segformer-b0", len(streets.classes))
    own = base_expert(base, recipe, streets.classes, frames, "day", ("camera",), ("day",))
    export_bundle(base, own, recipe, folder / "bundle", alone=False)
    taken = {label.name: list(label.color) for label in streets.classes}
    sources = {"dusk": ("camvid/dusk/train", "camvid"), "trail": ("ycor/train", "ycor")}
    before: dict[str, bytes] = {}
    for name, (source, classes) in sources.items():
        data = some_of(real_data / source, real_data / classes / "classes.yaml", 5, folder / name, taken)
        arguments = ["train", "expert", str(folder / "bundle"), str(data.path), "--name", name, "--steps", "20"]
        arguments += ["--batch", "2", "--add", "--json", "--out", str(folder / f"{name}.safetensors")]
        before = masks(folder / "bundle", frames[0].frame) if name == "trail" else before
        assert main(arguments) == 0
    return folder / "bundle", before, folder / "trail"


def masks(bundle: Path, frame: np.ndarray) -> dict[str, bytes]:
    with Segmenter.open(bundle) as segmenter:
        found = {}
        for name in ("day", "dusk"):
            segmenter.pin(name)
            result = segmenter(frame)
            found[name] = result.mask.tobytes() + result.confidence.tobytes()
        return found


def test_the_label_space_grows_and_earlier_experts_masks_stay_bit_identical(
    grown: tuple[Path, dict[str, bytes], Path], real_data: Path
) -> None:
    bundle, before, _ = grown
    manifest = Bundle.open(bundle).manifest
    streets = FolderDataset(real_data / "camvid" / "day" / "train")
    assert manifest.classes[:11] == streets.classes, "ids that were given keep their meaning"
    new = [label.name for label in manifest.classes[11:]]
    assert new == [
        "smooth trail",
        "traversable grass",
        "rough trail",
        "non-traversable",
        "obstacle",
        "low vegetation",
        "high vegetation",
    ]
    assert masks(bundle, streets[0].frame) == before


def test_an_expert_sees_its_own_classes_and_no_others(grown: tuple[Path, dict[str, bytes], Path]) -> None:
    bundle, _, trail = grown
    opened, off_road = Bundle.open(bundle), FolderDataset(trail)
    with Segmenter(opened) as segmenter:
        assert segmenter.classes == opened.manifest.classes
        segmenter.pin("trail")
        seen = set(np.unique(segmenter(off_road[0].frame).mask).tolist())
        assert seen <= {0, *range(11, 18)}
        assert seen & set(range(11, 18))
        segmenter.pin("dusk")
        assert set(np.unique(segmenter(off_road[0].frame).mask).tolist()) <= set(range(11))


def test_scores_name_the_new_classes(
    grown: tuple[Path, dict[str, bytes], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _, trail = grown
    capsys.readouterr()
    assert main(["evaluate", str(bundle), str(trail), "--expert", "trail", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "high vegetation" in json.dumps(told)
    assert main(["inspect", str(bundle), "--json"]) == 0
    assert "rough trail" in capsys.readouterr().out
