"""Experts that change while frames flow: switching by a few bytes, adding by one row, never capturing anew."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from mile_edge.network.low_rank import LowRankFunction
from on_gpu.clock import percentile
from on_gpu.network import Networks, capture_gated, make_networks

# Far below any score, and a finite number in fp16.
_NEVER = -1e4


@dataclass(frozen=True)
class Flow:
    """A captured pass and pinned host memory to feed its gate from."""

    networks: Networks
    graph: torch.cuda.CUDAGraph
    outputs: list[torch.Tensor]
    pins: list[torch.Tensor]  # per row of the bank, the bias under which only that row is chosen

    def switch(self, row: int) -> None:
        """From the next frame on the gate chooses ``row``; nothing waits for the copy."""
        self.networks.inputs.gate_bias.copy_(self.pins[row], non_blocking=True)


def make_flow(function: LowRankFunction | None, name: str = "segformer-b0", size: tuple[int, int] = (480, 640)) -> Flow:
    """The gated pass over a bank of 17 rows, captured once."""
    networks = make_networks(name, size)
    experts = networks.inputs.bank.shape[0]
    graph, outputs = capture_gated(networks, function)
    pins = []
    for row in range(experts):
        bias = torch.full((1, experts), _NEVER)
        bias[0, row] = 0
        pins.append(bias.pin_memory())
    return Flow(networks, graph, outputs, pins)


def measure_switching(flow: Flow, frames: int = 400) -> dict[str, object]:
    """What a frame takes, from before the gate's bias is written to the mask, with and without a switch.

    The host enqueues all frames without waiting once.

    Raises:
        RuntimeError: a frame went through another expert than the one that was switched to.
    """
    rows = len(flow.pins)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(frames)]
    chosen = torch.empty(frames, dtype=torch.int32, device="cuda")
    wanted, row = [], 1
    flow.switch(row)
    torch.cuda.synchronize()
    for index, (first, last) in enumerate(events):
        first.record()
        if index % 2:
            row = 1 + row % (rows - 1)
            flow.switch(row)
        flow.graph.replay()
        last.record()
        chosen[index].copy_(flow.outputs[2][0], non_blocking=True)
        wanted.append(row)
    torch.cuda.synchronize()
    if chosen.tolist() != wanted:
        raise RuntimeError("a frame went through another expert than the one that was switched to")
    times = [first.elapsed_time(last) for first, last in events]
    same, switched = times[2::2], times[3::2]
    return {
        "frames": frames,
        "bytes_written": flow.pins[0].numel() * flow.pins[0].element_size(),
        "same_expert_ms": statistics.median(same),
        "switched_ms": statistics.median(switched),
        "switch_ms": statistics.median(switched) - statistics.median(same),
        "captures": 1,
        "host_synchronisations": 0,
    }


def measure_adding(flow: Flow, frames: int = 1000, every: int = 10) -> dict[str, object]:
    """How much longer a frame takes, as its caller sees it, while an expert is being added.

    A row goes from pinned host memory to a free row on a stream of its own. Once an event says that it is there, the
    next frame's prototypes and bias name it. Each frame is waited for, as a robot does; between two additions lie
    frames without one, and their median is what the others are compared with.

    Raises:
        RuntimeError: an added row is not bit for bit what was sent, or the gate does not choose it.
    """
    inputs = flow.networks.inputs
    rows, length = inputs.bank.shape
    side = torch.cuda.Stream()
    # Two of everything: host memory that a copy may still read is not written.
    sent = [torch.randn(length).mul_(0.02).to(inputs.bank.dtype).pin_memory() for _ in range(2)]
    prototype = torch.randn(inputs.prototypes.shape[1:]).pin_memory()
    done = torch.cuda.Event()
    plain: list[float] = []
    adding: list[float] = []
    in_flight, additions, publishing = False, 0, 0
    flow.switch(1)
    torch.cuda.synchronize()
    for index in range(frames + 20):
        busy = in_flight
        started = time.perf_counter()
        if index >= 20 and index % every == 0 and not in_flight:
            row = 2 + additions % (rows - 2)
            with torch.cuda.stream(side):
                inputs.bank[row].copy_(sent[additions % 2], non_blocking=True)
                done.record(side)
            in_flight = busy = True
        elif in_flight and done.query():
            inputs.prototypes[row].copy_(prototype, non_blocking=True)
            flow.switch(row)
            in_flight, additions, publishing = False, additions + 1, row
        flow.graph.replay()
        torch.cuda.current_stream().synchronize()
        if index >= 20:
            (adding if busy else plain).append((time.perf_counter() - started) * 1e3)
        if publishing:
            arrived = torch.equal(inputs.bank[publishing].cpu(), sent[(additions - 1) % 2])
            if not arrived or int(flow.outputs[2][0]) != publishing:
                raise RuntimeError(f"row {publishing} did not arrive whole, or the gate does not choose it")
            publishing = 0
    usual = statistics.median(plain)
    delays = [taken - usual for taken in adding]
    return {
        "frames": frames,
        "additions": additions,
        "row_bytes": length * inputs.bank.element_size(),
        "frame_ms": usual,
        "delay_median_ms": statistics.median(delays),
        "delay_p99_ms": percentile(delays, 0.99),
        "delay_max_ms": max(delays),
        # What frames without any addition scatter by, so that the figure above can be judged.
        "plain_p99_ms": percentile(plain, 0.99) - usual,
        "plain_max_ms": max(plain) - usual,
    }
