"""What pictures look like from afar, to tell how alike they are."""

from __future__ import annotations

import numpy as np

_GRID = 4


def sketch_of(pixels: np.ndarray) -> np.ndarray:
    """What a picture looks like from afar: means over a grid of 4 x 4 and three channels, (48,) float32, 0..255."""
    small = np.nan_to_num(pixels[:: max(1, pixels.shape[0] // 64), :: max(1, pixels.shape[1] // 64)].astype(np.float32))
    small = small[..., :3] if small.ndim == 3 else np.repeat(small[..., None], 3, axis=2)
    if pixels.dtype != np.uint8:
        small = small * (255 / max(1e-6, float(small.max(initial=0.0))))
    rows = np.array_split(small, _GRID, axis=0)
    cells = [cell.reshape(-1, 3).mean(axis=0) for row in rows for cell in np.array_split(row, _GRID, axis=1)]
    return np.asarray(np.concatenate(cells), np.float32).round(1)


def distances(sketches: np.ndarray, sketch: np.ndarray) -> np.ndarray:
    """How far each of (N, 48) sketches is from one of them: (N,) root of the mean square, in grey levels."""
    return np.asarray(np.sqrt(np.square(sketches - sketch).mean(axis=1)))
