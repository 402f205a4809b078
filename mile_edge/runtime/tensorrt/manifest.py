"""What an engine says about itself, in a JSON file beside it: engines run only where everything matches.

An engine serves one ONNX file, one TensorRT version and one kind of device. TensorRT itself notices only part of that,
late and in words few understand, so every field is compared before the engine is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mile_edge.bundle import Bundle
from mile_edge.bundle.files import named, read_regular
from mile_edge.bundle.network import PRECISIONS
from mile_edge.bundle.strict_json import Fields, parse_object
from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt.api import MODULES, Api
from mile_edge.runtime.tensorrt.device import DeviceInfo

SCHEMA = 1
ENGINES = "engines"
_MAX_JSON = 1 << 16
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
_TYPE = re.compile(r"[A-Z][A-Z0-9]{0,15}")


@dataclass(frozen=True)
class EngineTensor:
    """One input or output as the engine was built for it: an engine itself says so only on a device.

    Attributes:
        name: in the graph.
        type: as TensorRT calls it, such as "UINT8" or "HALF".
        shape: -1 where the batch may vary.
    """

    name: str
    type: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """Such as ``frames UINT8 -1x480x640x3``."""
        return f"{self.name} {self.type} {'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class EngineManifest:
    """Everything that must match before an engine is used.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        version: full version of the TensorRT that built it.
        onnx_sha256: of the bundle's graph, as the bundle's manifest has it.
        precision: of that graph.
        height, width: network size in pixels.
        max_batch: largest batch; the smallest is 1.
        bank_rows, row_length: shape of the ``bank`` input, capacity + 1 rows.
        prototypes, dim: K and D of the ``prototypes`` input.
        inputs, outputs: every tensor, in the graph's order.
        capabilities: compute capabilities it runs on, such as ("8.7",).
        device: name of the device it was tuned on; ``None`` for portable RTX engines.
        plugin_sha256: of the plugin library that it needs; ``None`` where native layers serve, or a kernel that was
            compiled into the engine.
        engine_sha256, engine_bytes: of the engine file.
        build_seconds: how long the build took.
    """

    backend: str
    version: str
    onnx_sha256: str
    precision: str
    height: int
    width: int
    max_batch: int
    bank_rows: int
    row_length: int
    prototypes: int
    dim: int
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    capabilities: tuple[str, ...]
    device: str | None
    plugin_sha256: str | None
    engine_sha256: str
    engine_bytes: int
    build_seconds: float
    schema: int = SCHEMA

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, engine: Path, bundle: Path) -> EngineManifest:
        """The manifest beside an engine.

        Raises:
            BackendError: it is missing, unreadable, or a field is missing, unknown or out of range.
        """
        path = manifest_path(engine)
        remedy = f"build the engine again: mile-edge build {bundle}"
        if not path.exists():
            raise BackendError(f"engine {named(engine)} has no manifest {path.name} beside it; {remedy}")
        try:
            value = parse_object(read_regular(path, _MAX_JSON, f"engine manifest {named(path)}", BackendError))
        except ValueError as error:
            raise BackendError(f"engine manifest {named(path)} {error}; {remedy}") from None
        return _manifest(Fields(value, "", BackendError, remedy))


def _manifest(fields: Fields) -> EngineManifest:
    schema = fields.integer("schema", SCHEMA, SCHEMA)
    capabilities = tuple(
        fields.as_text(f"capabilities[{index}]", value, 8)
        for index, value in enumerate(fields.items("capabilities", 1, 64))
    )
    for index, value in enumerate(capabilities):
        if not _CAPABILITY.fullmatch(value):
            fields.fail(f"capabilities[{index}]", value, 'a compute capability such as "8.7"')
    manifest = EngineManifest(
        backend=fields.choice("backend", tuple(MODULES)),
        version=fields.text("version", 64),
        onnx_sha256=fields.sha256("onnx_sha256"),
        precision=fields.choice("precision", PRECISIONS),
        height=fields.integer("height", 1, 1 << 14),
        width=fields.integer("width", 1, 1 << 14),
        max_batch=fields.integer("max_batch", 1, 64),
        bank_rows=fields.integer("bank_rows", 2, 1 << 16),
        row_length=fields.integer("row_length", 1, 1 << 31),
        prototypes=fields.integer("prototypes", 1, 1 << 16),
        dim=fields.integer("dim", 1, 1 << 16),
        inputs=tuple(map(_tensor, fields.inners("inputs", 1, 16))),
        outputs=tuple(map(_tensor, fields.inners("outputs", 1, 16))),
        capabilities=capabilities,
        device=_or_none(fields, "device", fields.text),
        plugin_sha256=_or_none(fields, "plugin_sha256", fields.sha256),
        engine_sha256=fields.sha256("engine_sha256"),
        engine_bytes=fields.integer("engine_bytes", 1, 1 << 40),
        build_seconds=fields.number("build_seconds", 0, 1e9),
        schema=schema,
    )
    fields.finish()
    return manifest


def _tensor(fields: Fields) -> EngineTensor:
    name, kind = fields.text("name", 64), fields.matching("type", _TYPE, 'a type such as "UINT8"')
    shape = fields.items("shape", 0, 8)
    for index, side in enumerate(shape):
        if type(side) is not int or not -1 <= side <= 1 << 31:
            fields.fail(fields.path(f"shape[{index}]"), side, f"a whole number from -1 to {1 << 31}")
    fields.finish()
    return EngineTensor(name, kind, tuple(shape))


def _or_none(fields: Fields, key: str, read: Callable[[str], str]) -> str | None:
    return read(key) if fields.peek(key) is not None else fields.take(key)


def engine_path(bundle: Bundle, backend: str) -> Path:
    """Where an engine of a bundle lies unless told otherwise: ``BUNDLE/engines/BACKEND.engine``."""
    return bundle.path / ENGINES / f"{backend}.engine"


def manifest_path(engine: Path) -> Path:
    """The JSON file beside an engine."""
    return engine.with_name(engine.name + ".json")


def check_engine(
    found: EngineManifest, bundle: Bundle, api: Api, device: DeviceInfo | None, plugin_sha256: str | None = None
) -> None:
    """Compare an engine with the bundle, the TensorRT and the device it shall serve.

    Args:
        device: the one at hand; ``None`` leaves it out, for machines that build for others.
        plugin_sha256: of the plugin library that is loaded, if any.

    Raises:
        BackendError: the first field that differs, both values, and the command that builds anew.
    """
    manifest = bundle.manifest
    command = f"mile-edge build {bundle.path} --backend {api.name}"
    wanted = {
        "backend": api.name,
        "version": api.version,
        "onnx_sha256": manifest.network.sha256,
        "precision": manifest.network.precision,
        "height": manifest.network.height,
        "width": manifest.network.width,
        "bank_rows": manifest.capacity + 1,
        "row_length": manifest.low_rank.row_length,
        "prototypes": manifest.gate.prototypes,
        "dim": manifest.gate.dim,
    }
    for field, value in wanted.items():
        if getattr(found, field) != value:
            raise BackendError(_differs(field, getattr(found, field), value, command))
    if found.plugin_sha256 is not None and found.plugin_sha256 != plugin_sha256:
        raise BackendError(_differs("plugin_sha256", found.plugin_sha256, plugin_sha256 or "no plugin", command))
    if device is not None and device.capability not in found.capabilities:
        raise BackendError(_differs("capabilities", ", ".join(found.capabilities), device.capability, command))
    if device is not None and found.device is not None and found.device != device.name:
        raise BackendError(_differs("device", found.device, device.name, command))


def _differs(field: str, found: object, wanted: object, command: str) -> str:
    def short(value: object) -> str:
        text = str(value)
        return text[:12] + "..." if len(text) == 64 else text

    return f"the engine's {field} is {short(found)} and {short(wanted)} is needed here; build it again: {command}"
