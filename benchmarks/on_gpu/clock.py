"""Times on the device: CUDA graphs, events, interleaved rounds, medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch


def capture(work: Callable[[], object], warm_up: int = 3) -> torch.cuda.CUDAGraph:
    """What ``work`` launches, as a graph that always reads and writes the same addresses."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def milliseconds(work: Callable[[], object]) -> float:
    """Between two events around ``work`` on the current stream."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, measured in turn so that a device that slows down hits all alike.

    Every other round goes through them backwards.
    """
    for work in works.values():
        work()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds):
        names: Sequence[str] = list(works) if index % 2 == 0 else list(works)[::-1]
        for name in names:
            times[name].append(milliseconds(works[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def copy_bandwidth(megabytes: int = 256, rounds: int = 20) -> float:
    """Bytes per second, read and written, of a copy from device memory to device memory."""
    free, _ = torch.cuda.mem_get_info()
    size = min(megabytes << 20, free // 8)
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / (statistics.median(milliseconds(lambda: target.copy_(source)) for _ in range(rounds)) / 1e3)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
