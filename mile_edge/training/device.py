"""Where training runs: the processor, or a GPU that steps aside for whatever else the process asks of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mile_edge.errors import RecipeError

DEVICES = ("cpu", "cuda")
# CUDA's range begins at 0 and goes down to higher priorities.
_LOWEST = 0


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
