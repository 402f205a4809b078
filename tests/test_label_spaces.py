"""Base and data name their classes differently: whose rows a classifier starts from, and whose colours it gets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from PIL import Image

from mile_edge.bundle import Bundle, ClassLabel
from mile_edge.bundle.labels import in_colours_of
from mile_edge.cli.main import main
from mile_edge.data.folder import FolderDataset
from mile_edge.errors import RecipeError
from mile_edge.export.bundle import base_of, pool_of
from mile_edge.network.base import load_base
from mile_edge.training.augment import Augmentation
from mile_edge.training.expert import ExpertTask, train_expert
from mile_edge.training.fit import Schedule
from workshop import CLASSES, SIZE, noisy_frames

# Another place's data: its sky has another colour, its lane the colour that the bundle gives to road, its mud is new.
SETTINGS = """sensor: camera
domain: harbour
classes:
  - {id: 0, name: sky, color: [1, 2, 3]}
  - {id: 1, name: lane, color: [128, 64, 128]}
  - {id: 2, name: mud, color: [9, 9, 9]}
"""


def harbour(folder: Path) -> Path:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.yaml").write_text(SETTINGS)
    for sample in noisy_frames(4, 3):
        Image.fromarray(sample.frame).save(folder / "images" / f"{sample.name}.png")
        Image.fromarray(np.asarray(sample.label)).save(folder / "labels" / f"{sample.name}.png")
    return folder


def test_rows_of_published_weights_become_the_classes_of_the_data(real_data: Path) -> None:
    path = str(real_data / "weights" / "espnetv2_s_0.5_city_512x256.pth")
    x = torch.randn(1, 3, 64, 96)
    scores = load_base(path)(pixel_values=x).logits
    mapped = load_base(path, rows=(10, None, 13))
    assert mapped.config.num_labels == 3
    found = mapped(pixel_values=x).logits
    assert torch.allclose(found[:, [0, 2]], scores[:, [10, 13]], atol=1e-5)
    assert not found[:, 1].any()
    with pytest.raises(RecipeError, match="row 20 and the base has 20"):
        load_base(path, rows=(20,))


def test_an_expert_starts_from_the_rows_that_a_map_names(workshop_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(workshop_bundle)
    own = bundle.experts()[0]
    for rows, expected in ((None, (0, None, None)), ((0, 1, None), (0, 1, None))):
        expert, _ = train_expert(
            pool_of(bundle, base_of(bundle)),
            ExpertTask("harbour"),
            [FolderDataset(harbour(tmp_path / str(rows)))],
            [],
            size=SIZE,
            schedule=Schedule(steps=1, batch=1, lr=1e-9, weight_decay=0.0),
            augmentation=Augmentation(),
            start=own,
            rows=rows,
        )
        for row, source in enumerate(expected):
            weight = 0.0 if source is None else own.classifier_weight[source]
            np.testing.assert_allclose(expert.classifier_weight[row], weight, atol=1e-6)


def test_classes_of_another_place_keep_their_names_and_get_free_colours() -> None:
    theirs = (ClassLabel("sky", (1, 2, 3)), ClassLabel("lane", CLASSES[1].color), ClassLabel("mud", (9, 9, 9)))
    sky, lane, mud = in_colours_of(CLASSES, theirs)
    assert (sky, mud) == (CLASSES[0], theirs[2])
    assert lane.name == "lane"
    assert len({label.color for label in (*CLASSES, lane, mud)}) == 5
    crowded = tuple(ClassLabel(f"c{index}", (7, 7, 7)) for index in range(300))
    colours = {label.color for label in in_colours_of((), crowded)}
    assert len(colours) == 300
    assert all(0 <= part <= 255 for color in colours for part in color)


def test_the_command_adds_an_expert_of_another_label_space(
    workshop_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "map.yaml").write_text("sky: sky\nroad: lane\n")
    path, data = shutil.copytree(workshop_bundle, tmp_path / "bundle"), str(harbour(tmp_path / "harbour"))
    command = ["train", "expert", str(path), data, "--name", "harbour", "--add", "--steps", "2"]
    command += ["--batch", "1", "--start-map", str(tmp_path / "map.yaml"), "--out", str(tmp_path / "h.safetensors")]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added_to"] == str(path)
    bundle = Bundle.open(path)
    assert [label.name for label in bundle.manifest.classes] == ["sky", "road", "car", "lane", "mud"]
    assert main(["evaluate", str(path), data, "--expert", "harbour", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["folders"][data]["iou"]) == {"sky", "lane"}


@pytest.mark.parametrize("missing", ["street", "9"])
def test_a_start_map_that_names_what_does_not_exist_is_refused(
    workshop_bundle: Path, tmp_path: Path, missing: str
) -> None:
    (tmp_path / "map.yaml").write_text(f"{missing}: lane\n")
    data = str(harbour(tmp_path / "harbour"))
    command = ["train", "expert", str(workshop_bundle), data, "--name", "harbour", "--steps", "1"]
    assert main([*command, "--start-map", str(tmp_path / "map.yaml")]) != 0
    assert Bundle.open(workshop_bundle).manifest.classes == CLASSES
