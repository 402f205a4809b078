"""Small files that ask for much: huge shapes, bombs of every format, endless aliases; refused within 192 MiB."""

from __future__ import annotations

import io
import shutil
import sqlite3
import struct
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from bundle_makers import make_expert, raw_file, taken_apart
from fuzz.watch import limits
from PIL import Image
from recording import START, Recording, bag_file

from mile_edge.bundle import read_expert
from mile_edge.data.bags import Bag
from mile_edge.data.class_map import read_class_map
from mile_edge.data.encodings import decode_compressed, decode_image
from mile_edge.data.folder import FolderDataset
from mile_edge.data.sensors import load_profile
from mile_edge.data.storage.segments import zstd
from mile_edge.errors import BagError, DataError, ExpertError, MileError, SensorError

ROOM = 192 << 20


@pytest.mark.parametrize(
    "shape",
    [[2**31 - 1, 2**31 - 1], [2**16] * 4, [2**62, 4], [2**63, 2], [-1, -24], [0, 2**31 - 1], [1 << 40], [24.0], [True]],
)
def test_a_tensor_of_an_impossible_or_overflowing_shape_is_refused_before_it_is_allocated(
    tmp_path: Path, shape: list[int]
) -> None:
    header, body = taken_apart(make_expert())
    tensor = next(entry for name, entry in header.items() if name != "__metadata__")
    tensor["shape"] = shape
    path = tmp_path / "huge.safetensors"
    path.write_bytes(raw_file(header, body))
    with limits(ROOM), pytest.raises(ExpertError):
        read_expert(path)


def test_offsets_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    header, body = taken_apart(make_expert())
    tensor = next(entry for name, entry in header.items() if name != "__metadata__")
    tensor["data_offsets"] = [2**64, 2**64 + 4 * int(np.prod(tensor["shape"]))]
    path = tmp_path / "far.safetensors"
    path.write_bytes(raw_file(header, body))
    with limits(ROOM), pytest.raises(ExpertError):
        read_expert(path)


@pytest.mark.parametrize(("height", "width", "step"), [(2**31, 2**31, 2**33), (2**32 - 1, 1, 3), (1, 2**31, 2**34)])
def test_an_image_of_overflowing_sides_is_refused(height: int, width: int, step: int) -> None:
    with limits(ROOM), pytest.raises(SensorError):
        decode_image("rgb8", height, width, step, 0, bytes(100))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims these sides, and is a few bytes long."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_a_picture_that_claims_a_gigapixel_is_refused_by_its_header(tmp_path: Path) -> None:
    data = png_of(40_000, 40_000)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(data)
    with limits(ROOM):
        with pytest.raises(SensorError):
            decode_compressed("png", data)
        with pytest.raises(DataError):
            FolderDataset(tmp_path)[0]


def test_a_picture_that_is_none_of_ours_reaches_no_other_decoder(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "TIFF")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match="cannot be read as an image"):
        FolderDataset(tmp_path)[0]


def aliases() -> str:
    """Ten lines that are ten thousand million values once their aliases are followed."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines) + "\nkind: *a9\n"


@pytest.mark.parametrize(
    "text", [aliases(), "kind: &a [*a]", "kind: " + "[" * 5000, "kind: camera\nscale: 0x" + "f" * 9000, "a" * (2 << 20)]
)
def test_yaml_that_is_endless_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    for read in (load_profile, lambda path: read_class_map(path, ["sky"])):
        with limits(ROOM), pytest.raises(MileError) as caught:
            read(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_chunk_that_unpacks_to_more_than_a_chunk_may_hold_is_a_loss(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag", "mcap-zstd") as bag:
        bag.text("/truth/domain", START, "fog")
    path = bag_file(tmp_path / "bag")
    data = bytearray(path.read_bytes())
    # The chunk's record: op 6, length, start, end, unpacked size; the index repeats that size at the file's end.
    chunk = data.index(b"\x06", 8)
    size = data[chunk + 9 + 16 : chunk + 9 + 24]
    whole = bytes(data).replace(bytes(size), struct.pack("<Q", 1 << 40))
    path.write_bytes(whole)
    with limits(ROOM):
        try:
            with Bag.open(path) as bag_again:
                assert list(bag_again.messages()) == []
                assert sum(bag_again.losses.values()) >= 1
        except BagError:
            pass


def test_a_packed_bag_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.mcap.zstd"
    path.write_bytes(zstd.compress(bytes(64 << 20)))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(520 << 20))
    with limits(ROOM), pytest.raises(BagError, match="unpacks to more than the disk"):
        Bag.open(path)


@pytest.mark.parametrize("trick", ["view", "generated"])
def test_a_database_whose_tables_are_programs_is_no_bag(tmp_path: Path, trick: str) -> None:
    path = tmp_path / "bag.db3"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
        database.execute("INSERT INTO topics VALUES (1, '/camera', 'sensor_msgs/msg/Image', 'cdr')")
        if trick == "view":
            endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x"
            database.execute(
                f"CREATE VIEW messages AS {endless} AS id, 1 AS topic_id, 1 AS timestamp, x AS data FROM n"
            )
        else:
            database.execute(
                "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
                "data BLOB GENERATED ALWAYS AS (zeroblob(900000000)))"
            )
            database.execute("INSERT INTO messages(topic_id, timestamp) VALUES (1, 1)")
    database.close()
    with limits(ROOM), pytest.raises(BagError, match="views or computed"):
        Bag.open(path)


def test_a_definition_of_one_s_own_for_an_image_is_not_used(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag", "mcap") as bag:
        bag.image("/camera/image_raw", START, "mono8", np.zeros((4, 4), np.uint8))
    path = bag_file(tmp_path / "bag")
    data = path.read_bytes()
    assert data.count(b"uint8 is_bigendian") >= 1
    path.write_bytes(data.replace(b"uint8 is_bigendian", b"uint8 is_bigenbian"))
    with Bag.open(path) as again:
        values = [message.value for message in again.messages()]
    assert len(values) == 0 or values[0].is_bigendian == 0
