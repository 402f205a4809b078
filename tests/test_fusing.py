"""The shipped bundle fuses while it changes, and while its sensors die; no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_makers import another
from fusion_makers import moment, random_head

from mile_edge.bundle import Bundle, ShadowPlan, write_expert, write_head
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


def test_an_expert_in_shadow_is_compared_on_fused_frames_as_on_others(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    frames = {name: street_frames[name] for name in ("fog", "depth")}
    write_expert(tmp_path / "mist.safetensors", another(tiny_bundle, "mist"))
    agreement = []
    for fused in (False, True):
        with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
            segmenter.add_expert(tmp_path / "mist.safetensors", shadow=ShadowPlan(1000, every=1))
            # One at a time: of a batch only one frame finds the run idle.
            for name, frame in frames.items():
                if fused:
                    result = segmenter.fuse({name: SensorFrame(frame, 1)})
                    assert set(result.sensors) == {name}
                else:
                    segmenter(frame, stream=name)
                assert segmenter.wait_for_shadow(120)
            report = segmenter.shadow
            assert report is not None
            assert (report.compared, report.outcome, report.problem) == (2, "running", "")
            agreement.append(report.agreement)
            segmenter.withdraw()
    assert agreement[0] == agreement[1]


@pytest.mark.parametrize("color", [(7, 7, 7), (0, 135, 0), (0, 0, 255)], ids=["grey", "green", "blue"])
def test_a_picture_of_one_colour_is_a_dead_sensor_whatever_the_colour(color: tuple[int, int, int]) -> None:
    frames = moment()
    dead = np.full_like(frames["camera"].frame, color)
    assert Watch().live({**frames, "camera": SensorFrame(dead, 1_000_000_000)}, TOLERANCE_NS)[1] == {
        "camera": "constant image"
    }
    dead[5, 5, 1] ^= 128
    assert not Watch().live({**frames, "camera": SensorFrame(dead, 1_000_000_000)}, TOLERANCE_NS)[1]
