"""The fused low-rank kernel as a plugin: register its library, and have the ONNX parser use it for ``mile::LowRank``.

TensorRT from about 10.15 creates a plugin instead of inlining the function of the same name when
``OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE`` is set. Older parsers (10.3 on JetPack 6.2) always prefer the function, so
there the graph is parsed without the function's body, and the parser finds the plugin as it does for any unknown node.

TensorRT-RTX 1.7 has the plugin classes but no way to put a plugin into a network: its parser creates the plugin and
then ends the whole process. So a plugin is refused there before anything is registered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mile_edge.bundle.files import hash_regular, named
from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt import plugin_aot
from mile_edge.runtime.tensorrt.api import Api
from mile_edge.runtime.tensorrt.device import find_device
from mile_edge.runtime.tensorrt.plugin_graph import NAME, for_python_plugin, without_function

VERSION = "1"
# The parser looks a node up in the empty namespace unless the node names another (seen with TensorRT-RTX 1.7).
_NAMESPACE = ""
_SOURCE = ".cuh"
_MAX_LIBRARY = 1 << 30


def needed_later(library: Path) -> str | None:
    """SHA-256 of a library that an engine built with it needs again where it runs.

    None for a source: its kernel is compiled into the engine, which runs without it.

    Raises:
        BackendError: the library cannot be read.
    """
    if library.suffix == _SOURCE:
        return None
    return hash_regular(library, _MAX_LIBRARY, f"plugin {named(library)}", BackendError)


def load(api: Api, library: Path, logger: Any) -> None:
    """Register ``mile::LowRank`` from a library that ``plugin/CMakeLists.txt`` built; again is harmless.

    Args:
        api: the TensorRT in use.
        library: ``libmile_low_rank.so``, or ``low_rank_kernel.cuh`` itself, which is then compiled ahead of time.
        logger: TensorRT's.

    Raises:
        BackendError: this TensorRT takes no plugins, or the library is missing, foreign or built for another one.
    """
    if not hasattr(api.module.INetworkDefinition, "add_plugin_v3"):
        raise BackendError(f"{api.name} {api.version} takes no plugins; build without one, native layers serve as well")
    if not library.is_file():
        raise BackendError(f"plugin {str(library)!r} does not exist; build it with cmake, see plugin/CMakeLists.txt")
    if library.suffix == _SOURCE:
        plugin_aot.register(api, library.resolve().parent, find_device().capability)
        return
    registry = api.module.get_plugin_registry()
    if _creator(registry) is not None:
        return
    registry.load_library(str(library.resolve()))
    if _creator(registry) is None:
        raise BackendError(
            f"plugin {str(library)!r} brings no mile::{NAME} to {api.name} {api.version}; build it on this machine"
        )
    logger.log(api.module.ILogger.Severity.INFO, f"mile::{NAME} is served by {library}")


def parse(api: Api, parser: Any, graph: Path) -> bool:
    """Parse a graph so that a registered plugin takes the place of each ``mile::LowRank``.

    Args:
        parser: a fresh ``OnnxParser``.
        graph: the ONNX file.

    Returns:
        Whether the parser accepted it; why not is in ``parser.get_error``.

    Raises:
        BackendError: the file is no ONNX model.
    """
    registry = api.module.get_plugin_registry()
    if _creator(registry) is None and _creator(registry, plugin_aot.NAMESPACE) is not None:
        model = for_python_plugin(without_function(graph.read_bytes()), plugin_aot.NAMESPACE)
        return bool(parser.parse(model, str(graph)))
    flags = api.module.OnnxParserFlag.__members__
    if "ENABLE_PLUGIN_OVERRIDE" in flags:
        parser.set_flag(flags["ENABLE_PLUGIN_OVERRIDE"])
        return bool(parser.parse_from_file(str(graph)))
    return bool(parser.parse(without_function(graph.read_bytes()), str(graph)))


def _creator(registry: Any, namespace: str = _NAMESPACE) -> Any:
    return registry.get_creator(NAME, VERSION, namespace)
