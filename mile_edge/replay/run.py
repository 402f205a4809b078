"""The replay itself: a bag through a bundle, into a report."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import WriterError

from mile_edge.bundle import Bundle
from mile_edge.data.bag_frames import BagFrame, BagFrames
from mile_edge.data.bags import Bag
from mile_edge.data.class_map import identity_map, read_class_map
from mile_edge.data.encodings import JPEG_SIDE
from mile_edge.data.grouping import moments, stamp_of
from mile_edge.data.novelty_ring import NovelFrame, NoveltyRing
from mile_edge.data.sensors import DEFAULT_PROFILES, SensorProfile
from mile_edge.data.topics import TopicPlan, plan_bag
from mile_edge.errors import BagError, FusionError, RecipeError
from mile_edge.replay.ahead import Ahead
from mile_edge.replay.fused import FUSED, FusedTally
from mile_edge.replay.options import ReplayOptions, check_options
from mile_edge.replay.outputs import aside, check_place, publish, write_aside
from mile_edge.replay.page import render_page
from mile_edge.replay.predictions import PredictionWriter
from mile_edge.replay.report import Circumstances, build_report, describe_bundle
from mile_edge.replay.tally import NO_DOMAIN, Tally
from mile_edge.runtime import Segmentation, Segmenter, SensorFrame

Progress = Callable[[int, "int | None"], None]
REPORT, PAGE, PREDICTIONS = "report.json", "report.html", "predictions.mcap"


@dataclass(frozen=True)
class ReplayResult:
    """What a replay gives: the content of `report.json`, the files written, and what the report is made of."""

    report: Mapping[str, Any]
    files: tuple[Path, ...]
    tally: Tally
    plan: TopicPlan


def replay(
    bundle: Path | str,
    bag: Path | str,
    options: ReplayOptions | None = None,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> ReplayResult:
    """Run every image of a bag through a bundle and report what came out.

    Args:
        bundle: a bundle folder.
        bag: a bag folder or file.
        options: see `ReplayOptions`.
        progress: called after each frame with the frames done and the frames in all, None where not known.
        stop: asked before each frame; True ends the replay early with a report of what was done.

    Raises:
        BundleError, BagError: one of them cannot be used.
        DataError: the class map does not fit.
        FusionError: fusion was asked for and the bundle has none.
        RecipeError: an option cannot work, or the outputs cannot be written.
    """
    options = options or ReplayOptions()
    check_options(options)
    check_place(options.out, Path(bundle), [Path(bag)])
    loaded = Bundle.open(bundle)
    class_map = _class_map(options, loaded)
    with open_segmenter(loaded, options) as segmenter:
        return _replay(segmenter, class_map, bag, options, progress, stop or (lambda: False))


def replay_next(
    segmenter: Segmenter,
    bag: Path | str,
    options: ReplayOptions,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> ReplayResult:
    """The same through a segmenter that is open already, one bag after another; no bag sees what another left.

    Raises:
        MileError: as `replay` does, for this bag.
    """
    check_options(options)
    return _replay(segmenter, _class_map(options, segmenter.bundle), bag, options, progress, stop or (lambda: False))


def open_segmenter(bundle: Bundle, options: ReplayOptions) -> Segmenter:
    """The segmenter that the options ask for."""
    return Segmenter(
        bundle, threads=options.threads, backend=options.backend, fallback=options.fallback, shadow=options.shadow
    )


def _class_map(options: ReplayOptions, bundle: Bundle) -> np.ndarray:
    names = [label.name for label in bundle.manifest.classes]
    return read_class_map(options.class_map, names) if options.class_map else identity_map(len(names))


def _replay(
    segmenter: Segmenter,
    class_map: np.ndarray,
    bag: Path | str,
    options: ReplayOptions,
    progress: Progress | None,
    stop: Callable[[], bool],
) -> ReplayResult:
    loaded = segmenter.bundle
    if options.fuse and loaded.manifest.fusion is None:
        raise FusionError(f"bundle {loaded.path} has no graph that fuses; mile-edge train fusion --add gives it one")
    segmenter.forget()
    with ExitStack() as stack:
        opened = stack.enter_context(Bag.open(bag))
        plan = plan_bag(opened, kinds=options.kinds, labels=options.labels, domains=options.domains)
        if not plan.images:
            raise BagError(
                f"The bag '{bag}' has no image topic to replay, only {', '.join(opened.topics)}; record a topic of "
                "sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage."
            )
        folder = stack.enter_context(aside(options.out))
        ring = NoveltyRing(options.record_novel, options.record_mb) if options.record_novel else None
        frames = BagFrames(opened, plan, _profiles(loaded, options.profiles), class_map)
        tally = Tally(loaded.manifest, loaded.choices())
        tally.fused = FusedTally(tally.classes, sorted(plan.images)) if options.fuse else None
        run = _Run(segmenter, tally, progress, stop, ring)
        try:
            run.all(frames, plan, folder, options, _total(opened, plan, options.limit))
            run.notes += _shadow_notes(segmenter, options)
            report = build_report(run.tally, _about(loaded, opened, plan, frames, run))
            return ReplayResult(report, _publish(report, run.tally, folder, options), run.tally, plan)
        except (OSError, WriterError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise RecipeError(
                f"The outputs in '{options.out}' cannot be written ({reason}); make room or name another with --out."
            ) from None


class _Run:
    """The loop over frames, and how it ended."""

    def __init__(
        self,
        segmenter: Segmenter,
        tally: Tally,
        progress: Progress | None,
        stop: Callable[[], bool],
        ring: NoveltyRing | None,
    ) -> None:
        self.tally = tally
        self.seconds = 0.0
        self.stopped: str | None = None
        self.notes: list[str] = []
        self._segmenter, self._progress, self._stop, self._ring = segmenter, progress, stop, ring

    def all(self, frames: BagFrames, plan: TopicPlan, folder: Path, options: ReplayOptions, total: int | None) -> None:
        with ExitStack() as stack:
            writer = None
            if options.predictions:
                target = folder / Path(PREDICTIONS).stem
                topics = [*plan.images, *([FUSED] if options.fuse else [])]
                writer = stack.enter_context(PredictionWriter(target, topics, self._segmenter.classes))
            tolerance = options.tolerance_ns if options.fuse else None
            ahead = stack.enter_context(Ahead(_moments(islice(frames, options.limit), plan, tolerance)))
            started = time.perf_counter()
            for moment in ahead.until(self._stop):
                if tolerance is None:
                    self._one(moment[0], writer)
                else:
                    self._together(moment, tolerance, writer)
                self.seconds = time.perf_counter() - started
                if self._progress is not None:
                    self._progress(self.tally.frames, total)
            if writer is not None and writer.shrunk:
                told = f"{writer.shrunk} overlays in {PREDICTIONS} are shrunk; their frames have a side beyond "
                self.notes.append(f"{told}{JPEG_SIDE} pixels, the most that a JPEG holds (the masks are whole)")
            if self._stop():
                self.stopped = "interrupted"
            elif self.tally.frames == options.limit:
                self.stopped = "limit"

    def _together(self, moment: list[BagFrame], tolerance_ns: int, writer: PredictionWriter | None) -> None:
        given = {frame.topic: SensorFrame(frame.frame, stamp_of(frame), frame.kind) for frame in moment}
        fused = self.tally.fused
        assert fused is not None
        try:
            result = self._segmenter.fuse(given, tolerance_ns=tolerance_ns)
        except FusionError:
            # All of them dead: each has its own mask, as it would without fusion, and there is nothing else to say.
            result = None
        for frame in moment:
            if result is None or frame.topic not in result.sensors:
                self._one(frame, writer)
                continue
            self._take(frame, result.sensors[frame.topic], writer)
        if result is not None:
            shown = fused.add(moment, result, moment[0].domain or NO_DOMAIN)
            if writer is not None:
                told = ", ".join(f"{stream} {share:.3f}" for stream, share in result.weights.items())
                writer.write(shown, result.mask, told)

    def _one(self, frame: BagFrame, writer: PredictionWriter | None) -> None:
        self._take(frame, self._segmenter(frame.frame, sensor=frame.kind, stream=frame.topic), writer)

    def _take(self, frame: BagFrame, result: Segmentation, writer: PredictionWriter | None) -> None:
        self.tally.add(frame, result)
        if self._ring is not None and result.novel[0]:
            self._ring.offer(_novel(frame, result))
        if writer is not None:
            writer.write(frame, result.mask[0], result.expert[0])


def _moments(frames: Iterable[BagFrame], plan: TopicPlan, tolerance_ns: int | None) -> Iterator[list[BagFrame]]:
    """Frames of one moment together, or each alone where nothing is fused."""
    if tolerance_ns is None:
        return ([frame] for frame in frames)
    return moments(frames, plan.images, tolerance_ns)


def _novel(frame: BagFrame, result: Segmentation) -> NovelFrame:
    novelty = float(result.novelty[0])
    return NovelFrame(
        frame.topic, frame.encoding, frame.pixels, stamp_of(frame), frame.frame_id, result.expert[0], novelty
    )


def _shadow_notes(segmenter: Segmenter, options: ReplayOptions) -> list[str]:
    """What became of the expert that the bundle had in shadow."""
    if not options.shadow:
        candidate = segmenter.bundle.manifest.candidate
        return (
            [f"expert {candidate.name} stays in shadow; a replay leaves the bundle as it is, unless asked by --shadow"]
            if candidate is not None
            else []
        )
    segmenter.wait_for_shadow()
    report = segmenter.shadow
    if report is None:
        return ["the bundle has no expert in shadow, so that --shadow changed nothing"]
    ends = {"running": "still in shadow; the next run begins anew", "live": "now live", "withdrawn": "withdrawn"}
    told = f"expert {report.name} is {ends.get(report.outcome, 'still in shadow')}: {report.compared} of "
    told += f"{report.plan.frames} frames compared, {report.picked} of them would have been its own"
    return [told + (f", {report.agreement:.1%} of pixels as live" if report.agreement is not None else "")]


def _profiles(bundle: Bundle, given: tuple[SensorProfile, ...]) -> dict[str, SensorProfile]:
    """What the user gave over the bundle's own sensor profiles, and these over the built-in ones."""
    stored = {kind: SensorProfile.from_dict(values) for kind, values in bundle.manifest.sensors.items()}
    return {**DEFAULT_PROFILES, **stored, **{profile.kind: profile for profile in given}}


def _total(bag: Bag, plan: TopicPlan, limit: int | None) -> int | None:
    counts = [bag.topics[name].count for name in plan.images]
    if any(count is None for count in counts):
        return limit
    total = sum(count for count in counts if count is not None)
    return total if limit is None else min(total, limit)


def _about(bundle: Bundle, bag: Bag, plan: TopicPlan, frames: BagFrames, run: _Run) -> Circumstances:
    missing = {f"named topic {name} is not in the bag, or not of the right type": 1 for name in plan.missing}
    sha256 = hashlib.sha256(bundle.manifest.to_json().encode()).hexdigest()
    topics = {name: {"type": topic.msgtype, "messages": topic.count} for name, topic in bag.topics.items()}
    return Circumstances(
        describe_bundle(bundle, sha256),
        {"path": str(bag.path), "topics": topics},
        plan,
        Counter(missing) + bag.losses + frames.skipped,
        frames.examples,
        (*bag.notes, *run.notes),
        run.seconds,
        run.stopped,
        datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def _publish(report: Mapping[str, Any], tally: Tally, folder: Path, options: ReplayOptions) -> tuple[Path, ...]:
    """Put everything into place, the machine's report last: where it is, the rest is."""
    page, data, predictions = (options.out / name for name in (PAGE, REPORT, PREDICTIONS))
    masks = {folder / Path(PREDICTIONS).stem / PREDICTIONS: predictions} if options.predictions else {}
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Masks of an earlier replay beside this report would be taken for its own.
    publish({**masks, **write_aside({page: render_page(report, tally), data: text}, folder)}, [predictions])
    return (page, data, predictions) if options.predictions else (page, data)
