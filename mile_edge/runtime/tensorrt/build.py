"""From a bundle's graph to an engine: strongly typed, with experts, prototypes and biases still inputs."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mile_edge.bundle import Bundle
from mile_edge.bundle.files import hash_regular, named, write_whole
from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt import plugin as low_rank_plugin
from mile_edge.runtime.tensorrt.api import Api, capability_member, logger_for
from mile_edge.runtime.tensorrt.device import DeviceInfo, find_device
from mile_edge.runtime.tensorrt.manifest import EngineManifest, EngineTensor, engine_path, manifest_path
from mile_edge.runtime.tensorrt.progress import BuildProgress, aside, monitor

_MAX_GRAPH = 1 << 31
_MAX_CACHE = 1 << 30
# (name, type) in the order of the graph; whoever exported the file, the engine must have exactly these.
_INPUTS = {"frames": "UINT8", "bank": None, "prototypes": "FLOAT", "whitening": "FLOAT", "gate_bias": "FLOAT"}
_OUTPUTS = {"mask": "UINT8", "confidence": "UINT8", "expert": "INT32", "distance": "FLOAT"}


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        max_batch: largest batch; the engine takes 1 up to this.
        workspace_mib: scratch memory that a layer may use, in MiB; TensorRT's own limit where missing.
        optimization_level: TensorRT's, 0 (quick build) to 5 (quick engine); its default where missing.
        capabilities: compute capabilities to build for (TensorRT-RTX); the device at hand, or all that this
            TensorRT-RTX knows where there is none, if empty.
        timing_cache: file of kernel timings, read where it exists and written back; none where missing. TensorRT-RTX
            times nothing while it builds and needs none.
        plugin: library with the fused ``mile::LowRank`` kernel, or its source; native layers serve where missing.
    """

    max_batch: int = 4
    workspace_mib: int | None = None
    optimization_level: int | None = None
    capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    plugin: Path | None = None


def build_engine(
    bundle: Bundle,
    api: Api,
    options: BuildOptions,
    out: Path | None = None,
    report: Callable[[BuildProgress], None] = lambda _: None,
) -> tuple[Path, EngineManifest]:
    """Build the bundle's engine and put it and its manifest in place; an interrupt leaves what was there.

    Args:
        out: the engine file; ``BUNDLE/engines/BACKEND.engine`` where missing.

    Returns:
        the engine's path and its manifest.

    Raises:
        BackendError: the graph is missing or refused, the options do not suit this TensorRT, or the disk refuses.
    """
    _check(options)
    started = time.monotonic()
    out = out or engine_path(bundle, api.name)
    device = _device(api)
    capabilities = _capabilities(api, options, device)
    stop = threading.Event()
    built = aside(stop, lambda: _engine(bundle, api, options, capabilities, report, stop))
    if built.timings is not None and options.timing_cache is not None:
        _write(options.timing_cache, built.timings)
    manifest = EngineManifest(
        backend=api.name,
        version=api.version,
        onnx_sha256=bundle.manifest.network.sha256,
        precision=bundle.manifest.network.precision,
        height=bundle.manifest.network.height,
        width=bundle.manifest.network.width,
        max_batch=options.max_batch,
        bank_rows=bundle.manifest.capacity + 1,
        row_length=bundle.manifest.low_rank.row_length,
        prototypes=bundle.manifest.gate.prototypes,
        dim=bundle.manifest.gate.dim,
        inputs=built.inputs,
        outputs=built.outputs,
        capabilities=capabilities,
        device=None if api.is_rtx or device is None else device.name,
        plugin_sha256=built.plugin_sha256,
        engine_sha256=hashlib.sha256(built.engine).hexdigest(),
        engine_bytes=len(built.engine),
        build_seconds=round(time.monotonic() - started, 1),
    )
    # The manifest comes last: a kill in between leaves an engine whose hash the older manifest refuses.
    _write(out, built.engine)
    _write(manifest_path(out), manifest.to_json().encode())
    return out, manifest


@dataclass(frozen=True)
class _Built:
    engine: bytes
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    plugin_sha256: str | None
    timings: bytes | None


def _engine(
    bundle: Bundle,
    api: Api,
    options: BuildOptions,
    capabilities: tuple[str, ...],
    report: Callable[[BuildProgress], None],
    stop: threading.Event,
) -> _Built:
    logger, first_error = logger_for(api)
    plugin_sha = _load_plugin(api, options, logger)
    builder = api.module.Builder(logger)
    network = _parse(bundle, api, builder, logger, with_plugin=options.plugin is not None)
    config = _config(bundle, api, builder, network, options, capabilities)
    cache = None if api.is_rtx else _timing_cache(config, options)
    inputs, outputs = _tensors(network)
    engine = _build(api, builder, network, config, report, stop, first_error)
    return _Built(engine, inputs, outputs, plugin_sha, None if cache is None else bytes(cache.serialize()))


def _check(options: BuildOptions) -> None:
    for option, value, low, high in (
        ("max-batch", options.max_batch, 1, 64),
        ("workspace", options.workspace_mib, 1, 1 << 20),
        ("optimization-level", options.optimization_level, 0, 5),
    ):
        if value is not None and not low <= value <= high:
            raise BackendError(f"--{option} is {value}; give {low} to {high}")


def _device(api: Api) -> DeviceInfo | None:
    try:
        return find_device()
    except BackendError as error:
        if api.is_rtx:
            return None
        raise BackendError(f"{api.name} {api.version} builds only where the engine will run, and {error}") from None


def _capabilities(api: Api, options: BuildOptions, device: DeviceInfo | None) -> tuple[str, ...]:
    if not api.is_rtx:
        if options.capabilities:
            raise BackendError(
                f"--compute-capability is {', '.join(options.capabilities)}, but {api.name} builds for the device at "
                "hand only; leave it out or use --backend tensorrt-rtx"
            )
        assert device is not None
        return (device.capability,)
    # Turing is served on request only: TensorRT-RTX has no fp32 matrix product for it, and the gate needs one.
    portable = tuple(each for each in api.capabilities() if float(each) >= 8.0)
    wanted = options.capabilities or ((device.capability,) if device else portable)
    for each in wanted:
        capability_member(api, each)
    return tuple(dict.fromkeys(wanted))


def _load_plugin(api: Api, options: BuildOptions, logger: Any) -> str | None:
    """Load the plugin that is asked for; the SHA-256 of what the engine will need of it where it runs."""
    if options.plugin is None:
        return None
    sha = low_rank_plugin.needed_later(options.plugin)
    low_rank_plugin.load(api, options.plugin, logger)
    return sha


def _parse(bundle: Bundle, api: Api, builder: Any, logger: Any, *, with_plugin: bool) -> Any:
    trt = api.module
    graph = bundle.network_path
    if not graph.is_file():
        raise BackendError(f"bundle {bundle.path} has no {graph.name}; export the bundle again")
    found = hash_regular(graph, _MAX_GRAPH, f"graph {named(graph)}", BackendError)
    if found != bundle.manifest.network.sha256:
        raise BackendError(f"graph {named(graph)} is not the one the manifest names; export the bundle again")
    # TensorRT 11 knows only strongly typed networks and may drop the flag.
    flags = trt.NetworkDefinitionCreationFlag.__members__
    network = builder.create_network(1 << int(flags["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in flags else 0)
    parser = trt.OnnxParser(network, logger)
    # From the file, not from bytes: the parser looks for shared weights beside it.
    if not (low_rank_plugin.parse(api, parser, graph) if with_plugin else parser.parse_from_file(str(graph))):
        why = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise BackendError(f"{api.name} {api.version} refuses {named(graph)} ({why.splitlines()[0]})")
    inputs, outputs = _tensors(network)
    for kind, wanted, listed in (("input", _INPUTS, inputs), ("output", _OUTPUTS, outputs)):
        tensors = {tensor.name: tensor.type for tensor in listed}
        if set(tensors) != set(wanted) or any(kind and tensors[name] != kind for name, kind in wanted.items()):
            raise BackendError(f"graph {named(graph)} has the {kind}s {tensors}; export the bundle again")
    return network


def _tensors(network: Any) -> tuple[tuple[EngineTensor, ...], tuple[EngineTensor, ...]]:
    """Inputs and outputs, with the shapes that they have at this moment."""

    def listed(count: int, get: Callable[[int], Any]) -> tuple[EngineTensor, ...]:
        tensors = map(get, range(count))
        return tuple(EngineTensor(tensor.name, tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors)

    return listed(network.num_inputs, network.get_input), listed(network.num_outputs, network.get_output)


def _config(
    bundle: Bundle, api: Api, builder: Any, network: Any, options: BuildOptions, capabilities: tuple[str, ...]
) -> Any:
    trt = api.module
    manifest = bundle.manifest
    rows, batch = manifest.capacity + 1, options.max_batch
    height, width = manifest.network.height, manifest.network.width
    fixed = {
        "bank": (rows, manifest.low_rank.row_length),
        "prototypes": (rows, manifest.gate.prototypes, manifest.gate.dim),
        "whitening": (manifest.gate.dim, manifest.gate.dim),
    }
    batched = {"frames": (height, width, 3), "gate_bias": (rows,)}
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.name in fixed:
            # One size of bank for life: adding an expert writes a row, it never changes a shape.
            tensor.shape = fixed[tensor.name]
        else:
            rest = batched[tensor.name]
            tensor.shape = (-1, *rest)
            profile.set_shape(tensor.name, (1, *rest), (1, *rest), (batch, *rest))
    config.add_optimization_profile(profile)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if api.is_rtx:
        config.num_compute_capabilities = len(capabilities)
        for index, each in enumerate(capabilities):
            if not config.set_compute_capability(capability_member(api, each), index):
                raise BackendError(f"{api.name} {api.version} does not build for compute capability {each} here")
    return config


def _timing_cache(config: Any, options: BuildOptions) -> Any:
    if options.timing_cache is None:
        return None
    known = b""
    if options.timing_cache.exists():
        path = options.timing_cache
        known = path.read_bytes() if path.stat().st_size <= _MAX_CACHE else b""
    cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
    # A cache of another device or version is ignored rather than refused: it only saves time.
    if cache is None or not (config.set_timing_cache(cache, False) or _fresh(config)):
        raise BackendError(f"timing cache {named(options.timing_cache)} is refused; delete it or name another file")
    return config.get_timing_cache()


def _fresh(config: Any) -> bool:
    return bool(config.set_timing_cache(config.create_timing_cache(b""), False))


def _build(
    api: Api,
    builder: Any,
    network: Any,
    config: Any,
    report: Callable[[BuildProgress], None],
    stop: threading.Event,
    first_error: Callable[[], str | None],
) -> bytes:
    # TensorRT calls the monitor until the build is over; it must live as long.
    config.progress_monitor = watcher = monitor(api, report, stop)
    data = None if stop.is_set() else builder.build_serialized_network(network, config)
    del watcher
    if data is None:
        why = first_error() or "no reason given"
        raise BackendError(f"{api.name} {api.version} could not build the engine ({why})")
    return bytes(data)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = (error.strerror or "refused").lower()
        raise BackendError(f"folder {named(path.parent)} cannot be made: {why}; give --out in a writable one") from None
    write_whole(path, data, f"file {named(path)}", BackendError)
