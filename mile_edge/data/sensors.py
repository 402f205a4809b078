"""Sensor profiles: how an image of any sensor becomes the three 8-bit channels that the network takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from mile_edge.errors import SensorError
from mile_edge.yaml_file import read_yaml

KINDS = ("camera", "depth", "thermal")
_PARAMETERS = ("scale", "offset", "minimum", "maximum")
_CAMERA_RANGES = {"gamma": (0.1, 10.0), "saturation": (0.0, 4.0)}
_UNITS = {"depth": "metres", "thermal": "kelvin"}

# 12 MiB at most, and a depth table with 0.1 mm steps still reaches 400 m.
_MAX_TABLE = 1 << 22


@dataclass(frozen=True)
class SensorProfile:
    """How one kind of sensor maps to frames.

    `value = count * scale + offset` gives metres (depth) or kelvin (thermal) for 16-bit images. A depth pixel is valid
    where `minimum <= value <= maximum` and the count is not 0; a thermal pixel is clipped to that range. The mapping is
    fixed per profile, never stretched per frame, so that the same surface looks the same in every frame.

    A camera uses none of these four, but two of its own, for one whose colours are not like those that the base has
    seen: `255 * (level / 255) ** gamma` (below 1 is brighter), then colours `saturation` times as far from grey.
    """

    kind: str
    scale: float = 1.0
    offset: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    gamma: float = 1.0
    saturation: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            SensorError: an unknown kind, or a number that cannot work.
        """
        if self.kind not in KINDS:
            raise SensorError(f"Sensor kind '{self.kind}' is not known; use one of {', '.join(KINDS)}.")
        for name in _names(self.kind):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise SensorError(f"The {self.kind} profile's {name} is {value!r}; it must be a finite number.")
            # 1 in a YAML file and 1.0 in code are the same profile, and must share one cached table.
            object.__setattr__(self, name, float(value))
        if self.kind == "camera":
            for name, (low, high) in _CAMERA_RANGES.items():
                if not low <= getattr(self, name) <= high:
                    raise SensorError(
                        f"The camera profile's {name} is {getattr(self, name)}; give one of {low:g} to {high:g}."
                    )
            return
        if self.scale <= 0:
            raise SensorError(f"The {self.kind} profile's scale is {self.scale}; it must be above 0.")
        lowest = 0.0 if self.kind == "thermal" else 1e-3
        if not lowest <= self.minimum < self.maximum:
            raise SensorError(
                f"The {self.kind} profile's range is {self.minimum} to {self.maximum} {_UNITS[self.kind]}; it must "
                f"start at {lowest} or above and end above its start."
            )
        if (self.maximum - min(self.offset, 0.0)) / self.scale > _MAX_TABLE - 2:
            raise SensorError(
                f"The {self.kind} profile's scale {self.scale} is too fine for a maximum of {self.maximum} "
                f"{_UNITS[self.kind]}; use at most {_MAX_TABLE} steps."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SensorProfile:
        """Make a profile from its dictionary form, as in a manifest or a YAML file.

        Raises:
            SensorError: not a mapping, a missing kind, an unknown key or a number that cannot work.
        """
        if not isinstance(values, Mapping) or "kind" not in values:
            raise SensorError(f"A sensor profile must be a mapping with the key 'kind', not {values!r:.80}.")
        kind = values["kind"]
        if kind not in KINDS:
            raise SensorError(f"Sensor kind {kind!r} is not known; use one of {', '.join(KINDS)}.")
        allowed = {"kind", *_names(kind)}
        if unknown := sorted(str(key) for key in values if key not in allowed):
            raise SensorError(
                f"The {kind} profile has the unknown key '{unknown[0]}'; it may hold {', '.join(sorted(allowed))}."
            )
        return cls(**{**DEFAULT_PROFILES[kind].to_dict(), **values})

    def to_dict(self) -> dict[str, Any]:
        """Give the form that `from_dict` takes: only the keys that this kind uses."""
        values = {name: getattr(self, name) for name in _names(self.kind)}
        if self.kind == "camera":
            # Bundles made before cameras had numbers stay equal, and a camera taken as it is needs none.
            values = {name: value for name, value in values.items() if value != 1.0}
        return {"kind": self.kind, **values}

    def to_frame(self, image: np.ndarray, encoding: str | None = None) -> np.ndarray:
        """Map one decoded image to a frame.

        Camera: (H, W, 3) uint8 RGB, and (H, W) uint8 as three equal channels, both with the profile's gamma and
        saturation. Depth: (H, W) uint16 counts or (H, W) float32 metres to inverse, logarithmic and linear depth, each
        1..255, and 0, 0, 0 where invalid. Thermal: (H, W) uint16 counts to grey over the profile's range, (H, W) uint8
        as it is.

        Args:
            image: what `decode_image` or `decode_compressed` returned.
            encoding: its encoding, only to name it in an error.

        Returns:
            (H, W, 3) uint8. It may be a view of `image`.

        Raises:
            SensorError: this kind of sensor cannot have such an image.
        """
        if self.kind == "camera" and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            return self._coloured(image)
        if self.kind in ("camera", "thermal") and image.dtype == np.uint8 and image.ndim == 2:
            return self._coloured(np.broadcast_to(image[:, :, None], (*image.shape, 3)))
        if self.kind in ("depth", "thermal") and image.dtype == np.uint16 and image.ndim == 2:
            return _table(self).take(image, axis=0, mode="clip")
        if self.kind == "depth" and image.dtype == np.float32 and image.ndim == 2:
            # Floats are metres already: the offset belongs to counts.
            return _table(replace(self, offset=0.0)).take(self._counts(image), axis=0, mode="clip")
        found = f"{encoding or image.dtype.name} of shape {image.shape}"
        takes = {
            "camera": "rgb8, bgr8, rgba8, bgra8, mono8 or 8UC1",
            "depth": "16UC1, mono16 or 32FC1",
            "thermal": "mono16, 16UC1, mono8 or 8UC1",
        }
        raise SensorError(
            f"A {self.kind} cannot give {found}; it takes {takes[self.kind]}, or name another sensor kind."
        )

    def _coloured(self, frame: np.ndarray) -> np.ndarray:
        """A (H, W, 3) uint8 frame with the camera's gamma and saturation."""
        if self.gamma == 1.0 and self.saturation == 1.0:
            return frame
        image = Image.fromarray(np.ascontiguousarray(frame))
        if self.gamma != 1.0:
            image = image.point([round(255 * (level / 255) ** self.gamma) for level in range(256)] * 3)
        return np.asarray(ImageEnhance.Color(image).enhance(self.saturation) if self.saturation != 1.0 else image)

    def _counts(self, metres: np.ndarray) -> np.ndarray:
        """Table indices of float depth, 0 where invalid, so that 32FC1 and 16UC1 of one scene give one frame."""
        # REP 117: -Inf is too near, NaN an error, +Inf too far; no comparison with any of them holds.
        valid = (metres >= np.float32(self.minimum)) & (metres <= np.float32(self.maximum))
        return np.rint(np.where(valid, metres, np.float32(0)) / np.float32(self.scale)).astype(np.uint32)


def _names(kind: str) -> tuple[str, ...]:
    """The numbers that a kind uses."""
    return tuple(_CAMERA_RANGES) if kind == "camera" else _PARAMETERS


DEFAULT_PROFILES: Mapping[str, SensorProfile] = {
    "camera": SensorProfile("camera"),
    "depth": SensorProfile("depth", scale=0.001, offset=0.0, minimum=0.3, maximum=80.0),
    "thermal": SensorProfile("thermal", scale=0.01, offset=0.0, minimum=253.0, maximum=333.0),
}


def load_profile(path: str | Path) -> SensorProfile:
    """Read a profile from a YAML file such as `calib/sensors/depth.yaml`.

    Raises:
        SensorError: the file cannot be read, is not YAML, or is not a valid profile.
    """
    values = read_yaml(path, "sensor profile", SensorError)
    try:
        return SensorProfile.from_dict(values)
    except SensorError as problem:
        raise SensorError(f"In '{path}': {problem}") from None


@lru_cache(maxsize=16)
def _table(profile: SensorProfile) -> np.ndarray:
    """Look-up table (N, 3) uint8 over every 16-bit count, and beyond where float depth reaches further."""
    reach = math.ceil((profile.maximum - profile.offset) / profile.scale)
    values = np.arange(max(1 << 16, reach + 2), dtype=np.float64) * profile.scale + profile.offset
    if profile.kind == "depth":
        table = _depth_channels(values, profile)
    else:
        level = (values - profile.minimum) / (profile.maximum - profile.minimum)
        table = np.repeat(np.rint(np.clip(level, 0, 1) * 255).astype(np.uint8)[:, None], 3, axis=1)
    table.flags.writeable = False
    return table


def _depth_channels(metres: np.ndarray, profile: SensorProfile) -> np.ndarray:
    """(N, 3) uint8: inverse depth for near detail, linear for far structure, and the logarithm between both."""
    near, far = profile.minimum, profile.maximum
    # Counts are multiples of the scale: half a billionth of slack keeps the range's ends valid under rounding.
    valid = (metres >= near * (1 - 5e-10)) & (metres <= far * (1 + 5e-10))
    valid[0] = False
    depth = np.clip(metres, near, far)
    shares = np.stack(
        (
            (1 / depth - 1 / far) / (1 / near - 1 / far),
            np.log(depth / near) / math.log(far / near),
            (depth - near) / (far - near),
        ),
        axis=1,
    )
    return np.where(valid[:, None], 1 + np.rint(shares * 254), 0).astype(np.uint8)
