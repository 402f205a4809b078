"""Damaged bags are read as far as they go, with each loss counted."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from bag_makers import FRAMES, picture, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording import START, Recording, bag_file

from mile_edge.data.bags import UNPARSED, Bag
from mile_edge.data.storage.mcap_scan import read_layout
from mile_edge.data.storage.records import CUT_SHORT, DAMAGED_CHUNK, DAMAGED_RECORD, DAMAGED_ROW
from mile_edge.data.storage.segments import read_segment
from mile_edge.errors import BagError


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
