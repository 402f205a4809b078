"""From uint8 frames to what the network was trained on."""

from __future__ import annotations

import numpy as np
import torch

from mile_edge.runtime.resize import resize_frames

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def to_pixels(frames: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, height, width) normalised float32, resized as the robot side does it."""
    frames = resize_frames(frames, size)
    return normalise(torch.from_numpy(np.array(frames, order="C")).permute(0, 3, 1, 2).float() / 255)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in 0..1 to zero mean and unit variance per channel, by ImageNet's statistics."""
    return (pixels - _per_channel(pixels, MEAN)) / _per_channel(pixels, STD)


def _per_channel(pixels: torch.Tensor, values: tuple[float, ...]) -> torch.Tensor:
    """(3, 1, 1) where the pixels are. Filled there: a copy from the host is refused while a CUDA graph is captured."""
    return torch.cat([pixels.new_full((1, 1, 1), value) for value in values])
