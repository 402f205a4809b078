"""Databases that are no sound rosbag2 database cost their bad rows and no more."""

from __future__ import annotations

import gc
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from recording import START, Recording, bag_file

from mile_edge.data.bags import Bag
from mile_edge.data.storage.records import DAMAGED_ROW
from mile_edge.data.storage.sqlite import SqliteStorage

PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.fixture
def without_key(tmp_path: Path) -> Path:
    """Five frames in a table whose ids need not be numbers; the second has none, the fourth has text."""
    with Recording(tmp_path / "bag", "sqlite3") as recording:
        for index in range(5):
            recording.image("/camera/image", START + index, "rgb8", PICTURE)
    path = bag_file(tmp_path / "bag")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (id, topic_id, timestamp, data)")
        connection.execute("INSERT INTO other SELECT id, topic_id, timestamp, data FROM messages")
        connection.execute("DROP TABLE messages")
        connection.execute("ALTER TABLE other RENAME TO messages")
        connection.execute("UPDATE messages SET id = NULL WHERE id = 2")
        connection.execute("UPDATE messages SET id = 'four' WHERE id = 4")
    connection.close()
    return path


def test_rows_whose_id_is_no_number_are_counted(without_key: Path) -> None:
    with Bag.open(without_key) as bag:
        times = [message.time - START for message in bag.messages()]
    assert times == [0, 2, 4]
    assert bag.losses == {DAMAGED_ROW: 2}


def test_a_reader_that_is_dropped_after_its_bag_was_closed_says_nothing(
    without_key: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda given: print(given.exc_value, file=sys.stderr))
    with Bag.open(without_key) as bag:
        messages = bag.messages()
        next(messages)
    del messages
    gc.collect()
    assert capsys.readouterr().err == ""


def test_they_are_passed_over_where_the_index_is_lost(without_key: Path) -> None:
    storage = SqliteStorage(without_key)
    topics = {channel.topic for channel in storage.channels}
    wanted = {key: channel for key, channel in storage._channels.items() if channel.topic in topics}
    found = [record.time - START for record in storage._salvage(wanted, bytearray(), Counter())]
    storage.close()
    assert found == [0, 2, 4]
