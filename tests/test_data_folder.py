"""Labelled folders and bags as training data: real sets, and what is wrong with broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mile_edge.bundle import ClassLabel
from mile_edge.data.folder import FolderDataset
from mile_edge.data.labelled_bag import LabelledBag, is_bag
from mile_edge.data.world import World, write_bag
from mile_edge.data.world.classes import WORLD_CLASSES
from mile_edge.errors import BagError, DataError

CLASSES = "classes:\n  - {id: 0, name: sky, color: [1, 2, 3]}\n  - {id: 1, name: road, color: [4, 5, 6]}\n"


def write(folder: Path, image: np.ndarray, label: np.ndarray | None, classes: str = CLASSES) -> Path:
    for kind, array in (("images", image), ("labels", label)):
        if array is not None:
            (folder / kind).mkdir(parents=True)
            Image.fromarray(array).save(folder / kind / "a.png")
    (folder / "classes.yaml").write_text(classes)
    return folder


GREY, LABEL = np.full((6, 8), 9, np.uint8), np.zeros((6, 8), np.uint8)


@pytest.mark.parametrize(
    ("name", "frames", "classes"),
    [("camvid/day/test", 114, 11), ("camvid/dusk/train", 62, 11), ("idd_lite/test", 136, 7), ("cwfid/test", 14, 3)],
)
def test_the_real_sets_are_read_whole(real_data: Path, name: str, frames: int, classes: int) -> None:
    data = FolderDataset(real_data / name)
    assert len(data) == frames
    assert len(data.classes) == classes
    sample = data[0]
    assert sample.label is not None
    assert sample.frame.shape == (*sample.label.shape, 3)
    assert set(np.unique(sample.label)) <= {*range(classes), 255}


def test_a_folder_of_bare_images_has_frames_without_labels(real_data: Path) -> None:
    data = FolderDataset(real_data / "roadscene" / "thermal")
    assert len(data) == 148
    assert data[0].label is None
    assert data.classes == ()


def test_a_grey_image_becomes_three_equal_channels(tmp_path: Path) -> None:
    frame = FolderDataset(write(tmp_path / "d", GREY, LABEL))[0].frame
    assert frame.shape == (6, 8, 3)
    assert (frame == 9).all()


@pytest.mark.parametrize(
    ("image", "label", "classes", "word"),
    [
        (None, None, CLASSES, "no images"),
        (GREY, LABEL, "classes: [", "cannot be read"),
        (GREY, LABEL, "- 1", "write a mapping"),
        (GREY, LABEL, "# nothing yet", "holds null; write a mapping"),
        (GREY, LABEL, "classes:\n", "classes are null; write a list"),
        (GREY, LABEL, "classes: [3]\n", "one is 3; mend it"),
        (GREY, LABEL, "ignore: 0\n" + CLASSES, "ignore: 0"),
        (GREY, LABEL, 'ignore: "255\\ndepth"\n' + CLASSES, "ignore: .255"),
        (GREY, LABEL, "classes:\n  - {id: 1, name: road, color: [4, 5, 6]}\n", "ids are"),
        (GREY, LABEL, "classes:\n  - {id: 0, name: road}\n", "needs id, name and color"),
        (GREY, LABEL, "classes:\n  - {id: 0, name: road, color: [4, 5, 600]}\n", "600"),
        (GREY, LABEL, CLASSES.replace("road", "sky"), "the name 'sky'"),
        (GREY, LABEL, CLASSES.replace("4, 5, 6", "1, 2, 3"), "the color"),
        (GREY, LABEL, "domain: dusk\n", "lists no classes"),
        (GREY, LABEL, "classes: []\n", "lists no classes"),
        (GREY, LABEL, CLASSES.replace("road", "true"), "the name of class 1 is true; .*in quotes"),
        (GREY, LABEL, "domain: [dusk]\n" + CLASSES, "domain is .*dusk.*text"),
        (GREY, LABEL, "domain:\n" + CLASSES, "domain is null"),
        (GREY, LABEL, "sensor: sonar\n" + CLASSES, "sonar"),
        (GREY, LABEL, "sensor: thermal\nprofile: 3\n" + CLASSES, "profile is 3"),
        (GREY, LABEL, "sensor: thermal\nprofile: {scale: 0}\n" + CLASSES, "scale is 0"),
    ],
)
def test_a_folder_that_contradicts_itself_is_named(
    tmp_path: Path, image: np.ndarray | None, label: np.ndarray | None, classes: str, word: str
) -> None:
    (tmp_path / "d").mkdir()
    write(tmp_path / "d", image, label, classes)
    with pytest.raises(DataError, match=word) as refusal:
        FolderDataset(tmp_path / "d")
    assert "\n" not in str(refusal.value)


def test_a_broken_image_and_a_label_of_another_size_are_named(tmp_path: Path) -> None:
    wrong = FolderDataset(write(tmp_path / "wrong", GREY, np.zeros((3, 3), np.uint8)))
    with pytest.raises(DataError, match="its image"):
        wrong[0]
    (write(tmp_path / "broken", GREY, LABEL) / "images" / "a.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match="cannot be read"):
        FolderDataset(tmp_path / "broken")[0]
    coloured = FolderDataset(write(tmp_path / "coloured", GREY, np.zeros((6, 8, 3), np.uint8)))
    with pytest.raises(DataError, match="single-channel"):
        coloured[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_label_that_is_a_jpeg_is_refused_whatever_it_is_called(tmp_path: Path, suffix: str) -> None:
    folder = write(tmp_path / "d", GREY, LABEL)
    (folder / "labels" / "a.png").unlink()
    Image.fromarray(LABEL).save(folder / "labels" / f"a{suffix}", "JPEG")
    with pytest.raises(DataError, match=f"labels/a{suffix} is a jpeg, which blurs class ids; save labels as png"):
        FolderDataset(folder)[0]


def test_an_image_that_its_sensor_cannot_give_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images/a\.png does not fit sensor 'camera'.*16UC1"):
        FolderDataset(write(tmp_path / "d", GREY.astype(np.uint16) * 257, LABEL))[0]


def test_a_rotation_that_exif_asks_for_is_not_applied_and_said_where_it_tells(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", GREY, LABEL)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(GREY.T).save(folder / "images" / "a.png", exif=turned)
    with pytest.raises(DataError, match="8x6, its image 6x8; the image's EXIF asks for a rotation"):
        FolderDataset(folder)[0]
    Image.fromarray(GREY.T).save(folder / "images" / "a.png")
    with pytest.raises(DataError, match="save the label in its image's size"):
        FolderDataset(folder)[0]


def test_a_palette_label_is_its_indices_and_a_palette_image_its_colours(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", GREY, LABEL)
    picture = Image.fromarray(np.ones((6, 8), np.uint8), "P")
    picture.putpalette([0, 0, 0, 200, 100, 50])
    for kind in ("images", "labels"):
        picture.save(folder / kind / "a.png")
    sample = FolderDataset(folder)[0]
    assert (sample.label == 1).all()
    assert (sample.frame == (200, 100, 50)).all()


def test_a_sixteen_bit_image_keeps_its_counts(tmp_path: Path) -> None:
    counts = np.full((6, 8), 2500, np.uint16)
    near, far = (
        FolderDataset(write(tmp_path / name, image, LABEL, "sensor: depth\n" + CLASSES))[0].frame
        for name, image in (("near", counts), ("far", counts * 20))
    )
    assert (near[..., 0] > far[..., 0]).all()


def test_a_folder_may_say_how_its_sensor_counts(tmp_path: Path) -> None:
    counts = np.full((6, 8), 7500, np.uint16)
    usual = FolderDataset(write(tmp_path / "usual", counts * 4, LABEL, "sensor: thermal\n" + CLASSES))
    coarse = FolderDataset(
        write(tmp_path / "coarse", counts, LABEL, "sensor: thermal\nprofile: {scale: 0.04}\n" + CLASSES)
    )
    assert np.array_equal(usual[0].frame, coarse[0].frame)
    assert 0 < usual[0].frame[0, 0, 0] < 255


def test_the_labelled_frames_of_a_bag_train_like_a_folder(tmp_path: Path) -> None:
    write_bag(tmp_path / "drive", World(5, (64, 96)), [("clear", 1.0), ("fog", 1.0)], 2)
    classes = tuple(ClassLabel(name, color) for name, color in WORLD_CLASSES)
    assert is_bag(tmp_path / "drive")
    everything = list(LabelledBag(tmp_path / "drive", classes))
    fog = list(LabelledBag(tmp_path / "drive", classes, sensor="depth", domain="fog"))
    assert len(everything) == 4
    assert len(fog) == 2
    assert all(sample.label is not None and sample.frame.shape == (64, 96, 3) for sample in everything + fog)


def test_a_bag_without_labels_cannot_train(real_data: Path, tmp_path: Path) -> None:
    classes = tuple(ClassLabel(name, color) for name, color in WORLD_CLASSES)
    with pytest.raises(BagError):
        LabelledBag(tmp_path / "nowhere.mcap", classes)
