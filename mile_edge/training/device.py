"""Where training runs: the processor, or a GPU that steps aside for whatever else the process asks of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from mile_edge.errors import RecipeError

DEVICES = ("cpu", "cuda")
# Of a checkpoint's tensors, the states of torch's own generators: the processor's, and the GPU's.
_CHANCE, _CHANCE_THERE = "chance", "chance_cuda"
# CUDA's range begins at 0 and goes down to higher priorities.
_LOWEST = 0


def chance(place: torch.device) -> dict[str, torch.Tensor]:
    """The state of each generator that training on this device draws from, by name, for a checkpoint."""
    states = {_CHANCE: torch.get_rng_state()}
    if place.type == "cuda":
        states[_CHANCE_THERE] = torch.cuda.get_rng_state(place)
    return states


def set_chance(place: torch.device, states: Mapping[str, torch.Tensor]) -> None:
    """Go on with what :func:`chance` gave; one that was saved elsewhere leaves the GPU's generator as it is."""
    torch.set_rng_state(states[_CHANCE])
    if place.type == "cuda" and _CHANCE_THERE in states:
        torch.cuda.set_rng_state(states[_CHANCE_THERE], place)


@contextmanager
def on_device(name: str, network: nn.Module) -> Iterator[torch.device]:
    """A network on a device, and afterwards on the processor again.

    On a GPU all work inside goes to a stream of the lowest priority. CUDA orders streams of one process by it, and
    those of several processes only under MPS, where CUDA_MPS_CLIENT_PRIORITY says it of a whole process; without MPS
    they take turns, whatever their priorities.

    Args:
        name: "cpu" or "cuda".
        network: moved in place.

    Raises:
        RecipeError: no such device is there.
    """
    if name not in DEVICES:
        raise RecipeError(f"device {name!r} is unknown; choose {' or '.join(DEVICES)}")
    if name == "cpu":
        yield torch.device("cpu")
        return
    if not torch.cuda.is_available():
        raise RecipeError("torch finds no CUDA device; leave --device out, or install a torch built for the GPU's CUDA")
    place = torch.device("cuda")
    stream = torch.cuda.Stream(place, priority=_LOWEST)
    try:
        with torch.cuda.stream(stream):
            network.to(place)
            yield place
    finally:
        stream.synchronize()
        network.to("cpu")
