"""The running segmenter: experts come and go, and nothing else changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_makers import another, tree
from fusion_makers import random_head

from mile_edge.bundle import Bundle, write_expert, write_head
from mile_edge.errors import BackendError, BundleError, ExpertError, SensorError
from mile_edge.runtime import Segmenter
from mile_edge.runtime.gate_inputs import whitening


def test_the_gate_sends_each_weather_and_sensor_to_its_own_expert(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        chosen = {name: segmenter(frame).expert[0] for name, frame in street_frames.items()}
    assert chosen == {name: name for name in street_frames}


def test_a_batch_may_take_another_expert_for_every_sample(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        batch = segmenter(np.stack(list(street_frames.values())))
        assert batch.expert == tuple(street_frames)
        for index, frame in enumerate(street_frames.values()):
            assert (segmenter(frame).mask[0] == batch.mask[index]).mean() > 0.999


def test_masks_have_the_frames_size_whatever_the_networks_is(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        for height, width in ((480, 640), (97, 131), (1, 1), (720, 64)):
            frame = np.resize(street_frames["clear"], (height, width, 3))
            result = segmenter(frame)
            assert result.mask.shape == result.confidence.shape == (1, height, width)
            assert result.mask.max() < len(segmenter.classes)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
        [[0]],
    ],
    ids=["float", "grey", "empty", "four channels", "a list"],
)
def test_what_is_no_frame_is_refused_in_one_sentence(tiny_bundle: Path, frames: np.ndarray) -> None:
    with Segmenter.open(tiny_bundle) as segmenter, pytest.raises(SensorError, match="expected"):
        segmenter(frames)


def test_masks_of_every_expert_are_bit_identical_after_later_experts_came_and_went(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    def oracle(segmenter: Segmenter, names: tuple[str, ...]) -> dict[str, bytes]:
        masks = {}
        for name in names:
            segmenter.pin(name)
            result = segmenter(street_frames[name])
            assert result.expert == (name,)
            masks[name] = result.mask.tobytes() + result.confidence.tobytes()
        segmenter.auto()
        return masks

    with Segmenter.open(tiny_bundle) as segmenter:
        names = segmenter.experts
        before = oracle(segmenter, names)
        for number in range(4):
            write_expert(tmp_path / "new.safetensors", another(tiny_bundle, f"new-{number}", number))
            segmenter.add_expert(tmp_path / "new.safetensors")
            assert oracle(segmenter, names) == before
        segmenter.remove_expert("new-1")
        assert oracle(segmenter, names) == before
    with Segmenter.open(tiny_bundle) as reopened:
        assert oracle(reopened, names) == before


def test_the_gate_does_not_depend_on_the_order_in_which_experts_were_added(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    experts = list(bundle.experts())
    forward, backward = (whitening(order, bundle.manifest.gate) for order in (experts, experts[::-1]))
    assert np.array_equal(forward, backward)


def test_removing_an_expert_restores_the_whitening_exactly(tiny_bundle: Path, tmp_path: Path) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        before = whitening(segmenter.bundle.experts(), segmenter.manifest.gate)
        write_expert(tmp_path / "new.safetensors", another(tiny_bundle, "new"))
        segmenter.add_expert(tmp_path / "new.safetensors")
        assert not np.array_equal(whitening(segmenter.bundle.experts(), segmenter.manifest.gate), before)
        segmenter.remove_expert("new")
        assert np.array_equal(whitening(segmenter.bundle.experts(), segmenter.manifest.gate), before)


def test_a_row_without_an_adapter_is_the_base(tiny_bundle: Path, street_frames: dict[str, np.ndarray]) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        layout, row = segmenter.manifest.low_rank, segmenter._bank.rows[0]
        assert not row[: layout.classifier_offset].any()
        segmenter.pin(segmenter.experts[0])
        before = segmenter(street_frames["clear"])
        # Whatever A is, a B of zero changes nothing.
        row[: layout.rank * layout.layers[0].in_features] = 7.0
        after = segmenter(street_frames["clear"])
    assert np.array_equal(before.mask, after.mask)
    assert np.array_equal(before.confidence, after.confidence)


def test_an_expert_replaced_by_another_process_is_taken_over_whole(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    for seed in (1, 2, 3):
        write_expert(tmp_path / f"{seed}.safetensors", another(tiny_bundle, "new" if seed < 3 else "other", seed))
    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.add_expert(tmp_path / "1.safetensors")
        elsewhere = Bundle.open(tiny_bundle).remove("new")
        elsewhere.add(tmp_path / "2.safetensors")
        segmenter.add_expert(tmp_path / "3.safetensors")
        segmenter.pin("new")
        live = segmenter(street_frames["fog"]).mask
    with Segmenter.open(tiny_bundle) as reopened:
        reopened.pin("new")
        assert np.array_equal(reopened(street_frames["fog"]).mask, live)


def test_no_frame_is_taken_after_close_and_none_under_no_expert(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    segmenter = Segmenter.open(tiny_bundle)
    with pytest.raises(ExpertError, match="at least one"):
        segmenter(street_frames["fog"], only=())
    segmenter.close()
    with pytest.raises(BackendError, match="closed"):
        segmenter(street_frames["fog"])


def test_no_change_is_taken_after_close_and_none_leaves_a_thread(tiny_bundle: Path, tmp_path: Path) -> None:
    write_expert(tmp_path / "new.safetensors", another(tiny_bundle, "new"))
    segmenter = Segmenter.open(tiny_bundle)
    write_head(tmp_path / "head.safetensors", random_head(segmenter.bundle, seed=5))
    segmenter.remove_expert("fog")
    segmenter.close()
    held, threads = tree(tiny_bundle), threading.active_count()
    changes: tuple[Callable[[], object], ...] = (
        lambda: segmenter.add_expert(tmp_path / "new.safetensors"),
        lambda: segmenter.add_expert(tmp_path / "new.safetensors", shadow=5),
        lambda: segmenter.remove_expert("night"),
        lambda: segmenter.set_fusion_head(tmp_path / "head.safetensors"),
        segmenter.promote,
        segmenter.withdraw,
        segmenter.rollback,
    )
    for change in changes:
        with pytest.raises(BackendError, match="closed"):
            change()
    assert tree(tiny_bundle) == held
    assert threading.active_count() == threads


def test_a_change_that_ends_after_the_shadow_was_closed_begins_no_run(tiny_bundle: Path, tmp_path: Path) -> None:
    write_expert(tmp_path / "new.safetensors", another(tiny_bundle, "new"))
    segmenter = Segmenter.open(tiny_bundle)
    entered, closing = threading.Event(), threading.Thread(target=segmenter.close)

    class Slow(os.PathLike[str]):
        def __fspath__(self) -> str:
            if not entered.is_set():
                entered.set()
                closing.start()
                # It waits for this change; the shadow it has closed already.
                closing.join(1)
            return str(tmp_path / "new.safetensors")

    threads = threading.active_count()
    segmenter.add_expert(Slow(), shadow=5)
    closing.join()
    assert threading.active_count() == threads


def test_frames_keep_flowing_while_experts_are_added_and_removed(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    write_expert(tmp_path / "new.safetensors", another(tiny_bundle, "new"))
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        expected = {name: segmenter(frame).mask.tobytes() for name, frame in street_frames.items()}
        failures: list[str] = []
        stop = threading.Event()

        def flow() -> None:
            while not stop.is_set():
                for name, frame in street_frames.items():
                    result = segmenter(frame, stream=name)
                    if result.expert == (name,) and result.mask.tobytes() != expected[name]:
                        failures.append(name)

        threads = [threading.Thread(target=flow) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            segmenter.add_expert(tmp_path / "new.safetensors")
            segmenter.remove_expert("new")
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_pin_overrules_the_gate_for_its_stream_and_auto_lifts_it(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        segmenter.pin("fog", stream="left")
        assert segmenter(street_frames["night"], stream="left").expert == ("fog",)
        assert segmenter(street_frames["night"], stream="right").expert == ("night",)
        segmenter.auto("left")
        assert segmenter(street_frames["night"], stream="left").expert == ("night",)
        with pytest.raises(ExpertError, match="not loaded"):
            segmenter.pin("nobody")


def test_a_sensor_may_be_restricted_to_some_experts(tiny_bundle: Path, street_frames: dict[str, np.ndarray]) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        assert segmenter(street_frames["night"], only=("depth", "thermal")).expert[0] in {"depth", "thermal"}
        with pytest.raises(ExpertError, match="not loaded"):
            segmenter(street_frames["night"], only=("nobody",))


def test_hysteresis_keeps_a_stream_with_its_expert_unless_another_is_clearly_nearer(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=1e4) as segmenter:
        assert segmenter(street_frames["night"], stream="a").expert == ("night",)
        assert segmenter(street_frames["fog"], stream="a").expert == ("night",)
        assert segmenter(street_frames["fog"], stream="b").expert == ("fog",)


def test_every_sample_of_a_batch_may_belong_to_its_own_stream(
    tiny_bundle: Path, street_frames: dict[str, np.ndarray]
) -> None:
    both = np.stack([street_frames["fog"], street_frames["depth"]])
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        segmenter.pin("snow", stream="/front")
        assert segmenter(both, streams=["/front", "/depth"]).expert == ("snow", "depth")
        segmenter.auto()
        segmenter.hysteresis = 1e4
        assert segmenter(both, streams=["/front", "/depth"]).expert == ("snow", "depth"), "each keeps its own last"
        assert segmenter(both[::-1], streams=["/depth", "/front"]).expert == ("depth", "snow")
        with pytest.raises(SensorError, match="1 streams were given for 2 frames"):
            segmenter(both, streams=["/front"])


def test_a_frame_beyond_its_experts_threshold_is_novel(tiny_bundle: Path, street_frames: dict[str, np.ndarray]) -> None:
    bundle = Bundle.open(tiny_bundle)
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    assert bundle.manifest.gate.thresholds, "the shipped bundle is calibrated"
    with Segmenter(bundle) as segmenter:
        assert not segmenter(street_frames["clear"], stream="/front").novel[0]
        assert segmenter(noise, stream="/rear").novel[0]


def test_an_expert_that_does_not_fit_changes_nothing(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not an expert")
    write_expert(tmp_path / "foreign.safetensors", replace(another(tiny_bundle, "foreign"), base_sha256="0" * 64))
    with Segmenter.open(tiny_bundle) as segmenter:
        before, names = segmenter(street_frames["clear"]).mask, segmenter.experts
        for file in ("bad", "foreign"):
            with pytest.raises(ExpertError):
                segmenter.add_expert(tmp_path / f"{file}.safetensors")
        with pytest.raises(BundleError, match="no expert 'nobody'"):
            segmenter.remove_expert("nobody")
        assert segmenter.experts == names
        assert np.array_equal(segmenter(street_frames["clear"]).mask, before)


def test_a_full_bank_says_so(tiny_bundle: Path, tmp_path: Path) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        for number in range(segmenter.manifest.capacity - len(segmenter.experts) + 1):
            write_expert(tmp_path / "new.safetensors", another(tiny_bundle, f"new-{number}", number))
            segmenter.add_expert(tmp_path / "new.safetensors")
        write_expert(tmp_path / "new.safetensors", another(tiny_bundle, "one-too-many"))
        with pytest.raises((BundleError, ExpertError), match=r"capacity|full"):
            segmenter.add_expert(tmp_path / "new.safetensors")


def test_a_graph_that_onnx_runtime_cannot_read_is_one_sentence(tiny_bundle: Path) -> None:
    graph = tiny_bundle / "segmenter.onnx"
    graph.write_bytes(graph.read_bytes()[:5000])
    with pytest.raises((BackendError, BundleError), match=r"segmenter\.onnx"):
        Segmenter.open(tiny_bundle)
