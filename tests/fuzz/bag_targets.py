"""Bags of every storage, broken as bytes, as rows of a database, and inside sound files."""

from __future__ import annotations

import functools
import io
import itertools
import random
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mutations import hostile, mutated_bytes, mutated_text
from PIL import Image
from recording import KINDS, START, Recording, bag_file
from watch import Target

from mile_edge.data.bag_frames import BagFrames
from mile_edge.data.bags import Bag
from mile_edge.data.class_map import identity_map
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.data.topics import plan_topics

_FRAMES = 40
_STEP = 100_000_000
_CELLS = (
    *itertools.product(("messages",), ("timestamp", "topic_id", "data")),
    *itertools.product(("topics",), ("id", "name", "type", "serialization_format")),
    *itertools.product(("message_definitions",), ("encoded_message_definition", "encoding")),
)


def bag_targets() -> list[Target]:
    """The reader of bags, all the way to frames."""
    made: dict[str, bytes] = {}

    def whole(kind: str) -> bytes:
        if kind not in made:
            with tempfile.TemporaryDirectory() as folder:
                made[kind] = bag_file(_record(Path(folder) / "bag.bag", kind)).read_bytes()
        return made[kind]

    def broken(kind: str) -> Callable[[random.Random], bytes]:
        return lambda dice: mutated_bytes(whole(kind), dice, tuple(made.values()))

    def rows(dice: random.Random) -> bytes:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            path = Path(folder) / "bag.db3"
            path.write_bytes(whole("sqlite3"))
            with sqlite3.connect(path) as database:
                for _ in range(dice.choice((1, 2, 4))):
                    table, column = dice.choice(_CELLS)
                    value = dice.choice((hostile(dice), dice.randbytes(dice.randrange(64)), "x" * 5000))
                    value = value if isinstance(value, (int, float, str, bytes, type(None))) else type(value).__name__
                    value = value if not isinstance(value, int) or abs(value) < 2**63 else float(value)
                    value = value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
                    try:
                        database.execute(
                            f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, dice.randrange(1, 6))
                        )
                    except sqlite3.Error:
                        continue
            database.close()
            return path.read_bytes()

    def payload(dice: random.Random) -> bytes:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            kind = dice.choice(("mcap", "ros1"))
            return bag_file(_record(Path(folder) / "bag.bag", kind, dice)).read_bytes()

    metadata = _metadata()

    def folder_of(data: bytes, folder: Path) -> None:
        (folder / "bag").mkdir(exist_ok=True)
        (folder / "bag" / "bag.db3").write_bytes(whole("sqlite3"))
        (folder / "bag" / "metadata.yaml").write_bytes(data)
        _read_bag(folder / "bag")

    def read(data: bytes, folder: Path) -> None:
        # Without a suffix that would help: what the bytes are is all there is to go by, or the other way round.
        path = folder / ("bag" + ("", ".db3", ".mcap", ".bag")[len(data) % 4])
        path.write_bytes(data)
        try:
            _read_bag(path)
        finally:
            path.unlink()

    return [
        *(Target(f"bag-{kind}", broken(kind), read) for kind in KINDS),
        Target("bag-rows", rows, read),
        Target("bag-payload", payload, read),
        Target("bag-metadata", lambda dice: mutated_text(metadata, dice), folder_of),
    ]


def _record(path: Path, kind: str, dice: random.Random | None = None) -> Path:
    """Two cameras with a label, depth and a domain; with dice, messages and types go wrong inside a sound bag."""
    path = path if kind.startswith("ros1") else path.with_suffix("")
    pixels = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    with Recording(path, kind) as bag:
        store = bag.store
        wrong = (lambda data: mutated_bytes(bytes(data), dice)) if dice else bytes
        raw, bag_write = bag.write_raw, lambda t, m, s, d: raw(t, m, s, wrong(d) if dice and dice.random() < 0.5 else d)
        bag.write_raw = bag_write  # type: ignore[method-assign]
        bag.text("/truth/domain", START, "fog")
        for index in range(2):
            stamp = START + index * _STEP
            bag.image("/camera/image_raw", stamp, "rgb8", pixels)
            bag.image("/camera/label", stamp, "mono8", pixels[:, :, 0] % 3)
            bag.image("/depth/image", stamp, "16UC1", pixels[:, :, 0].astype(np.uint16) * 40)
            bag.compressed("/rear/image/compressed", stamp, "png", picture("PNG", "RGB"))
        assert store is bag.store
    return path


def _metadata() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return (_record(Path(folder) / "bag", "sqlite3") / "metadata.yaml").read_bytes()


def _read_bag(path: Path) -> None:
    with Bag.open(path) as bag:
        plan = plan_topics(bag.topics)
        frames = BagFrames(bag, plan, DEFAULT_PROFILES, identity_map(4))
        for frame in itertools.islice(frames, _FRAMES):
            if frame.frame.dtype != np.uint8 or frame.frame.ndim != 3:
                raise AssertionError(f"a frame is {frame.frame.dtype} {frame.frame.shape}")
            frame.frame.max(initial=0)


@functools.cache
def picture(kind: str, mode: str) -> bytes:
    """A small PNG or JPEG."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 250)
    else:
        image = Image.fromarray(pixels).convert(mode)
    image.save(stream, kind)
    return stream.getvalue()
