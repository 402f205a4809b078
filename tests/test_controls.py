"""Oracle and random routing on folders: what a gate is held against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mile_edge.cli.main import main
from mile_edge.data.world import World


@pytest.fixture
def fog(tmp_path: Path) -> Path:
    """Three frames of fog."""
    (tmp_path / "fog" / "images").mkdir(parents=True)
    for index in range(3):
        Image.fromarray(World(500 + index).view(2.0, "fog", "camera")[0]).save(
            tmp_path / "fog" / "images" / f"{index}.png"
        )
    return tmp_path / "fog"


def routed(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, int]:
    assert main(["evaluate", str(bundle), str(folder), "--json", *options]) == 0
    return dict(json.loads(capsys.readouterr().out)["gate"]["confusion"])


def test_the_oracle_sends_a_folder_to_the_expert_of_its_domain(
    tiny_bundle: Path, fog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Fog that is called night is sent to night: the oracle looks at no frame.
    assert routed(tiny_bundle, fog, capsys, "--routing", "oracle", "--domain", "night") == {"night -> night": 3}


def test_chance_sends_frames_anywhere_and_the_same_way_again(
    tiny_bundle: Path, fog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = routed(tiny_bundle, fog, capsys, "--routing", "random", "--domain", "fog", "--seed", "1")
    assert sum(first.values()) == 3
    assert first != {"fog -> fog": 3}
    assert routed(tiny_bundle, fog, capsys, "--routing", "random", "--domain", "fog", "--seed", "1") == first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--routing", "oracle", "--domain", "hail"), "no expert is right"),
        (("--routing", "random", "--expert", "fog"), "contradict"),
    ],
)
def test_routing_that_cannot_be_is_refused(
    tiny_bundle: Path, fog: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    assert main(["evaluate", str(tiny_bundle), str(fog), *options]) == 2
    assert words in capsys.readouterr().err
