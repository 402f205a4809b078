"""The shipped bundle fuses while it changes, and while its sensors die; no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fusion_makers import moment, random_head

from mile_edge.bundle import Bundle, write_head
from mile_edge.runtime import Segmenter, SensorFrame
from mile_edge.runtime.fusion import TOLERANCE_NS, Watch


def test_what_another_process_changed_before_a_head_comes_is_taken_over_with_it(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.pin("fog", stream="camera")
        write_head(tmp_path / "new.safetensors", random_head(segmenter.bundle, seed=5))
        Bundle.open(tiny_bundle).remove("fog")
        segmenter.set_fusion_head(tmp_path / "new.safetensors")
        assert "fog" not in segmenter.experts and "fog" not in segmenter.rows
        assert segmenter.fuse({"camera": moment()["camera"]}).sensors["camera"].expert != ("fog",)
        assert not segmenter.refresh()


@pytest.mark.parametrize("color", [(7, 7, 7), (0, 135, 0), (0, 0, 255)], ids=["grey", "green", "blue"])
def test_a_picture_of_one_colour_is_a_dead_sensor_whatever_the_colour(color: tuple[int, int, int]) -> None:
    frames = moment()
    dead = np.full_like(frames["camera"].frame, color)
    assert Watch().live({**frames, "camera": SensorFrame(dead, 1_000_000_000)}, TOLERANCE_NS)[1] == {
        "camera": "constant image"
    }
    dead[5, 5, 1] ^= 128
    assert not Watch().live({**frames, "camera": SensorFrame(dead, 1_000_000_000)}, TOLERANCE_NS)[1]
