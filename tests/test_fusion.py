"""Several sensors in one pass: whoever takes no part changes nothing, and whoever comes back counts again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from fusion_makers import moment, random_head

from mile_edge.bundle import FUSIONS, Bundle, FusionLayout, set_fusion_head, verify_bundle, write_head
from mile_edge.errors import BackendError, BundleError, FusionError
from mile_edge.export.fusion import fused_network
from mile_edge.network.fusion import Fusion
from mile_edge.runtime import Fused, Segmenter
from mile_edge.runtime.fusion import REPEATS, TOLERANCE_NS, Watch


def same(one: Fused, other: Fused) -> bool:
    return np.array_equal(one.mask, other.mask) and np.array_equal(one.confidence, other.confidence)


@pytest.fixture(scope="module")
def segmenter(fusing_bundle: Path) -> Segmenter:
    return Segmenter.open(fusing_bundle, threads=1, hysteresis=0)


@pytest.mark.parametrize("kind", FUSIONS)
def test_what_is_not_in_a_group_cannot_change_its_scores_by_a_bit(kind: str) -> None:
    layout = FusionLayout(kind, 8, 12, 5)
    generator = torch.Generator().manual_seed(0)
    hidden, scores = torch.rand(4, 12, 9, 11, generator=generator), torch.randn(4, 5, 9, 11, generator=generator)
    known, vector = torch.ones(4, 5), torch.randn(layout.length, generator=generator)
    group = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]])
    fused, share = Fusion(layout)(hidden, scores, known, group, vector)
    assert torch.allclose(share.sum(dim=1), torch.ones(2))
    assert (share[group == 0] == 0).all()
    changed = hidden.clone(), scores.clone()
    changed[0][3], changed[1][3] = 1e3, -50.0
    again, _ = Fusion(layout)(*changed, known, group, vector)
    assert torch.equal(fused, again)
    alone, _ = Fusion(layout)(hidden[[0, 2]], scores[[0, 2]], known[[0, 2]], torch.ones(1, 2), vector)
    assert torch.allclose(fused[:1], alone, atol=1e-5), "a smaller batch may be rounded otherwise"


@pytest.mark.parametrize("kind", FUSIONS)
def test_an_untrained_head_is_the_mean_of_what_the_experts_say(kind: str) -> None:
    layout = FusionLayout(kind, 8, 12, 3)
    scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    weights = torch.zeros(layout.length)
    fused, share = Fusion(layout)(torch.rand(2, 12, 4, 5), scores, torch.ones(2, 3), torch.ones(1, 2), weights)
    assert torch.allclose(fused[0], torch.log_softmax(scores, dim=1).mean(dim=0), atol=1e-6)
    assert torch.allclose(share, torch.full((1, 2), 0.5))


def test_a_class_that_one_expert_knows_is_scored_by_it_alone_and_one_that_none_knows_never_wins() -> None:
    layout = FusionLayout("both", 8, 12, 3)
    scores = torch.tensor([[1.0, 4.0, -1e4], [1.0, -1e4, -1e4]])[:, :, None, None]
    known = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    fused, _ = Fusion(layout)(torch.rand(2, 12, 1, 1), scores, known, torch.ones(1, 2), torch.zeros(layout.length))
    said = torch.log_softmax(scores[:, :, 0, 0], dim=1)
    assert fused[0, 1, 0, 0] == pytest.approx(float(said[0, 1]), abs=1e-5)
    assert fused[0, 2, 0, 0] < -5000


def test_each_sensor_has_its_own_mask_and_all_have_one(segmenter: Segmenter) -> None:
    frames = moment()
    result = segmenter.fuse(frames)
    assert set(result.sensors) == set(frames)
    assert result.mask.shape == result.confidence.shape == (64, 96)
    assert sum(result.weights.values()) == pytest.approx(1)
    assert not result.absent
    for stream, given in frames.items():
        alone = segmenter(given.frame, stream=stream)
        assert result.sensors[stream].expert == alone.expert
        assert (result.sensors[stream].mask == alone.mask).mean() > 0.999


def test_the_order_of_sensors_does_not_matter(segmenter: Segmenter) -> None:
    frames = moment()
    backwards = segmenter.fuse(dict(reversed(frames.items())))
    assert same(segmenter.fuse(frames), backwards)


def test_a_frame_without_its_stamp_is_told_what_to_be(segmenter: Segmenter) -> None:
    with pytest.raises(FusionError, match=r"for camera is a ndarray; give a .*SensorFrame"):
        segmenter.fuse({"camera": moment()["camera"].frame})


@pytest.mark.parametrize("stream", ["camera", "depth", "thermal"])
def test_one_sensor_alone_is_enough(segmenter: Segmenter, stream: str) -> None:
    result = segmenter.fuse({stream: moment()[stream]})
    assert result.weights == {stream: pytest.approx(1)}
    assert result.mask.shape == (64, 96)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda given: replace(given, stamp=given.stamp - TOLERANCE_NS - 1_000_000), "stale: 51 ms"),
        (lambda given: replace(given, frame=np.full_like(given.frame, 7)), "constant image"),
        (lambda given: replace(given, frame=np.full_like(given.frame, (0, 135, 0))), "constant image"),
    ],
    ids=["stale", "constant", "green"],
)
def test_a_dead_sensor_drops_out_without_a_trace_and_comes_back(segmenter: Segmenter, broken, why: str) -> None:
    frames = moment()
    whole, without = segmenter.fuse(frames), segmenter.fuse({k: v for k, v in frames.items() if k != "depth"})
    result = segmenter.fuse({**frames, "depth": broken(frames["depth"])})
    assert result.absent["depth"].startswith(why)
    assert set(result.sensors) == set(result.weights) == {"camera", "thermal"}
    assert same(result, without)
    assert same(segmenter.fuse(frames), whole)


def test_a_sensor_that_repeats_one_image_while_others_move_is_frozen_until_it_shows_another() -> None:
    watch = Watch()

    def live(step: int, stuck: bool, still: bool = False) -> dict[object, str]:
        frames = moment(seed=0 if still else step, stamp=step * 100_000_000)
        if stuck:
            frames["thermal"] = replace(moment(seed=0)["thermal"], stamp=step * 100_000_000)
        return watch.live(frames, TOLERANCE_NS)[1]

    for step in range(REPEATS):
        assert live(step, stuck=True) == {}
    assert live(REPEATS, stuck=True) == {"thermal": f"frozen: the same image for {REPEATS} frames"}
    assert live(REPEATS + 1, stuck=False) == {}
    for step in range(20, 40):
        assert live(step, stuck=False, still=True) == {}, "a robot that stands still has no frozen sensor"


def test_frames_of_several_sizes_are_fused_at_the_size_asked_for(segmenter: Segmenter) -> None:
    frames = moment()
    big = np.kron(frames["thermal"].frame, np.ones((2, 2, 1), np.uint8))
    frames["thermal"] = replace(frames["thermal"], frame=big)
    result = segmenter.fuse(frames)
    assert (result.stream, result.mask.shape) == ("thermal", (128, 192))
    assert result.sensors["camera"].mask.shape == (1, 64, 96)
    assert segmenter.fuse(frames, like="camera").mask.shape == (64, 96)


def test_a_moment_without_a_usable_frame_is_refused_in_one_sentence(segmenter: Segmenter) -> None:
    frames = {name: replace(given, frame=np.zeros_like(given.frame)) for name, given in moment().items()}
    with pytest.raises(FusionError, match=r"no sensor gave a usable frame \(camera: constant image"):
        segmenter.fuse(frames)
    with pytest.raises(FusionError, match="no sensor was given"):
        segmenter.fuse({})
    with pytest.raises(FusionError, match="expected \\(H, W, 3\\) uint8"):
        segmenter.fuse({"camera": replace(frames["camera"], frame=np.zeros((4, 4), np.uint8))})


def test_the_graph_agrees_with_torch(fusing_bundle: Path, segmenter: Segmenter) -> None:
    bundle = Bundle.open(fusing_bundle)
    assert bundle.manifest.fusion is not None
    network = fused_network(bundle, "both-aux", bundle.manifest.fusion.width)
    frames = moment(3)
    state = segmenter._bank.state
    inputs = [np.stack([given.frame for given in frames.values()]), segmenter._bank.rows, state.prototypes]
    inputs += [state.whitening, np.repeat(state.bias[None], 3, axis=0), np.ones((1, 3), np.float32)]
    with torch.inference_mode():
        *_, mask, confidence, share = network(*map(torch.tensor, inputs), torch.tensor(bundle.fusion_vector()))
    result = segmenter.fuse(frames)
    assert (mask[0].numpy() == result.mask).mean() >= 0.999
    assert np.abs(confidence[0].numpy().astype(int) - result.confidence).max() <= 1
    assert list(result.weights.values()) == pytest.approx(share[0].tolist(), abs=1e-4)


def test_a_head_trained_again_is_used_at_once_and_no_graph_is_built(fusing_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(fusing_bundle, tmp_path / "bundle")
    with Segmenter.open(tmp_path / "bundle", threads=1, hysteresis=0) as segmenter:
        before, graph = segmenter.fuse(moment()), segmenter.bundle.fused_path
        write_head(tmp_path / "new.safetensors", random_head(segmenter.bundle, seed=5))
        segmenter.set_fusion_head(tmp_path / "new.safetensors")
        after = segmenter.fuse(moment())
        assert not same(before, after)
        assert segmenter.bundle.fused_path == graph
        plain = segmenter(moment()["camera"].frame)
        segmenter.rollback()
        assert same(segmenter.fuse(moment()), before)
        segmenter.set_fusion_head(tmp_path / "new.safetensors")
    assert np.array_equal(plain.mask, before.sensors["camera"].mask)
    with Segmenter.open(tmp_path / "bundle", threads=1, hysteresis=0) as segmenter:
        assert same(segmenter.fuse(moment()), after)
    assert verify_bundle(tmp_path / "bundle") == []
    assert len(list((tmp_path / "bundle").glob("fusion-*"))) == 2, "the head before is kept to roll back to"
    Bundle.open(tmp_path / "bundle").rollback()
    with Segmenter.open(tmp_path / "bundle", threads=1, hysteresis=0) as segmenter:
        assert same(segmenter.fuse(moment()), before)


def test_a_bundle_without_fusion_says_how_to_get_it(workshop_bundle: Path, fusing_bundle: Path, tmp_path: Path) -> None:
    with Segmenter.open(workshop_bundle, threads=1) as segmenter:
        with pytest.raises(FusionError, match="mile-edge train fusion"):
            segmenter.fuse(moment())
        with pytest.raises(BackendError, match="mile-edge train fusion"):
            segmenter._backend.fuse(np.zeros(1), segmenter._bank.state, *[np.zeros(1)] * 3)
    write_head(tmp_path / "head.safetensors", random_head(Bundle.open(fusing_bundle)))
    with pytest.raises(BundleError, match="has no graph that fuses"):
        set_fusion_head(Bundle.open(workshop_bundle), tmp_path / "head.safetensors")
