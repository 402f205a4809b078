"""Training on small real frames: it learns, it resumes, and it never touches what is frozen."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from mile_edge.bundle import Bundle, read_expert
from mile_edge.cli.main import main
from mile_edge.data.folder import FolderDataset, LabelledFrame
from mile_edge.errors import DataError, RecipeError
from mile_edge.export.bundle import base_of, pool_of
from mile_edge.network.pool import ExpertPool
from mile_edge.training.augment import Augmentation, random_view, vary_colours
from mile_edge.training.expert import ExpertTask, train_expert
from mile_edge.training.fit import FitResult, Progress, Schedule, fit
from mile_edge.training.statistics import gate_features, summarise
from workshop import SIZE, noisy_frames

PLAN = Augmentation(photometric=0.3, foreign=0.1)


def write_data(folder: Path, count: int = 10) -> FolderDataset:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for sample in noisy_frames(count, 3):
        Image.fromarray(sample.frame).save(folder / "images" / f"{sample.name}.png")
        Image.fromarray(sample.label).save(folder / "labels" / f"{sample.name}.png")
    (folder / "classes.yaml").write_text(
        "classes:\n"
        "  - {id: 0, name: sky, color: [70, 130, 180]}\n"
        "  - {id: 1, name: road, color: [128, 64, 128]}\n"
        "  - {id: 2, name: car, color: [0, 0, 142]}\n"
    )
    return FolderDataset(folder)


def pool(bundle: Path) -> ExpertPool:
    opened = Bundle.open(bundle)
    return pool_of(opened, base_of(opened))


def weights(network: ExpertPool) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def run(
    network: ExpertPool,
    schedule: Schedule,
    checkpoint: Path | None,
    frames: list[LabelledFrame],
    stop: int = 0,
    every_s: float = 60.0,
) -> list[str]:
    """Train; what it told. With ``stop`` it is interrupted after that step."""
    told: list[str] = []

    def report(progress: Progress) -> None:
        if stop and progress.step == stop:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    network.reset(3)
    fit(
        network,
        frames,
        [],
        size=SIZE,
        num_classes=3,
        schedule=schedule,
        augmentation=PLAN,
        checkpoint=checkpoint,
        report=report,
        tell=told.append,
        checkpoint_s=every_s,
    )
    return told


def test_an_expert_learns_and_leaves_every_frozen_weight_as_it_was(workshop_bundle: Path, tmp_path: Path) -> None:
    network = pool(workshop_bundle)
    data = write_data(tmp_path / "day")
    before = network.base_sha256
    frozen = {name: p.clone() for name, p in network.named_parameters() if "frozen" in name or "stages.0" in name}
    expert, result = train_expert(
        network,
        ExpertTask("day", ("camera",), ("day",)),
        [data],
        [data],
        size=SIZE,
        schedule=Schedule(steps=40, batch=4, lr=1e-2, steps_per_epoch=20, average=0.8),
        augmentation=Augmentation(scale=(1.0, 1.2), photometric=0.1),
    )
    assert result.miou > 0.8
    assert expert.base_sha256 == before
    assert all(torch.equal(p, frozen[name]) for name, p in network.named_parameters() if name in frozen)
    assert any(b.any() for _, b in expert.low_rank.values())
    assert expert.count == len(data)


def test_a_run_that_was_stopped_takes_the_same_steps_when_it_goes_on(workshop_bundle: Path, tmp_path: Path) -> None:
    frames, schedule = noisy_frames(6, 1), Schedule(steps=12, batch=2, steps_per_epoch=4)
    network = pool(workshop_bundle)
    run(network, schedule, None, frames)
    straight = weights(network)
    with pytest.raises(KeyboardInterrupt):
        run(network, schedule, tmp_path / "run.checkpoint", frames, stop=7)
    run(network, schedule, tmp_path / "run.checkpoint", frames)
    for name, value in weights(network).items():
        assert torch.allclose(value, straight[name], atol=1e-5), name


def test_an_epoch_that_is_no_better_is_neither_kept_nor_counted_as_progress(workshop_bundle: Path) -> None:
    network, frames = pool(workshop_bundle), noisy_frames(6, 1)

    def trained(steps: int, validation: list[LabelledFrame], patience: int = 0) -> FitResult:
        torch.manual_seed(0)
        network.reset(3)
        # So small a step changes the weights and no pixel of a mask.
        schedule = Schedule(steps, 2, 1e-9, steps_per_epoch=1, patience=patience)
        return fit(network, frames, validation, size=SIZE, num_classes=3, schedule=schedule, augmentation=PLAN)

    told = trained(8, frames[:2], patience=3)
    kept, scores = weights(network), [miou for _, _, miou in told.history]
    assert len(set(scores)) == 1
    assert told.steps == 4, "one epoch that is the best, and three without a better one"
    assert told.miou == scores[0]
    assert trained(8, frames[:2], patience=1).steps == 2
    assert all(torch.equal(value, kept[name]) for name, value in weights(network).items()), "the first epoch's"
    unlabelled = [replace(frame, label=np.full(SIZE, 255, np.uint8)) for frame in frames[:2]]
    assert np.isnan(trained(3, unlabelled).miou)
    judged_by_none = weights(network)
    trained(3, [])
    assert all(torch.equal(value, judged_by_none[name]) for name, value in weights(network).items()), "the last"


@pytest.mark.parametrize("stop", [6, 8, 9], ids=["within an epoch", "before its validation", "after its first step"])
def test_a_run_that_is_saved_within_an_epoch_takes_the_same_steps_too(
    workshop_bundle: Path, tmp_path: Path, stop: int
) -> None:
    frames, schedule = noisy_frames(6, 1), Schedule(steps=12, batch=2, steps_per_epoch=4)
    network = pool(workshop_bundle)
    run(network, schedule, None, frames)
    straight = weights(network)
    with pytest.raises(KeyboardInterrupt):
        run(network, schedule, tmp_path / "run.checkpoint", frames, stop=stop, every_s=0.0)
    # The step that was interrupted had not been saved.
    told = run(network, schedule, tmp_path / "run.checkpoint", frames)
    assert told == [f"training goes on from step {stop - 1} of 12"]
    for name, value in weights(network).items():
        assert torch.allclose(value, straight[name], atol=1e-6), name


@pytest.mark.parametrize("harm", ["cut", "other numbers", "zeros", "no header"])
def test_a_torn_checkpoint_is_refused_in_one_sentence_and_training_starts_anew(
    workshop_bundle: Path, tmp_path: Path, harm: str
) -> None:
    frames, schedule, file = noisy_frames(6, 1), Schedule(steps=6, batch=2, steps_per_epoch=2), tmp_path / "checkpoint"
    network = pool(workshop_bundle)
    run(network, schedule, None, frames)
    straight = weights(network)
    with pytest.raises(KeyboardInterrupt):
        run(network, schedule, file, frames, stop=5)
    whole = bytearray(file.read_bytes())
    if harm == "other numbers":
        whole[-50] ^= 0x40
    harmed = {"cut": whole[: len(whole) // 2], "zeros": bytes(len(whole)), "no header": b"", "other numbers": whole}
    file.write_bytes(harmed[harm])
    (sentence,) = run(network, schedule, file, frames)
    assert sentence.endswith("is torn or damaged and is refused; training starts anew")
    assert all(torch.allclose(value, straight[name], atol=1e-6) for name, value in weights(network).items())


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(workshop_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"checkpoint .* cannot be written \(.*\); make room for it"):
        run(pool(workshop_bundle), Schedule(steps=2), tmp_path / "file" / "checkpoint", noisy_frames(3, 1))


def test_a_checkpoint_of_another_run_is_not_resumed(workshop_bundle: Path, tmp_path: Path) -> None:
    frames = noisy_frames(6, 1)
    network = pool(workshop_bundle)
    run(network, Schedule(steps=4, batch=2, steps_per_epoch=2, seed=1), tmp_path / "run.checkpoint", frames)
    run(network, Schedule(steps=4, batch=2, steps_per_epoch=2, seed=2), tmp_path / "run.checkpoint", frames)
    resumed = weights(network)
    run(network, Schedule(steps=4, batch=2, steps_per_epoch=2, seed=2), None, frames)
    assert all(torch.allclose(value, resumed[name], atol=1e-6) for name, value in weights(network).items())


def test_the_command_survives_a_kill_and_finishes_the_expert(workshop_bundle: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "day")
    command = [sys.executable, "-m", "mile_edge", "train", "expert", str(workshop_bundle), str(tmp_path / "day")]
    command += ["--name", "day", "--out", str(tmp_path / "day.safetensors"), "--steps", "60", "--batch", "2", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, checkpoint = time.monotonic() + 120, tmp_path / "day.safetensors.checkpoint"
    while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    account = json.loads(done.stdout)
    assert account["steps"] == 60
    assert read_expert(tmp_path / "day.safetensors").name == "day"
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--name", "Fog!"], "--name"),
        (["--name", "base", "--add"], "like the bundle's base"),
        (["--name", "base"], "like the bundle's base"),
        (["--name", "fog", "--lr", "nan"], "--lr"),
        (["--name", "fog", "--seed", "-1"], "--seed"),
        (["--name", "fog", "--steps", "0"], "--steps"),
        (["--name", "fog", "--foreign", "2"], "--foreign"),
        (["--name", "fog", "--zoom", "2", "1"], "--zoom"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_what_cannot_end_well_is_refused_before_a_step_is_taken(
    workshop_bundle: Path, tmp_path: Path, options: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "day", 2)
    out = tmp_path / "day.safetensors"
    assert main(["train", "expert", str(workshop_bundle), str(tmp_path / "day"), "--out", str(out), *options]) == 2
    told = capsys.readouterr().err
    assert word in told
    assert told.count("\n") == 1
    assert not out.exists()


def test_void_pixels_teach_nothing(workshop_bundle: Path) -> None:
    frames = [LabelledFrame(f.name, f.frame, np.full(SIZE, 255, np.uint8)) for f in noisy_frames(3, 0)]
    network = pool(workshop_bundle)
    run(network, Schedule(steps=2, batch=2, steps_per_epoch=2, weight_decay=0.0), None, frames)
    assert not any(value.any() for name, value in weights(network).items() if name.endswith("lora_B"))


def test_labels_beyond_the_classes_are_named(workshop_bundle: Path) -> None:
    frames = [LabelledFrame(f.name, f.frame, np.full(SIZE, 7, np.uint8)) for f in noisy_frames(3, 0)]
    with pytest.raises(DataError, match="class ids"):
        run(pool(workshop_bundle), Schedule(steps=2), None, frames)


def test_gate_features_do_not_depend_on_the_expert_that_is_loaded(workshop_bundle: Path) -> None:
    network, frames = pool(workshop_bundle), noisy_frames(3, 0)
    before = gate_features(network.base, frames, SIZE, "early")
    with torch.no_grad():
        for parameter in network.expert_parameters():
            parameter.add_(1.0)
    assert np.array_equal(gate_features(network.base, frames, SIZE, "early"), before)


def test_statistics_are_mean_and_scatter() -> None:
    features = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    found = summarise(features, centres=3)
    assert np.allclose(found.mean, features.mean(axis=0), atol=1e-6)
    assert np.allclose(found.scatter / 49, np.cov(features.T), atol=1e-4)
    assert found.prototypes is not None
    assert found.prototypes.shape == (3, 4)
    with pytest.raises(DataError, match="too few"):
        summarise(features[:1])


def test_views_keep_frame_and_label_together() -> None:
    frame = np.zeros((60, 90, 3), np.uint8)
    frame[:, 45:] = 255
    label = (frame[..., 0] > 0).astype(np.uint8)
    rng = np.random.default_rng(0)
    for scale in ((0.5, 0.9), (1.0, 2.0)):
        for _ in range(20):
            view, target = random_view(frame, label, (64, 96), Augmentation(scale=scale), rng)
            known = target != 255
            sharp = known & ((view[..., 0] < 30) | (view[..., 0] > 225))
            assert ((view[..., 0] > 127)[sharp] == (target == 1)[sharp]).mean() > 0.99


def test_colours_stay_in_range_and_follow_the_seed() -> None:
    batch = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plan = Augmentation(photometric=0.5, foreign=0.5)
    one, again = (vary_colours(batch, plan, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, again)
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    assert torch.equal(vary_colours(batch, Augmentation(photometric=0), torch.Generator()), batch)


def test_an_adapter_is_stored_as_the_bundle_s_last_one_unless_told_otherwise(
    workshop_bundle: Path, tmp_path: Path
) -> None:
    write_data(tmp_path / "day", 2)
    shutil.copytree(workshop_bundle, tmp_path / "bundle")
    for name, options, stored in (
        ("first", ["--add"], "fp16"),
        ("second", ["--add", "--store", "int8"], "int8"),
        ("third", [], "int8"),
        ("fourth", ["--store", "fp16"], "fp16"),
    ):
        out = tmp_path / f"{name}.safetensors"
        command = ["train", "expert", str(tmp_path / "bundle"), str(tmp_path / "day"), "--name", name]
        assert main([*command, "--out", str(out), "--steps", "1", "--batch", "1", *options]) == 0
        assert read_expert(out).stored == stored
