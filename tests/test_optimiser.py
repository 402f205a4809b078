"""Muon for matrices, AdamW for the rest, and both go on after a kill as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from torch import nn

from mile_edge.errors import RecipeError
from mile_edge.training.augment import Augmentation
from mile_edge.training.fit import Progress, Schedule, fit
from mile_edge.training.optimiser import Muon, Optimiser
from workshop import SIZE, noisy_frames


class Small(nn.Module):
    """A network with a matrix, a convolution and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.mix = nn.Linear(16, 16)
        self.last = nn.Conv2d(16, 3, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(pixels)).movedim(1, 3)
        return self.last(torch.relu(self.mix(hidden)).movedim(3, 1))


def train(kind: str, checkpoint: Path | None, stop: int = 0) -> dict[str, torch.Tensor]:
    def report(progress: Progress) -> None:
        if stop and progress.step == stop:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    network = Small()
    fit(
        network,
        noisy_frames(6, 1),
        [],
        size=SIZE,
        num_classes=3,
        schedule=Schedule(steps=12, batch=2, lr=1e-2, steps_per_epoch=4, average=0.5, optimiser=kind),
        augmentation=Augmentation(photometric=0.1),
        checkpoint=checkpoint,
        train_statistics=True,
        report=report,
    )
    return network.state_dict()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_killed_run_takes_the_same_steps_when_it_goes_on(tmp_path: Path, kind: str) -> None:
    straight = train(kind, None)
    with pytest.raises(KeyboardInterrupt):
        train(kind, tmp_path / "run.checkpoint", stop=7)
    for name, value in train(kind, tmp_path / "run.checkpoint").items():
        assert torch.allclose(value, straight[name], atol=1e-6), name


def test_muon_moves_matrices_in_all_directions_alike_and_leaves_the_rest_to_adamw() -> None:
    network = Small()
    optimiser = Optimiser("muon", network.parameters(), lr=1e-2, weight_decay=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    # A gradient whose directions differ thirtyfold in strength.
    left, right = (torch.linalg.qr(torch.randn(16, 16))[0] for _ in range(2))
    network.mix.weight.grad = left @ torch.diag(torch.logspace(0, -1.5, 16)) @ right.T
    optimiser.step()
    step = before["mix.weight"] * (1 - 1e-2 * 0.05) - network.mix.weight.detach()
    strengths = torch.linalg.svdvals(step)
    assert strengths[-1] > 0.3 * strengths[0]
    assert "momentum_buffer" in optimiser.state_of(network.mix.weight)
    assert "exp_avg" in optimiser.state_of(network.last.weight)


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(RecipeError, match="optimiser 'sgd' is unknown; choose adamw or muon"):
        Optimiser("sgd", Small().parameters(), 1e-3, 0)


def test_muon_is_torch_s_in_float32() -> None:
    torch.manual_seed(2)
    shapes = (24, 10), (10, 24), (16, 16)
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    one = Muon(ours, lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        one.step()
        other.step()
    for mine, its in zip(ours, theirs, strict=True):
        moved = float((its - 1).detach().norm())
        assert float((mine - its).detach().norm()) < 0.02 * moved, "further apart than bfloat16 rounds"
