"""Random views of labelled frames: scale, crop, mirror, and a camera's moods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from mile_edge.data.folder import VOID


@dataclass(frozen=True)
class Augmentation:
    """How far a training view may stray from the frame.

    Attributes:
        scale: smallest and largest zoom of the frame at the network's size; where it does not fill the view, void does.
        photometric: strength of brightness, contrast, saturation and colour changes, 0 for none.
        foreign: share of views that lose their colours altogether (grey, inverted, channels swapped), so that a base
            meets what other sensors will show it.
        crop: (height, width) of the views; the network's size where it is missing. Small views cost less.
    """

    scale: tuple[float, float] = (0.75, 2.0)
    photometric: float = 0.4
    foreign: float = 0.0
    crop: tuple[int, int] | None = None


def random_view(
    frame: np.ndarray, label: np.ndarray, size: tuple[int, int], plan: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random zoom, crop and mirror image of one frame.

    Args:
        frame: (H, W, 3) uint8.
        label: (H, W) uint8.
        size: (height, width) of the network, which the zoom refers to.

    Returns:
        view (h, w, 3) uint8 and its label (h, w) uint8, of the plan's crop or the network's size.
    """
    height, width = plan.crop or size
    zoom = float(np.exp(rng.uniform(np.log(plan.scale[0]), np.log(plan.scale[1]))))
    image, mask = Image.fromarray(frame), Image.fromarray(label)
    # The part of the frame that is seen, and the part of the view that it fills, along each side.
    seen = [min(1.0, side / (zoom * full)) for side, full in zip((height, width), size, strict=True)]
    inner = [max(1, min(side, round(zoom * full))) for side, full in zip((height, width), size, strict=True)]
    box_height, box_width = seen[0] * image.height, seen[1] * image.width
    left, top = rng.uniform(0, image.width - box_width), rng.uniform(0, image.height - box_height)
    box = (left, top, left + box_width, top + box_height)
    view = np.zeros((height, width, 3), np.uint8)
    target = np.full((height, width), VOID, np.uint8)
    row, column = (int(rng.integers(0, side - filled + 1)) for side, filled in zip((height, width), inner, strict=True))
    window = np.s_[row : row + inner[0], column : column + inner[1]]
    view[window] = np.asarray(image.resize((inner[1], inner[0]), Image.Resampling.BILINEAR, box=box))
    target[window] = np.asarray(mask.resize((inner[1], inner[0]), Image.Resampling.NEAREST, box=box))
    if rng.random() < 0.5:
        view, target = view[:, ::-1], target[:, ::-1]
    return np.ascontiguousarray(view), np.ascontiguousarray(target)


def vary_colours(batch: torch.Tensor, plan: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Random exposure, contrast, saturation, cast, gamma and noise per sample; (B, 3, H, W) in 0..1, same out."""
    if plan.photometric == 0:
        return batch
    samples, strength = batch.shape[0], plan.photometric

    def factor(*shape: int) -> torch.Tensor:
        return torch.exp((torch.rand(samples, *shape, generator=generator) * 2 - 1) * strength)

    grey = batch.mean(dim=1, keepdim=True)
    batch = grey + (batch - grey) * factor(1, 1, 1)
    level = batch.mean(dim=(1, 2, 3), keepdim=True)
    batch = level + (batch - level) * factor(1, 1, 1)
    batch = batch * factor(1, 1, 1) * factor(3, 1, 1).pow(0.4)
    batch = batch.clamp(1e-4, 1).pow(factor(1, 1, 1))
    batch = _as_foreign_sensor(batch, plan.foreign, generator)
    noise = torch.randn(batch.shape, generator=generator) * torch.rand(samples, 1, 1, 1, generator=generator) * 0.05
    return (batch + noise * strength).clamp(0, 1)


def _as_foreign_sensor(batch: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    if share == 0:
        return batch
    batch = batch.clone()
    for index in torch.nonzero(torch.rand(batch.shape[0], generator=generator) < share).flatten().tolist():
        view = batch[index, torch.randperm(3, generator=generator)]
        if torch.rand((), generator=generator) < 0.5:
            weights = torch.rand(3, 1, 1, generator=generator)
            view = (view * weights / weights.sum()).sum(dim=0, keepdim=True).expand(3, -1, -1)
        if torch.rand((), generator=generator) < 0.5:
            view = 1 - view
        batch[index] = view
    return batch
