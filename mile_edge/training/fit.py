"""The one training loop: cross-entropy, one-cycle, averaged weights, early stopping, resuming after a kill."""

from __future__ import annotations

import hashlib
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mile_edge.data.folder import VOID, LabelledFrame
from mile_edge.errors import DataError
from mile_edge.network.gates.ranks import RankGate
from mile_edge.network.pixels import normalise
from mile_edge.training.augment import Augmentation, random_view, vary_colours
from mile_edge.training.balance import weights_of
from mile_edge.training.checkpoint import EVERY_S, Checkpoint
from mile_edge.training.device import chance, on_device, set_chance
from mile_edge.training.memory import keep_freed
from mile_edge.training.optimiser import Optimiser
from mile_edge.training.state import TrainingState

# Normalised pixels (B, 3, H, W) float32 and class ids (B, H, W) int64.
_Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train.

    Attributes:
        steps: optimiser steps in all.
        batch: views per step.
        lr: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        steps_per_epoch: steps between two validations, and at most between two checkpoints.
        patience: epochs without a better validation score before stopping; 0 never stops early.
        average: decay of the running average of the weights that is validated and kept.
        class_balance: exponent of inverse class frequency in the loss, 0 for plain cross-entropy.
        optimiser: "adamw", or "muon" for matrices with AdamW for the rest.
        seed: of views, order and initial weights.
        own_statistics: of an expert: batch norm learns the task's, see :mod:`mile_edge.training.own_statistics`.
    """

    steps: int = 600
    batch: int = 6
    lr: float = 1e-3
    weight_decay: float = 0.01
    steps_per_epoch: int = 50
    patience: int = 0
    average: float = 0.99
    class_balance: float = 0.0
    optimiser: str = "adamw"
    seed: int = 0
    own_statistics: bool = False


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after a step."""

    step: int
    steps: int
    loss: float
    miou: float | None
    seconds_left: float


@dataclass(frozen=True)
class FitResult:
    """What training came to.

    Attributes:
        miou: best validation score, NaN without validation frames.
        steps: steps taken.
        seconds: time spent, runs before a resume included.
        history: one (step, loss, miou) per epoch.
    """

    miou: float
    steps: int
    seconds: float
    history: tuple[tuple[int, float, float], ...]


def fit(
    network: nn.Module,
    train: Sequence[LabelledFrame],
    validation: Sequence[LabelledFrame],
    *,
    size: tuple[int, int],
    num_classes: int,
    schedule: Schedule,
    augmentation: Augmentation,
    checkpoint: Path | None = None,
    train_statistics: bool = False,
    penalty: Callable[[], torch.Tensor] | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    device: str = "cpu",
    checkpoint_s: float = EVERY_S,
) -> FitResult:
    """Train those parameters of ``network`` that require gradients, and leave the best weights in it.

    Epoch e draws its views from seeds made of the schedule's seed and e, so a resumed run takes the very steps
    that the killed one would have taken; at most ``checkpoint_s`` seconds of steps are lost.

    Args:
        network: (B, 3, H, W) normalised pixels to (B, classes, h, w) scores.
        size: (height, width) of the views.
        train_statistics: let batch norm and dropout behave as in training; frozen bases want neither.
        checkpoint: file to resume from and to save to; removed by the caller when the result is safe.
        penalty: of the weights, added to the loss of every step.
        tell: is given one sentence where the run goes on from a checkpoint, or cannot.
        device: "cpu", or "cuda", where everything runs on a stream of the lowest priority.
        checkpoint_s: seconds of training after which the state is saved, wherever the epoch is.

    Raises:
        DataError: no labelled training frame, or labels beyond the classes.
        RecipeError: there is no such device, or the checkpoint cannot be written.
    """
    labelled = [frame for frame in train if frame.label is not None]
    if not labelled:
        raise DataError(f"none of the {len(train)} training frames has a label; nothing can be trained")
    saved = None
    if checkpoint:
        saved = Checkpoint(checkpoint, _fingerprint(schedule, augmentation, size, labelled, network))
    keep_freed()
    with on_device(device, network) as place:
        weights = weights_of(labelled, num_classes, schedule.class_balance).to(place)
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        optimiser = Optimiser(schedule.optimiser, parameters.values(), schedule.lr, schedule.weight_decay)
        state = TrainingState(network, parameters, optimiser, schedule.average, train_statistics)
        started, history, best = time.monotonic(), [], math.nan
        step, seconds, loss_sum = 0, 0.0, 0.0
        if saved and (resumed := saved.load(tell)):
            state.restore(resumed.tensors)
            step, seconds, history, best = resumed.step, resumed.seconds, resumed.history, resumed.best
            loss_sum = resumed.loss
            tell(f"training goes on from step {step} of {schedule.steps}")
        before, saved_at = step, started
        begun, stale = history[-1][0] if history else 0, _epochs_since_best(history)
        while begun < schedule.steps and not (schedule.patience and stale >= schedule.patience):
            epoch = begun // schedule.steps_per_epoch
            rng = np.random.default_rng((schedule.seed, epoch))
            generator = torch.Generator().manual_seed(schedule.seed * 100_003 + epoch)
            torch.manual_seed(schedule.seed * 100_003 + epoch)
            _train_mode(network, train_statistics)
            end = min(schedule.steps, (epoch + 1) * schedule.steps_per_epoch)
            draw = partial(_batch, labelled, size, schedule.batch, augmentation, rng, generator)
            if step > begun:
                assert resumed is not None  # only a resumed run begins within an epoch
                _skip(draw, step - begun)
                set_chance(place, resumed.tensors)
            for batch in _one_ahead(draw, end - step):
                optimiser.set_rate(_rate(schedule, step))
                loss_sum += _step(network, optimiser, batch, weights, penalty)
                state.update_average(step)
                step += 1
                now = time.monotonic()
                left = (schedule.steps - step) * (now - started) / max(1, step - before)
                miou = history[-1][2] if history else None
                report(Progress(step, schedule.steps, loss_sum / (step - begun), miou, left))
                if saved and now - saved_at >= checkpoint_s:
                    tensors = state.tensors() | chance(place)
                    saved.save(tensors, step, seconds + now - started, history, best, loss_sum)
                    saved_at = now
            miou = state.validate(validation, size, num_classes)
            history.append((step, loss_sum / max(1, step - begun), miou))
            begun, loss_sum, stale = step, 0.0, _epochs_since_best(history)
            if not stale:
                best = miou
                state.keep_best()
            if saved:
                saved_at = time.monotonic()
                saved.save(state.tensors(), step, seconds + saved_at - started, history, best)
        state.put_best()
    network.eval()
    return FitResult(best, step, seconds + time.monotonic() - started, tuple(history))


def _train_mode(network: nn.Module, statistics: bool) -> None:
    network.train(statistics)
    for module in network.modules():
        if isinstance(module, RankGate):
            module.train()


def _skip(draw: Callable[[], _Batch], count: int) -> None:
    """Past the views of an epoch that were seen before a kill."""
    for _ in range(count):
        draw()


def _one_ahead(draw: Callable[[], _Batch], count: int) -> Iterator[_Batch]:
    """Results of ``count`` calls, each drawn in one other thread while the caller works on the one before."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(draw)
        for index in range(count):
            batch = upcoming.result()
            if index + 1 < count:
                upcoming = thread.submit(draw)
            yield batch


def _batch(
    frames: Sequence[LabelledFrame],
    size: tuple[int, int],
    batch: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> _Batch:
    views, targets = [], []
    for index in rng.choice(len(frames), batch, replace=len(frames) < batch):
        sample = frames[index]
        assert sample.label is not None
        view, target = random_view(sample.frame, sample.label, size, augmentation, rng)
        views.append(view)
        targets.append(target)
    pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255
    return normalise(vary_colours(pixels, augmentation, generator)), torch.from_numpy(np.stack(targets)).long()


def _step(
    network: nn.Module,
    optimiser: Optimiser,
    batch: _Batch,
    weights: torch.Tensor,
    penalty: Callable[[], torch.Tensor] | None,
) -> float:
    pixels, target = (part.to(weights.device, non_blocking=True) for part in batch)
    kind = pixels.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" or _fast_bfloat16()):
        scores = network(pixels)
    # Half the resolution halves nothing that training needs, and quarters the cost of the loss.
    target = target[:, ::2, ::2]
    scores = functional.interpolate(scores.float(), size=target.shape[1:], mode="bilinear", align_corners=False)
    loss = functional.cross_entropy(scores, target, weight=weights, ignore_index=VOID)
    if penalty is not None:
        loss = loss + penalty()
    optimiser.zero_grad()
    if torch.isfinite(loss):
        loss.backward()
        nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step()
    return float(loss.detach())


def _rate(schedule: Schedule, step: int) -> float:
    """One cycle (Smith and Topin, 2018): linear up for the first tenth, cosine down to nearly nothing."""
    done = (step + 1) / schedule.steps
    rise = done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))
    return schedule.lr * max(rise, 1e-3)


def _epochs_since_best(history: Sequence[tuple[int, float, float]]) -> int:
    """Of equals the first is the best; without any score each epoch is better than those before it."""
    scores = [miou for _, _, miou in history]
    return len(scores) - 1 - int(np.nanargmax(scores)) if scores and not np.isnan(scores).all() else 0


def _fingerprint(
    schedule: Schedule,
    augmentation: Augmentation,
    size: tuple[int, int],
    frames: Sequence[LabelledFrame],
    network: nn.Module,
) -> str:
    """Of everything that decides the run's steps: settings, every pixel and label, and the weights it starts from."""
    digest = hashlib.sha256(json.dumps([asdict(schedule), asdict(augmentation), size, len(frames)]).encode())
    for sample in frames:
        for array in (sample.frame, np.asarray(sample.label)):
            digest.update(zlib.crc32(array.tobytes()).to_bytes(4, "little"))
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + zlib.crc32(tensor.detach().contiguous().numpy()).to_bytes(4, "little"))
    return digest.hexdigest()


def _fast_bfloat16() -> bool:
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return False  # also of a processor that could, where ATEN_CPU_CAPABILITY holds torch to what all of them can
    # Private names of torch, which may go: without them training is slower and otherwise the same.
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask is not None and ask() for ask in asked)
