"""Novel frames on their way into the ring of `replay --record-novel`: no frame ever waits for a disk, with no ROS."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mile_edge.data.novelty_ring import NovelFrame, NoveltyRing
from mile_edge.errors import MileError
from mile_edge_node.sensor import Sensor

# Frames that may wait for the disk.
WAITING = 8
# Of pixels that are stored as they are; the others become JPEG.
_ENCODINGS = {"uint16": "16UC1", "float32": "32FC1"}


class Recorder:
    """A ring and the thread that writes it.

    Args:
        folder: of the ring; one that exists is continued.
        budget_mb: megabytes that it may take.
        sensors: by name.
        topics: of the sensors by name, as they are called in a bag.
        tell: is given each sentence about what cannot be kept, when it is another than the last one.

    Attributes:
        budget_mb: megabytes that it may take.
        frames: that the ring holds.
        megabytes: that it takes.
        dropped: novel frames that were not looked at, because the disk was behind.
        problem: why frames are not kept, empty where they are.

    Raises:
        BagError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        budget_mb: float,
        sensors: Mapping[str, Sensor],
        topics: Mapping[str, str],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ring = NoveltyRing(folder, budget_mb)
        self._sensors, self._topics, self._tell = sensors, topics, tell
        self._queue: queue.Queue[tuple[str, Any, str, float] | None] = queue.Queue(WAITING)
        self.budget_mb, self.dropped, self.problem = budget_mb, 0, ""
        self.frames, self.megabytes = self._ring.frames, self._ring.size / 1e6
        self._thread = threading.Thread(target=self._run, name="mile_edge recorder", daemon=True)
        self._thread.start()

    def offer(self, sensor: str, message: Any, expert: str, novelty: float) -> None:
        """Hand over a novel frame; returns at once, and counts the frame as dropped where too many wait.

        Args:
            sensor: whose it is.
            message: as it came in.
            expert: that it went through.
            novelty: its score, 1 at the limit.
        """
        try:
            self._queue.put_nowait((sensor, message, expert, novelty))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (each := self._queue.get()) is not None:
            try:
                self._ring.offer(self._frame(*each))
                self.problem = ""
            except Exception as problem:  # the thread must outlive whatever a disk or a message does
                reason = str(problem) if isinstance(problem, MileError) else f"{type(problem).__name__}: {problem}"
                if reason != self.problem:
                    self._tell(reason)
                self.problem = reason
            self.frames, self.megabytes = self._ring.frames, self._ring.size / 1e6
            self._queue.task_done()

    def drain(self) -> None:
        """Wait until every frame handed over so far was kept or refused."""
        self._queue.join()

    def _frame(self, name: str, message: Any, expert: str, novelty: float) -> NovelFrame:
        sensor = self._sensors[name]
        pixels, header = sensor.pixels(message), message.header
        encoding = _ENCODINGS.get(str(pixels.dtype), "") if sensor.transport == "compressed" else message.encoding
        stamp = int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)
        return NovelFrame(self._topics[name], encoding, pixels, stamp, str(header.frame_id), expert, novelty)
