"""Files that people write: whatever is wrong is said in one sentence that names the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mile_edge.errors import DataError, RecipeError
from mile_edge.yaml_file import read_settings, read_yaml


@dataclass
class Recipe:
    """What a recipe of these tests may hold."""

    size: int = 1
    layers: str = ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: 1\nb: [", "line 2: "),
        (b"a: 1\na: 2\n", 'line 2: found duplicate key "a"'),
        (b"a: !!python/object:os.system x", "line 1: could not determine a constructor"),
        (b"{[1]: {2: 3}, {4: 5}: 6}", "unhashable key"),
        (b"day: 2001-13-45", "month must be in 1..12"),
        (b"a: \xff\xff", "unacceptable character"),
        (b"\0", "unacceptable character"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: 1\na: " + b"x" * 10_000, "line 2: found duplicate key"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_in_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_yaml(file, "class map", DataError, "mend it")
    said = str(refusal.value)
    assert said.startswith(f"class map '{file}' cannot be read (") and said.endswith("); mend it")
    assert reason in said and "\n" not in said and len(said) < len(str(file)) + 400


def test_a_file_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    file = tmp_path / "gone.yaml"
    with pytest.raises(RecipeError) as refusal:
        read_settings(file, Recipe, "export/")
    said = str(refusal.value)
    assert said == f"recipe '{file}' cannot be read (no such file or directory); check the path and the file"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- size\n", "is not a mapping of settings; see export/ for examples"),
        ("", "is not a mapping of settings"),
        ("colour: red\n", "has the unknown key 'colour'; known are layers, size"),
        ("2: two\ncolour: red\n", "has the unknown key '2'; known are layers, size"),
    ],
)
def test_a_recipe_of_another_form_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as refusal:
        read_settings(file, Recipe, "export/")
    assert words in str(refusal.value)


def test_settings_are_what_the_file_holds(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfsize: 3\nlayers: yes\n")
    assert read_settings(file, Recipe, "export/") == {"size": 3, "layers": "yes"}
