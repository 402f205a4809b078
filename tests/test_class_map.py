"""Class maps bring labels of another label space into the bundle's, and tell what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mile_edge.data.class_map import apply_class_map, identity_map, read_class_map, starting_rows
from mile_edge.errors import DataError

NAMES = ("sky", "road", "car")


def write(folder: Path, text: str) -> Path:
    path = folder / "map.yaml"
    path.write_text(text)
    return path


def test_without_a_map_ids_stand_for_themselves_and_void_stays_void() -> None:
    label = np.array([[0, 1, 2, 255]], np.uint8)
    np.testing.assert_array_equal(apply_class_map(label, identity_map(3)), label)
    with pytest.raises(DataError, match="the id 3"):
        apply_class_map(np.array([[3]], np.uint8), identity_map(3))


def test_classes_are_mapped_by_id_and_by_name(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("classes: [{id: 4, name: pavement}, {id: 9, name: bicyclist}]")
    table = read_class_map(
        write(tmp_path, "source: classes.yaml\npavement: road\n7: car\nbicyclist: 255\n0: sky\n"), NAMES
    )
    mapped = apply_class_map(np.array([[4, 7, 9, 0, 255]], np.uint8), table)
    assert mapped.tolist() == [[1, 2, 255, 0, 255]]
    assert mapped.dtype == np.uint8
    with pytest.raises(DataError, match="the id 5"):
        apply_class_map(np.array([[5]], np.uint8), table)


def test_the_source_may_be_listed_in_the_map_itself(tmp_path: Path) -> None:
    table = read_class_map(write(tmp_path, "source: [{id: 1, name: auto}]\nauto: car\n"), NAMES)
    assert table[1] == 2


def test_the_real_label_space_of_camvid_maps_by_name(real_data: Path, tmp_path: Path) -> None:
    path = write(tmp_path, f"source: {real_data}/camvid/classes.yaml\nroad: road\nsky: sky\npavement: 255\n")
    table = read_class_map(path, NAMES)
    assert (table[3], table[0], table[4]) == (1, 0, 255)


def test_a_classifier_starts_from_the_first_source_that_the_file_names(tmp_path: Path) -> None:
    path = write(tmp_path, "14: car\n13: car\n0: road\n9: 255\n")
    assert starting_rows(path, NAMES) == (None, 0, 14)
    assert starting_rows(write(tmp_path, "lorry: car\n"), NAMES, ("street", "lorry")) == (None, None, 1)
    with pytest.raises(DataError, match="it has street"):
        starting_rows(write(tmp_path, "lorry: car\n"), NAMES, ("street",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7: lorry\n", "'lorry', which the bundle does not have"),
        ("lorry: car\n", "'lorry', which is unknown"),
        ("source: [{id: 1, name: auto}]\nlorry: car\n", "it has auto"),
        ("source: [1, 2]\n7: car\n", "lists no classes"),
        ("source: gone.yaml\n7: car\n", "gone.yaml"),
        ("255: car\n", "255"),
        ("-1: car\n", "-1"),
        ("true: car\n", "True"),
        ("7: [car]\n", "does not have"),
        ("- car\n", "not a mapping"),
        ("", "not a mapping"),
        ("7: [car\n", "cannot be read"),
    ],
)
def test_a_map_that_names_what_does_not_exist_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words.replace("[", r"\[")) as caught:
        read_class_map(write(tmp_path, text), NAMES)
    assert "\n" not in str(caught.value)
