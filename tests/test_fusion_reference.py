"""The shipped bundle fuses camera, depth and thermal of a street that it has never seen, without torch."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import REFERENCE

from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.data.world import World
from mile_edge.replay.scores import confusion, mean_iou
from mile_edge.runtime import Segmenter, SensorFrame


@pytest.mark.parametrize("domain", ["night", "fog"])
def test_all_sensors_together_see_more_than_the_best_of_them(domain: str) -> None:
    counts: dict[str, np.ndarray | int] = {}
    with Segmenter.open(REFERENCE, hysteresis=0) as segmenter:
        classes = len(segmenter.classes)
        for seed in (4243, 4244, 4245):
            seen = World(seed).frame(1.0, domain)
            images = {"camera": (seen.rgb, "rgb8"), "depth": (seen.depth, "16UC1"), "thermal": (seen.thermal, "mono16")}
            frames = {
                name: SensorFrame(DEFAULT_PROFILES[name].to_frame(*image), 1, name) for name, image in images.items()
            }
            result = segmenter.fuse(frames)
            masks = {name: answer.mask[0] for name, answer in result.sensors.items()}
            assert masks["camera"].tobytes() == segmenter(frames["camera"].frame).mask[0].tobytes()
            for name, mask in {**masks, "fused": result.mask}.items():
                counts[name] = counts.get(name, 0) + confusion(seen.label, mask, classes)
    scores = {name: mean_iou(each) for name, each in counts.items()}
    fused = scores.pop("fused")
    assert fused is not None
    assert fused >= max(score for score in scores.values() if score is not None) + 0.02, (fused, scores)
