"""Bags of every storage are read whole, and what is no bag is refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bag_makers import FRAMES, SIDE, picture, read, record
from recording import KINDS, START, Recording, bag_file
from rosbags.highlevel import AnyReader

from mile_edge.data.bags import MISSING_FILE, UNREADABLE_FILE, Bag
from mile_edge.data.storage.mcap_records import CHUNK, MESSAGE_INDEX, records_in
from mile_edge.data.storage.records import UNKNOWN_COMPRESSION
from mile_edge.data.storage.segments import zstd
from mile_edge.errors import BagError

SHARED = Path(os.environ.get("MILE_EDGE_DATA", Path(__file__).parents[1].parent / "shared" / "data"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_storage_gives_every_message_in_time_order(recorded: dict[str, Path], kind: str) -> None:
    with Bag.open(recorded[kind]) as bag:
        assert {name: (topic.msgtype, topic.count) for name, topic in bag.topics.items()} == {
            "/camera/image_raw": ("sensor_msgs/msg/Image", FRAMES),
            "/truth/domain": ("std_msgs/msg/String", 3),
        }
        messages = list(bag.messages())
        assert not bag.losses
        assert not bag.notes
    times = [message.time for message in messages]
    assert times == sorted(times)
    assert len(times) == FRAMES + 3
    assert [m.value.data for m in messages if m.topic == "/truth/domain"] == ["domain 0", "domain 20", "domain 40"]
    images = [m.value for m in messages if m.topic == "/camera/image_raw"]
    for index, image in enumerate(images):
        rows = np.asarray(image.data).reshape(SIDE, image.step)[:, : SIDE * 3].reshape(SIDE, SIDE, 3)
        np.testing.assert_array_equal(rows[..., ::-1], picture(index))


@pytest.mark.parametrize("kind", ["mcap-zstd", "sqlite3"])
def test_a_single_file_and_a_folder_without_usable_metadata_read_the_same(
    recorded: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    file = bag_file(recorded[kind])
    assert read(file)[0] == list(range(FRAMES))
    for text in (None, "", "rosbag2_bagfile_information: [", "rosbag2_bagfile_information: 7", "\0\xff"):
        folder = tmp_path / f"bag{hash(text)}"
        folder.mkdir()
        shutil.copy(file, folder)
        if text is not None:
            (folder / "metadata.yaml").write_text(text, encoding="latin-1")
        indices, losses, _ = read(folder)
        assert indices == list(range(FRAMES))
        assert not losses


def test_a_bag_split_into_files_is_one_stream_and_a_missing_part_is_counted(tmp_path: Path) -> None:
    whole = record(tmp_path / "whole", "mcap-zstd", 10)
    with Recording(tmp_path / "later", "mcap-zstd") as recording:
        for index in range(10, 20):
            recording.image("/camera/image_raw", START + index * 100_000_000, "rgb8", picture(index))
    folder = tmp_path / "split"
    folder.mkdir()
    shutil.copy(bag_file(whole), folder / "split_0.mcap")
    shutil.copy(bag_file(tmp_path / "later"), folder / "split_1.mcap")
    names = "[split_0.mcap, split_1.mcap, old/place/split_2.mcap]"
    (folder / "metadata.yaml").write_text(f"rosbag2_bagfile_information: {{relative_file_paths: {names}}}")
    indices, losses, bag = read(folder)
    assert indices == list(range(20))
    assert losses == {MISSING_FILE: 1}
    assert bag.topics["/camera/image_raw"].count == 20
    (folder / "split_0.mcap").write_bytes(b"")
    indices, losses, _ = read(folder)
    assert indices == list(range(10, 20))
    assert losses == {MISSING_FILE: 1, UNREADABLE_FILE: 1}


def test_the_bags_of_rosbag2_read_as_rosbags_reads_them() -> None:
    folder = SHARED / "bags"
    if not folder.is_dir():
        pytest.skip(f"the recorded bags are not at {folder}")
    for path in sorted(folder.iterdir()):
        with AnyReader([path]) as reader, Bag.open(path) as bag:
            theirs = sorted((c.topic, time, bytes(raw)[-64:]) for c, time, raw in reader.messages())
            ours = sorted((m.topic, m.time) for m in bag.messages())
            assert ours == [(topic, time) for topic, time, _ in theirs]
            assert {t.name: t.count for t in bag.topics.values()} == {c.topic: c.msgcount for c in reader.connections}
            assert not bag.losses


def test_an_index_that_is_left_out_is_not_missed(recorded: dict[str, Path], tmp_path: Path) -> None:
    source = bag_file(recorded["mcap-zstd"]).read_bytes()
    kept = [source[:8]]
    for record_ in records_in(memoryview(source)[8:-8]):
        assert record_ is not None
        op, content = record_
        if (op not in (MESSAGE_INDEX, 0x02) and op < 0x07) or op == CHUNK:
            kept.append(struct.pack("<BQ", op, len(content)) + bytes(content))
    path = tmp_path / "bare.mcap"
    path.write_bytes(b"".join(kept))
    indices, losses, bag = read(path)
    assert indices == list(range(FRAMES))
    assert not losses
    assert bag.topics["/camera/image_raw"].count is None


def test_a_database_without_an_index_by_time_is_still_in_time_order(recorded: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "plain.db3"
    shutil.copy(bag_file(recorded["sqlite3"]), path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX timestamp_idx")
        connection.execute("UPDATE messages SET timestamp = 2 * ? - timestamp", (START + FRAMES * 100_000_000,))
    connection.close()
    with Bag.open(path) as bag:
        times = [message.time for message in bag.messages()]
    assert times == sorted(times)
    assert len(times) == FRAMES + 3


def test_a_type_that_the_bag_does_not_define_is_taken_from_the_standard_ones(
    recorded: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "old.db3"
    shutil.copy(bag_file(recorded["sqlite3"]), path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE message_definitions")
    connection.close()
    assert read(path)[0] == list(range(FRAMES))


def test_reading_a_long_bag_takes_no_more_memory_than_a_few_chunks(tmp_path: Path) -> None:
    big = np.zeros((600, 600, 3), np.uint8)
    for kind in ("mcap-zstd", "sqlite3"):
        path = tmp_path / kind
        with Recording(path, kind) as recording:
            for index in range(60):
                recording.image("/camera/image_raw", START + index * 100_000_000, "rgb8", big)
        tracemalloc.start()
        with Bag.open(path) as bag:
            assert sum(1 for _ in bag.messages()) == 60
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 * big.nbytes, kind


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mcap", b""),
        ("text.mcap", b"hello"),
        ("text.db3", b"hello" * 2000),
        ("note.txt", b"hello"),
        ("x.bag", b"#ROSBAG V1.2\n"),
    ],
)
def test_what_is_no_bag_is_refused_in_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    empty = tmp_path / "folder"
    empty.mkdir()
    for place in (path, empty, tmp_path / "absent"):
        with pytest.raises(BagError) as caught:
            Bag.open(place)
        assert str(place) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_there_and_no_bag_is_not_said_to_be_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "no.db3.zstd").write_bytes(zstd.compress(b"words, and no bag" * 20))
    told = {"pipe": "neither a file nor a folder", "loop": "too many levels of symbolic links", "none": "not exist"}
    for name, words in {**told, "no.db3.zstd": "no.db3.zstd' cannot be read"}.items():
        with pytest.raises(BagError, match=words) as refused:
            Bag.open(tmp_path / name)
        assert f"'{tmp_path / name}'" in str(refused.value)


def test_a_chunk_of_an_unknown_compression_is_named_so(recorded: dict[str, Path], tmp_path: Path) -> None:
    file = bag_file(recorded["mcap-zstd"])
    (tmp_path / "other.mcap").write_bytes(file.read_bytes().replace(b"\x04\0\0\0zstd", b"\x04\0\0\0snap"))
    indices, losses, bag = read(tmp_path / "other.mcap")
    assert indices == []
    assert set(losses) == {UNKNOWN_COMPRESSION} and losses[UNKNOWN_COMPRESSION] == FRAMES
    assert "'snap'" in " ".join(bag.notes)


def test_a_database_that_is_no_bag_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()
    with pytest.raises(BagError, match="not a rosbag2 database"):
        Bag.open(path)
