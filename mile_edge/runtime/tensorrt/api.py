"""Which TensorRT is at hand: TensorRT 10 or 11 as JetPack and PyPI bring it, or TensorRT-RTX with the same API."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mile_edge.errors import BackendError

# Backend name -> module, in the order in which they are tried.
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_OLDEST = 10
_LOG = logging.getLogger("mile_edge.tensorrt")


@dataclass(frozen=True)
class Api:
    """An imported TensorRT.

    Attributes:
        name: the backend's name, "tensorrt" or "tensorrt-rtx".
        module: the Python module.
        version: its full version, which an engine is bound to.
    """

    name: str
    module: Any
    version: str

    @property
    def is_rtx(self) -> bool:
        """Engines hold kernels for several devices in portable form and are finished when they are loaded."""
        return self.name == "tensorrt-rtx"

    def capabilities(self) -> tuple[str, ...]:
        """What an engine may be built for without having that device, such as "8.9"; empty for TensorRT."""
        if not self.is_rtx:
            return ()
        members = self.module.ComputeCapability.__members__
        return tuple(_dotted(name) for name in members if name.startswith("SM"))


def find_api(backend: str | None = None) -> Api:
    """Import the TensorRT that was asked for, or the first that imports.

    Raises:
        BackendError: it is unknown, not installed, broken or too old.
    """
    if backend is not None and backend not in MODULES:
        raise BackendError(f"backend {backend!r} is no TensorRT; choose {' or '.join(MODULES)}")
    failures = []
    for name in [backend] if backend else MODULES:
        try:
            return _imported(name)
        except BackendError as error:
            failures.append(error)
    raise failures[0] if len(failures) == 1 else BackendError(_nothing())


def _imported(name: str) -> Api:
    try:
        module = importlib.import_module(MODULES[name])
        version = str(module.__version__)
    except ImportError as error:
        if getattr(error, "name", None) == MODULES[name]:
            raise BackendError(f"{MODULES[name]} is not installed; {_advice(name)}") from None
        raise BackendError(f"{MODULES[name]} cannot be imported ({_first_line(error)}); {_advice(name)}") from error
    except (AttributeError, OSError) as error:
        raise BackendError(f"{MODULES[name]} is damaged ({_first_line(error)}); install it again") from error
    if name == "tensorrt" and int(version.split(".")[0]) < _OLDEST:
        raise BackendError(f"TensorRT {version} is too old; mile-edge needs {_OLDEST} or newer (JetPack 6.2 has 10.3)")
    return Api(name, module, version)


def _advice(name: str) -> str:
    if name == "tensorrt-rtx":
        return "pip install 'mile-edge[rtx]'"
    return (
        "on a Jetson make the environment with --system-site-packages so that it sees JetPack's TensorRT, elsewhere "
        "pip install 'mile-edge[tensorrt]'"
    )


def _nothing() -> str:
    return f"neither tensorrt nor tensorrt_rtx is installed; {_advice('tensorrt')} or 'mile-edge[rtx]'"


def logger_for(api: Api) -> tuple[Any, Callable[[], str | None]]:
    """A TensorRT logger that writes to Python's logging, and a function that gives the first error it has seen."""
    trt = api.module
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.INFO,
    }
    errors: list[str] = []

    # Its base is known only once one of several TensorRT modules is chosen.
    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                errors.append(message)
            _LOG.log(level, "%s", message)

    return Logger(), lambda: _first_line(errors[0]) if errors else None


def capability_member(api: Api, dotted: str) -> Any:
    """The enumeration's member for a compute capability.

    Raises:
        BackendError: this TensorRT does not build for it.
    """
    known = api.capabilities()
    if dotted not in known:
        where = f"it builds for {', '.join(known)}" if known else "it builds for the device at hand only"
        raise BackendError(f"compute capability {dotted} is not served by {api.name} {api.version}; {where}")
    return api.module.ComputeCapability.__members__["SM" + dotted.replace(".", "")]


def _dotted(member: str) -> str:
    digits = member[2:]
    return f"{digits[:-1]}.{digits[-1]}"


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
