"""Many bags through one bundle: worker processes or a cluster, resumed after a kill, one merged report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mile_edge import __version__
from mile_edge.bundle import Bundle
from mile_edge.data.bags import bag_entries
from mile_edge.errors import BagError, BundleError, MileError, RecipeError
from mile_edge.fleet.merge import Bags, merged_report
from mile_edge.fleet.page import render_fleet
from mile_edge.fleet.part import PART, part_of, read_part
from mile_edge.fleet.places import is_url
from mile_edge.fleet.transfer import bag_version, fetch_bag, forget_bag
from mile_edge.replay import ReplayOptions
from mile_edge.replay.options import check_options
from mile_edge.replay.outputs import aside, check_place, publish_texts
from mile_edge.replay.run import PAGE, REPORT, open_segmenter, replay_next
from mile_edge.workers import Context, run_jobs

BAGS = "bags"
_TELL_S = 0.5

# Bags done and in all, and frames done so far.
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class FleetResult:
    """The content of the merged `report.json`, and the merged files."""

    report: dict[str, Any]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _BagJob:
    """One bag: where it is, where its report goes, and the fingerprint of all that it depends on."""

    source: str
    folder: Path
    fingerprint: str


@dataclass(frozen=True)
class _Replayer:
    """A worker: one segmenter, then bag after bag through it."""

    bundle: Path
    options: ReplayOptions
    cache: Path
    keep: bool

    def __call__(self) -> Callable[[_BagJob, Context], dict[str, Any]]:
        """Load the network, once per worker."""
        loaded = Bundle.open(self.bundle)
        segmenter = open_segmenter(loaded, self.options)

        def work(job: _BagJob, context: Context) -> dict[str, Any]:
            told = 0.0

            def progress(done: int, _total: int | None) -> None:
                nonlocal told
                if time.monotonic() - told > _TELL_S:
                    told = time.monotonic()
                    context.tell(done)

            with self._local(job.source, context) as bag:
                # Every bag its own ring: two workers must not write into one.
                ring = self.options.record_novel and self.options.record_novel / job.folder.name
                options = replace(self.options, out=job.folder, record_novel=ring)
                result = replay_next(segmenter, bag, options, progress=progress, stop=context.check)
            part = part_of(result, job.source, job.fingerprint)
            _write(part, job.folder)
            return part

        return work

    @contextlib.contextmanager
    def _local(self, source: str, context: Context) -> Iterator[Path]:
        if not is_url(source):
            yield Path(source)
            return
        local = fetch_bag(source, self.cache, context.check)
        yield local
        # Only after success: a copy of a bag that failed is looked at next.
        if not self.keep:
            forget_bag(local)


def replay_fleet(
    bundle: Path | str,
    bags: Sequence[str],
    options: ReplayOptions,
    *,
    workers: int = 1,
    cluster: str | None = None,
    cache: Path | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> FleetResult:
    """Replay every bag into a folder of its own below `options.out`, and all of them into one report.

    A bag that was done before with the same bundle, options and content is not replayed again, so that a run that was
    killed or interrupted goes on where it was. A bag that cannot be replayed is a row with its reason.

    Args:
        bundle: a bundle folder; on a cluster, one that every machine sees.
        bags: from `list_bags`.
        options: of every bag's replay; `threads` is 1 per worker where it is missing and there are several.
        workers: how many at the same time; the network is loaded once in each.
        cluster: see `run_jobs`.
        cache: where copies of remote bags go, and stay; where it is missing, below `options.out` and until they are
            done.
        fresh: replay also what was done before.
        progress: called as bags and frames are done.
        stop: asked several times a second; True ends the run with a report of the bags done.

    Raises:
        BundleError, BackendError: no bag can be replayed.
        RecipeError: an option cannot work, or the outputs cannot be written.
    """
    check_options(options)
    check_place(options.out, Path(bundle), [Path(source) for source in bags if not is_url(source)])
    if options.shadow:
        raise RecipeError(
            "--shadow may change the bundle between two bags; replay one bag by itself, without --workers"
        )
    if options.threads is None and (workers > 1 or cluster is not None):
        options = replace(options, threads=1)
    if options.class_map is not None:
        options = replace(options, class_map=options.class_map.absolute())
    if options.record_novel is not None:
        options = replace(options, record_novel=options.record_novel.absolute())
    folder = Path(bundle).resolve()
    loaded = Bundle.open(folder)
    manifest_sha256 = hashlib.sha256(loaded.manifest.to_json().encode()).hexdigest()
    out = options.out.resolve()
    # Absolute: a worker on another machine starts in another folder.
    sources = tuple(source if is_url(source) else str(Path(source).absolute()) for source in bags)
    state = Bags(sources, tuple(out / BAGS / _key(source) for source in sources))
    todo: list[_BagJob] = []
    about = _about(options, manifest_sha256)
    for number, source in enumerate(state.sources):
        try:
            job = _BagJob(source, state.folders[number], _fingerprint(source, about))
        except MileError as problem:
            state.failed[number] = str(problem)
            continue
        part = None if fresh else _done(job)
        if part is None:
            todo.append(job)
        else:
            state.parts[number] = part
    state.resumed = len(state.parts)
    places = {source: number for number, source in enumerate(state.sources)}
    frames: dict[str, int] = {}

    def advance() -> None:
        if progress is not None:
            replayed = sum(frames.values()) + sum(part["frames"] for part in state.parts.values())
            progress(len(state.parts) + len(state.failed), len(bags), replayed)

    def tell(job: _BagJob, done: int) -> None:
        frames[job.source] = done
        advance()

    advance()
    started = time.perf_counter()
    prepare = _Replayer(folder, options, cache or out / "cache", cache is not None)
    if todo:
        for outcome in run_jobs(
            prepare, todo, workers=workers, cluster=cluster, threads=options.threads or 1, stop=stop, tell=tell
        ):
            frames.pop(outcome.job.source, None)
            number = places[outcome.job.source]
            if outcome.stopped:
                continue
            if outcome.error is not None:
                state.failed[number] = outcome.error
            elif outcome.result["manifest_sha256"] != manifest_sha256:
                raise BundleError(f"bundle {folder} was changed while bags were replayed; start the same command again")
            else:
                state.parts[number] = outcome.result
                state.new_frames += outcome.result["frames"]
            advance()
    state.wall_seconds = time.perf_counter() - started
    state.workers = workers
    return _publish(loaded, manifest_sha256, state, options, out)


def _publish(loaded: Bundle, sha256: str, state: Bags, options: ReplayOptions, out: Path) -> FleetResult:
    created = datetime.now().astimezone().isoformat(timespec="seconds")
    report = merged_report(loaded, sha256, state, out, created)
    try:
        with aside(out) as folder:
            text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            publish_texts({out / PAGE: render_fleet(report), out / REPORT: text}, folder)
    except OSError as problem:
        raise RecipeError(
            f"The merged report in '{out}' cannot be written ({problem.strerror}); make room, or name another --out."
        ) from None
    return FleetResult(report, (options.out / PAGE, options.out / REPORT))


def _key(source: str) -> str:
    """A folder's name for a bag: readable, and different for different bags."""
    whole = source if is_url(source) else str(Path(source).resolve())
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", whole.rstrip("/").rpartition("/")[2]).strip(".-")[:48]
    return f"{readable or 'bag'}-{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _about(options: ReplayOptions, manifest_sha256: str) -> dict[str, Any]:
    """All that a bag's result depends on besides the bag; where outputs go and how many threads there are do not."""
    class_map = options.class_map.read_text(encoding="utf-8", errors="replace") if options.class_map else None
    return {
        "version": __version__,
        "manifest": manifest_sha256,
        "kinds": dict(sorted(options.kinds.items())),
        "labels": list(options.labels),
        "domains": options.domains,
        "class_map": class_map,
        "limit": options.limit,
        "predictions": options.predictions,
        "backend": options.backend,
        "fallback": options.fallback,
        "record_novel": str(options.record_novel or ""),
        "record_mb": options.record_mb,
        "fuse": options.fuse,
        "tolerance_ns": options.tolerance_ns,
        "profiles": [asdict(profile) for profile in options.profiles],
    }


def _fingerprint(source: str, about: dict[str, Any]) -> str:
    if is_url(source):
        version: Any = bag_version(source)
    else:
        try:
            status = [(file.name, file.stat()) for file in bag_entries(Path(source))]
        except OSError as problem:
            raise BagError(f"The bag '{source}' cannot be read ({problem.strerror}); check its permissions.") from None
        version = [[name, found.st_size, found.st_mtime_ns] for name, found in status]
    text = json.dumps([source, version, about], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _done(job: _BagJob) -> dict[str, Any] | None:
    try:
        part = read_part((job.folder / PART).read_bytes(), job.fingerprint)
    except OSError:
        return None
    return part if (job.folder / PAGE).is_file() and (job.folder / REPORT).is_file() else None


def _write(part: dict[str, Any], folder: Path) -> None:
    try:
        with aside(folder) as place:
            publish_texts({folder / PART: json.dumps(part, ensure_ascii=False, allow_nan=False)}, place)
    except OSError as problem:
        raise RecipeError(
            f"The outputs in '{folder}' cannot be written ({problem.strerror}); make room or name another with --out."
        ) from None
