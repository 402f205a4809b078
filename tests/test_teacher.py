"""An expert with a teacher: it learns what the whole network says where no label does, and only of its own classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from test_training import write_data

from mile_edge.bundle import Bundle
from mile_edge.cli.main import main
from mile_edge.data.folder import LabelledFrame
from mile_edge.export.bundle import base_of, pool_of
from mile_edge.network.pixels import normalise
from mile_edge.network.pool import ExpertPool
from mile_edge.training.augment import Augmentation
from mile_edge.training.fit import Schedule, fit
from mile_edge.training.teacher import Teacher, load_teacher
from workshop import CLASSES, SIZE, noisy_frames, untrained

SAID = 2


def insistent() -> Teacher:
    """One that says the same class of every pixel."""
    network = untrained("shallow")
    with torch.no_grad():
        network.decode_head.classifier.bias[SAID] = 20.0
    return Teacher(network)


def half_labelled() -> list[LabelledFrame]:
    """Their right half is void."""
    frames = noisy_frames(6, 1)
    for frame in frames:
        frame.label[:, SIZE[1] // 2 :] = 255
    return frames


def trained(bundle: Path, teacher: Teacher | None, checkpoint: Path | None = None, stop: int = 0) -> ExpertPool:
    opened = Bundle.open(bundle)
    network = pool_of(opened, base_of(opened))
    torch.manual_seed(0)
    network.reset(len(CLASSES))

    def report(progress: object) -> None:
        if stop and progress.step == stop:
            raise KeyboardInterrupt

    fit(
        network,
        half_labelled(),
        [],
        size=SIZE,
        num_classes=len(CLASSES),
        schedule=Schedule(steps=24, batch=4, lr=1e-2, steps_per_epoch=8, average=0.5),
        augmentation=Augmentation(scale=(1.0, 1.0), photometric=0, foreign=0),
        checkpoint=checkpoint,
        teacher=teacher,
        report=report,
    )
    return network


def share_said(network: ExpertPool) -> float:
    """Of the right half's pixels, mean over frames."""
    pixels = np.stack([frame.frame for frame in noisy_frames(6, 1)])
    with torch.no_grad():
        scores = network(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255))
    return float((scores.argmax(1)[:, :, scores.shape[3] // 2 :] == SAID).float().mean())


def test_where_no_pixel_has_a_label_an_expert_learns_what_its_teacher_says(workshop_bundle: Path) -> None:
    assert share_said(trained(workshop_bundle, insistent())) > share_said(trained(workshop_bundle, None)) + 0.3


def test_a_run_under_another_teacher_is_not_resumed(workshop_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(workshop_bundle, None, tmp_path / "checkpoint", stop=10)
    resumed = trained(workshop_bundle, insistent(), tmp_path / "checkpoint")
    straight = trained(workshop_bundle, insistent())
    for one, other in zip(resumed.expert_parameters(), straight.expert_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_teacher_of_other_classes_is_refused_in_one_sentence(
    workshop_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "day", 2)
    network = untrained("shallow")
    network.config.id2label = dict(enumerate(("sky", "car", "road")))
    network.save_pretrained(tmp_path / "teacher")
    words = ["train", "expert", str(workshop_bundle), str(data.path), "--name", "day", "--out", str(tmp_path / "e")]
    assert main([*words, "--teacher", str(tmp_path / "teacher")]) == 2
    told = capsys.readouterr().err
    assert "knows the classes sky, car, road and the data has sky, road, car" in told
    assert told.count("\n") == 1
    network.config.id2label = dict(enumerate(label.name for label in data.classes))
    network.save_pretrained(tmp_path / "teacher")
    assert not any(
        p.requires_grad for p in load_teacher(str(tmp_path / "teacher"), ("sky", "road", "car")).network.parameters()
    )
