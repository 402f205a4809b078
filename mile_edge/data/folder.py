"""Labelled frames in a folder: ``images/``, ``labels/`` and ``classes.yaml``.

Pixels are taken as they are stored: a rotation that an image's EXIF asks for is not applied.

``classes.yaml``, here or in a folder above, says what the label values mean::

    ignore: 255
    sensor: camera          # or depth, thermal; camera where it is missing
    domain: dusk            # the folder's name where it is missing
    profile: {scale: 0.04}  # what differs from calib/sensors; of a camera, {gamma: 0.85}
    classes:
      - {id: 0, name: sky, color: [128, 128, 128]}
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mile_edge.bundle import ClassLabel
from mile_edge.bundle.strict_json import shown
from mile_edge.data.encodings import MAX_PIXELS
from mile_edge.data.sensors import DEFAULT_PROFILES, SensorProfile
from mile_edge.errors import DataError, SensorError
from mile_edge.yaml_file import read_yaml

VOID = 255
KEYS = ("ignore", "sensor", "domain", "profile", "classes")
_SUFFIXES = {".png", ".jpg", ".jpeg"}
# EXIF's tag of how the picture is to be turned before it is shown.
_ORIENTATION = 0x0112
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class LabelledFrame:
    """One frame as the network sees it.

    Attributes:
        name: file name without its suffix.
        frame: (H, W, 3) uint8.
        label: (H, W) uint8 class ids, 255 where unlabelled; ``None`` where the folder has no label for it.
    """

    name: str
    frame: np.ndarray
    label: np.ndarray | None


class Dataset(Protocol):
    """Frames of one sensor in one domain, with one label space: a folder, or the labelled part of a bag."""

    path: Path
    classes: tuple[ClassLabel, ...]
    sensor: str
    domain: str

    def __iter__(self) -> Iterator[LabelledFrame]:
        """Every frame once, in a fixed order."""


class FolderDataset:
    """Frames of one sensor in one domain, read from disk when asked for.

    Args:
        path: the folder with ``images/``, or a folder of unlabelled images.
        profile: how pixels become a frame; what ``classes.yaml`` says where it is missing.
        classes: label space for a folder whose ``classes.yaml`` is missing.
        every: take one image of so many, the first one on.

    Attributes:
        notes: sentences on what lies there and is passed over.

    Raises:
        DataError: no images, or labels and no classes.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        profile: SensorProfile | None = None,
        classes: tuple[ClassLabel, ...] | None = None,
        every: int = 1,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            what = "is a file" if self.path.exists() else "does not exist"
            raise DataError(f"{self.path} {what}; give a folder with images/ and labels/")
        images = _files(self.path / "images") or _files(self.path)
        self._images = images[::every]
        if not self._images:
            raise DataError(f"{self.path} has no images; expected .png or .jpg files in {self.path / 'images'}")
        self._labels = {file.stem: file for file in _files(self.path / "labels")}
        settings, file = _settings(self.path)
        self.notes = (*_unread(settings, file), *self._strays({file.stem for file in images}))
        found = _classes(settings, self.path)
        if not found and self._labels and classes is None:
            if file.is_file():
                raise DataError(f"{self.path} has labels and {file} lists no classes; list them under `classes`")
            raise DataError(f"{self.path} has labels but no classes.yaml, here or in a folder above; write one")
        self.classes = found or classes or ()
        self.sensor = _text(settings.get("sensor", "camera"), f"{file}: sensor")
        self.domain = _text(settings.get("domain", self.path.name), f"{file}: domain")
        if self.sensor not in DEFAULT_PROFILES:
            raise DataError(f"{self.path}: sensor {self.sensor!r} is unknown; choose {', '.join(DEFAULT_PROFILES)}")
        if profile is not None and profile.kind != self.sensor:
            raise DataError(
                f"{self.path} holds {self.sensor} images and the profile is for {profile.kind} images; give another"
            )
        self.profile = profile or _profile(settings.get("profile", {}), self.sensor, self.path)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def labelled(self) -> int:
        """How many of the frames have a label."""
        return sum(file.stem in self._labels for file in self._images)

    def _strays(self, stems: set[str]) -> list[str]:
        strays = sorted(self._labels.keys() - stems)
        if not strays:
            return []
        return [f"{len(strays)} files in {self.path / 'labels'} have no image of their name, such as {strays[0]!r}"]

    @property
    def names(self) -> tuple[str, ...]:
        """File name without its suffix of every frame, in order."""
        return tuple(file.stem for file in self._images)

    def __getitem__(self, index: int) -> LabelledFrame:
        file = self._images[index]
        image = _read(file)
        try:
            frame = self.profile.to_frame(image, _encoding(image))
        except SensorError as error:
            raise DataError(f"{file} does not fit sensor {self.sensor!r} of its folder: {error}") from None
        label_file = self._labels.get(file.stem)
        label = _read_label(label_file) if label_file else None
        if label is not None and (label.ndim != 2 or label.dtype != np.uint8):
            raise DataError(f"{label_file} is no 8-bit single-channel image; a label holds one class id per pixel")
        if label is not None and label.shape != frame.shape[:2]:
            raise DataError(
                f"{label_file} is {label.shape[1]}x{label.shape[0]}, its image {frame.shape[1]}x{frame.shape[0]}; "
                f"{_remedy_of_size(file, label, frame)}"
            )
        return LabelledFrame(file.stem, frame, label)

    def files(self, index: int) -> tuple[Path, ...]:
        """Image and, where there is one, label of a frame."""
        image = self._images[index]
        label = self._labels.get(image.stem)
        return (image,) if label is None else (image, label)

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (self[index] for index in range(len(self)))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)


def _settings(path: Path) -> tuple[dict[str, Any], Path]:
    for folder in (path, *path.resolve().parents[:3]):
        file = folder / "classes.yaml"
        if file.is_file():
            settings = read_yaml(file, "label space", DataError, "mend or remove it")
            if not isinstance(settings, dict):
                raise DataError(f"{file} holds {shown(settings)}; write a mapping with `classes`")
            if settings.get("ignore", VOID) != VOID:
                said = shown(settings["ignore"])
                raise DataError(f"{file} says ignore: {said}; give unlabelled pixels the value {VOID}")
            return settings, file
    return {}, path / "classes.yaml"


def _unread(settings: dict[str, Any], file: Path) -> list[str]:
    """A sentence for each key that nothing reads: misspelt, it would leave its default in force unsaid."""
    found = []
    for key in settings.keys() - set(KEYS):
        like = get_close_matches(str(key), KEYS, 1)
        found.append(f"{file} has the key {shown(key)}, which nothing reads{f'; is it {like[0]}?' if like else ''}")
    return sorted(found)


def _classes(settings: dict[str, Any], path: Path) -> tuple[ClassLabel, ...]:
    entries = settings.get("classes", [])
    if not isinstance(entries, list):
        raise DataError(f"classes.yaml of {path}: classes are {shown(entries)}; write a list, one class a line")
    by_id: dict[int, ClassLabel] = {}
    for entry in entries:
        try:
            by_id[int(entry["id"])] = _class(entry, f"classes.yaml of {path}: the name of class {shown(entry['id'])}")
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"classes.yaml of {path}: every class needs id, name and color of three 0..255, and one is "
                f"{shown(entry)}; mend it"
            ) from None
    if sorted(by_id) != list(range(len(by_id))) or len(by_id) != len(entries):
        raise DataError(
            f"classes.yaml of {path}: ids are {shown(sorted(by_id))}, expected 0, 1, 2 and so on, each once"
        )
    classes = tuple(by_id[index] for index in range(len(by_id)))
    # A bundle refuses these too, but only after hours of training.
    for shared in ("name", "color"):
        values = [getattr(label, shared) for label in classes]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise DataError(f"classes.yaml of {path}: two classes have the {shared} {twice!r}; give each its own")
    return classes


def _profile(values: Any, sensor: str, path: Path) -> SensorProfile:
    if not isinstance(values, dict):
        raise DataError(f"classes.yaml of {path}: profile is {shown(values)}; write a mapping such as {{scale: 0.04}}")
    try:
        return SensorProfile.from_dict({"kind": sensor, **values}) if values else DEFAULT_PROFILES[sensor]
    except SensorError as error:
        raise DataError(f"classes.yaml of {path}: {error}") from None


def _text(value: Any, what: str) -> str:
    """A setting that is text, or a number as its digits.

    Raises:
        DataError: anything else, such as what YAML makes of an unquoted `true`.
    """
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise DataError(f'{what} is {shown(value)}; write text, in quotes where YAML reads it otherwise ("true")')


def _remedy_of_size(file: Path, label: np.ndarray, frame: np.ndarray) -> str:
    with Image.open(file) as image:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    if turned and label.shape == frame.shape[1::-1]:
        return "the image's EXIF asks for a rotation, which is not applied here; save it rotated, without EXIF"
    return "save the label in its image's size"


def _class(entry: dict[str, Any], what: str) -> ClassLabel:
    red, green, blue = map(int, entry["color"])
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"color {entry['color']}")
    return ClassLabel(_text(entry["name"], what), (red, green, blue))


def _read_label(file: Path) -> np.ndarray:
    with suppress(OSError), file.open("rb") as stream:
        # By its content: a jpeg that was renamed has blurred ids all the same.
        if stream.read(2) == _JPEG:
            raise DataError(f"{file} is a jpeg, which blurs class ids; save labels as png")
    return _read(file, palette="keep")


def _read(file: Path, palette: str = "resolve") -> np.ndarray:
    """An image's pixels; a palette's colours where it is an image, its indices where it is a label."""
    try:
        # Only these: a file called .png that is a PostScript would be handed to an interpreter.
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, and at most {MAX_PIXELS} are read")
            if image.mode in {"RGBA", "CMYK"} or (image.mode == "P" and palette == "resolve"):
                image = image.convert("RGB")
            # Pillow before 11.3 gives 16-bit PNG as 32-bit integers.
            return np.asarray(image, np.uint16) if image.mode == "I" else np.asarray(image)
    except Exception as error:  # Pillow raises a dozen kinds for damaged data
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file} cannot be read as an image ({reason}); remove or replace it") from error


def _encoding(image: np.ndarray) -> str:
    if image.ndim == 3:
        return "rgb8"
    return "mono8" if image.dtype == np.uint8 else "16UC1"
