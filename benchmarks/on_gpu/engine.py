"""The bundle's TensorRT engine, where TensorRT and an engine of this machine are at hand."""

from __future__ import annotations

from pathlib import Path

from on_gpu.kernel import MissingError


def measure(bundle: Path, rounds: int) -> dict[str, object]:
    """Milliseconds per frame of the engine.

    Raises:
        MissingError: TensorRT does not import here, or there is nothing to measure it with yet.
    """
    from mile_edge.errors import BackendError
    from mile_edge.runtime.tensorrt.api import find_api

    try:
        api = find_api()
    except BackendError as error:
        raise MissingError(str(error)) from error
    raise MissingError(
        f"{api.name} {api.version} imports, but {bundle} is not yet measured under it over {rounds} rounds"
    )
