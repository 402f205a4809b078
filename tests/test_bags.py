"""Bags of every storage are read whole, and damaged ones as far as they go with each loss counted."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording import KINDS, START, Recording, bag_file
from rosbags.highlevel import AnyReader

from mile_edge.data.bags import MISSING_FILE, UNPARSED, UNREADABLE_FILE, Bag
from mile_edge.data.storage.mcap_records import CHUNK, MESSAGE_INDEX, records_in
from mile_edge.data.storage.mcap_scan import read_layout
from mile_edge.data.storage.records import CUT_SHORT, DAMAGED_CHUNK, DAMAGED_RECORD, DAMAGED_ROW
from mile_edge.data.storage.segments import read_segment
from mile_edge.errors import BagError

SHARED = Path(os.environ.get("MILE_EDGE_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
FRAMES = 60
SIDE = 120


def picture(index: int) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 noise of 4 bits: compressible, yet a bag of it has several chunks."""
    return np.random.default_rng(index).integers(0, 16, (SIDE, SIDE, 3)).astype(np.uint8)


def record(path: Path, kind: str, frames: int = FRAMES) -> Path:
    with Recording(path, kind) as recording:
        for index in range(frames):
            time = START + index * 100_000_000
            if index % 20 == 0:
                recording.text("/truth/domain", time, f"domain {index}")
            recording.image("/camera/image_raw", time, "bgr8", picture(index), padding=index % 3)
    return path


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bag of each kind with the same messages."""
    folder = tmp_path_factory.mktemp("bags")
    return {kind: record(folder / f"{kind}{'.bag' if kind[:4] == 'ros1' else ''}", kind) for kind in KINDS}


def read(path: Path) -> tuple[list[int], Counter[str], Bag]:
    """(indices of the pictures that came out intact, losses, the closed bag)."""
    with Bag.open(path) as bag:
        indices = []
        for message in bag.messages(["/camera/image_raw"]):
            index = round((message.time - START) / 100_000_000)
            assert message.value.header.stamp.nanosec == index * 100_000_000 % 1_000_000_000
            indices.append(index)
        return indices, bag.losses, bag


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


@pytest.mark.parametrize("kind", ["mcap", "mcap-zstd", "ros1", "ros1-lz4", "ros1-bz2"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.45, 0.999))
def test_a_file_cut_anywhere_gives_what_precedes_the_cut(
    recorded: dict[str, Path], kind: str, share: float, tmp_path: Path
) -> None:
    whole = bag_file(recorded[kind]).read_bytes()
    cut = tmp_path / ("cut.bag" if kind.startswith("ros1") else "cut.mcap")
    cut.write_bytes(whole[: int(len(whole) * share)])
    indices, losses, bag = read(cut)
    assert indices == list(range(len(indices)))
    assert sum(losses.values()) <= 2
    # A cut chunk gives at least its whole messages unless it is compressed in one block.
    slack = 26 if kind in ("mcap-zstd", "ros1-bz2", "ros1-lz4") else 3
    assert len(indices) >= FRAMES * share - slack
    if indices and len(indices) < FRAMES:
        assert losses[CUT_SHORT] == 1
        assert bag.notes


@pytest.mark.parametrize("kind", ["mcap-zstd", "ros1-lz4", "ros1-bz2"])
def test_a_damaged_chunk_costs_its_own_messages_and_each_is_counted(
    recorded: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    data = bytearray(bag_file(recorded[kind]).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    damaged = tmp_path / ("damaged.bag" if kind.startswith("ros1") else "damaged.mcap")
    damaged.write_bytes(data)
    indices, losses, _ = read(damaged)
    assert 0 < len(indices) < FRAMES
    assert {0, FRAMES - 1} <= set(indices)
    assert set(losses) <= {DAMAGED_CHUNK, DAMAGED_RECORD}
    assert sum(losses.values()) == FRAMES - len(indices)


@pytest.mark.parametrize("kind", ["mcap", "mcap-zstd", "ros1", "ros1-lz4"])
def test_bytes_lost_in_the_middle_shift_the_rest_and_it_is_found_again(
    recorded: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    data = bytearray(bag_file(recorded[kind]).read_bytes())
    del data[len(data) // 2 : len(data) // 2 + 777]
    shifted = tmp_path / ("shifted.bag" if kind.startswith("ros1") else "shifted.mcap")
    shifted.write_bytes(data)
    indices, losses, _ = read(shifted)
    assert {0, FRAMES - 1} <= set(indices)
    assert len(indices) >= FRAMES - 30
    assert sum(losses.values()) >= 1


def test_a_checksum_that_fails_costs_the_chunk(recorded: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(bag_file(recorded["mcap"]).read_bytes())
    with bag_file(recorded["mcap"]).open("rb") as file:
        segment = read_layout(file, len(data)).segments[1]
        assert segment.counts is not None
    crc_at = segment.offset - 16
    struct.pack_into("<I", data, crc_at, 12345)
    damaged = tmp_path / "damaged.mcap"
    damaged.write_bytes(data)
    indices, losses, _ = read(damaged)
    assert losses[DAMAGED_CHUNK] == FRAMES - len(indices) > 0


def test_messages_outside_chunks_are_read_whole_cut_and_damaged(recorded: dict[str, Path], tmp_path: Path) -> None:
    source = bag_file(recorded["mcap"])
    with source.open("rb") as file:
        layout = read_layout(file, source.stat().st_size)
        chunks = [bytes(read_segment(file, segment)) for segment in layout.segments]
    flat = source.read_bytes()[:8] + b"".join(chunks)
    path = tmp_path / "flat.mcap"
    path.write_bytes(flat)
    indices, losses, bag = read(path)
    assert indices == list(range(FRAMES))
    assert not losses
    assert bag.notes
    assert bag.topics["/camera/image_raw"].count == FRAMES
    path.write_bytes(flat[: len(flat) * 2 // 3])
    indices, losses, _ = read(path)
    assert indices == list(range(len(indices)))
    assert len(indices) in (39, 40)
    assert losses == {CUT_SHORT: 1}
    starts = [
        at
        for at in range(len(flat) // 2, len(flat))
        if flat[at : at + 1] == b"\x05" and flat[at + 5 : at + 9] == bytes(4)
    ]
    place = next(at for at in starts if flat[at + 9 : at + 11] == b"\x02\x00")
    path.write_bytes(flat[:place] + b"\x00" * 9 + flat[place + 9 :])
    indices, losses, _ = read(path)
    assert len(indices) == FRAMES - 1
    assert losses == {DAMAGED_CHUNK: 1}


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


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.2, 0.98))
def test_a_cut_database_gives_its_readable_rows(recorded: dict[str, Path], share: float, tmp_path: Path) -> None:
    whole = bag_file(recorded["sqlite3"]).read_bytes()
    path = tmp_path / "cut.db3"
    path.write_bytes(whole[: int(len(whole) * share)])
    indices, losses, bag = read(path)
    assert indices == list(range(len(indices)))
    assert len(indices) >= FRAMES * share - 6
    assert sum(losses.values()) >= 1
    assert bag.notes


def test_damaged_pages_of_a_database_cost_the_rows_on_them(recorded: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(bag_file(recorded["sqlite3"]).read_bytes())
    for share in (0.3, 0.6):
        at = int(len(data) * share) // 4096 * 4096
        data[at : at + 3 * 4096] = b"\xff" * (3 * 4096)
    path = tmp_path / "damaged.db3"
    path.write_bytes(data)
    indices, losses, _ = read(path)
    assert indices == sorted(indices)
    assert FRAMES - 12 <= len(indices) < FRAMES
    assert losses[DAMAGED_ROW] + losses[UNPARSED] >= FRAMES - len(indices)


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


@pytest.mark.parametrize("kind", ["mcap-zstd", "sqlite3", "ros1-lz4"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=12), early=st.booleans())
def test_flipped_bytes_never_raise_anything_but_a_bag_error(
    recorded: dict[str, Path], kind: str, places: list[tuple[float, int]], early: bool, tmp_path: Path
) -> None:
    data = bytearray(bag_file(recorded[kind]).read_bytes())
    reach = 12000 if early else len(data) - 1
    for share, mask in places:
        data[int(share * reach)] ^= mask
    path = tmp_path / f"flipped{bag_file(recorded[kind]).suffix}"
    path.write_bytes(data)
    told = ""
    try:
        with Bag.open(path) as bag:
            for message in bag.messages():
                assert message.topic in bag.topics
    except BagError as problem:
        told = str(problem)
    assert "\n" not in told


def test_a_message_that_does_not_parse_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    with Recording(path) as recording:
        for index in range(6):
            time = START + index * 100_000_000
            if index % 2:
                recording.write_raw("/camera/image_raw", "sensor_msgs/msg/Image", time, b"\0\1\0\0garbage")
            else:
                recording.image("/camera/image_raw", time, "rgb8", picture(index))
    indices, losses, _ = read(path)
    assert indices == [0, 2, 4]
    assert losses == {UNPARSED: 3}


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


def test_a_database_that_is_no_bag_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()
    with pytest.raises(BagError, match="not a rosbag2 database"):
        Bag.open(path)
