"""Which layers of a bundle's graph can compute in int8: products of an activation with frozen weights.

Everything else stays as it is by construction: attention's products have no frozen side, the gate's whitening, the
low-rank path and the classifier read graph inputs, and LayerNorm, softmax and activations are no products.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from mile_edge.export.shared_weights import WEIGHTS_KEY

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_PREFIXES = (("pool.base.", ""), ("base.", ""), ("_tap_module.", "tap."))
_SUFFIXES = (".frozen.weight", ".frozen.bias", ".weight", ".bias")


@dataclass(frozen=True)
class Layer:
    """Frozen weights and every node that multiplies by them; int8 or not as a whole.

    Attributes:
        name: the module's name in the network; layers of the tap's own module start with ``tap.``.
        kind: ``linear``, ``conv`` or ``depthwise``.
        weight: name of the weights' initializer.
        axis: output channels in the weights' shape, along which scales differ.
        uses: (node, activation): names of the nodes and of the tensors they multiply by.
        gate: whether the gate's feature depends on this layer.
        digest: of the weights' shape and bytes, the same in every graph of the bundle.
        numbers: how many weights.
    """

    name: str
    kind: str
    weight: str
    axis: int
    uses: tuple[tuple[str, str], ...]
    gate: bool
    digest: str
    numbers: int


def find_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """The layers of a graph that :func:`fold_weights` has seen, in the graph's order; nodes get unique names."""
    _name_nodes(model.graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    upstream = _upstream(model.graph, "distance")
    uses: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        if _is_product(node, constants):
            uses[node.input[1]].append(node)
    readers = _readers(model.graph)
    noted = _noted_names(model)
    names: set[str] = set()
    layers = []
    for weight, nodes in uses.items():
        axes = {_axis(node) for node in nodes}
        # Weights that one node reads by rows and another by columns have no one set of scales.
        if len(axes) != 1:
            continue
        tensor = constants[weight]
        name = _name(nodes[0], tensor, readers, noted, names)
        layers.append(
            Layer(
                name=name,
                kind=_kind(nodes[0], tensor),
                weight=weight,
                axis=axes.pop(),
                uses=tuple((node.name, node.input[0]) for node in nodes),
                gate=any(node.name in upstream for node in nodes),
                digest=_digest(tensor),
                numbers=int(np.prod(tensor.dims)),
            )
        )
    return tuple(layers)


def fold_weights(model: onnx.ModelProto) -> None:
    """Compute the weights that a graph derives from its constants, in place; products then read them directly."""
    constants = {tensor.name for tensor in model.graph.initializer}
    producer = {output: node for node in model.graph.node for output in node.output}
    wanted = [
        node.input[1]
        for node in model.graph.node
        if node.op_type in {"MatMul", "Gemm", "Conv"} and node.input[1] not in constants
    ]
    derived = {name: chain for name in dict.fromkeys(wanted) if (chain := _constant_chain(name, producer, constants))}
    for name, chain in derived.items():
        array = _evaluate(model, name, chain)
        origin = next(value for node in chain for value in node.input if value in constants)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        # Where the weights came from is the only name a person would know them by.
        model.graph.initializer[-1].doc_string = origin
    kept = [node for node in model.graph.node if not any(output in derived for output in node.output)]
    _replace_nodes(model.graph, kept)
    remove_unused(model.graph)


def remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and constants that no output depends on, in place."""
    used = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    _replace_nodes(graph, reversed(kept))
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    written = {output for node in graph.node for output in node.output}
    shapes = [value for value in graph.value_info if value.name in written]
    del graph.value_info[:]
    graph.value_info.extend(shapes)


def _replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _is_product(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.domain or node.op_type not in {"MatMul", "Gemm", "Conv"}:
        return False
    weight = constants.get(node.input[1])
    if weight is None or node.input[0] in constants or weight.data_type not in _FLOATS:
        return False
    if node.op_type == "Gemm":
        return _attribute(node, "transA", 0) == 0 and _attribute(node, "alpha", 1.0) == 1.0
    return len(weight.dims) == 2 if node.op_type == "MatMul" else len(weight.dims) == 4


def _axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and _attribute(node, "transB", 0) else 1


def _kind(node: onnx.NodeProto, weight: onnx.TensorProto) -> str:
    if node.op_type != "Conv":
        return "linear"
    return "depthwise" if _attribute(node, "group", 1) > 1 and weight.dims[1] == 1 else "conv"


def _name(
    node: onnx.NodeProto,
    tensor: onnx.TensorProto,
    readers: Mapping[str, list[onnx.NodeProto]],
    noted: Mapping[str, str],
    names: set[str],
) -> str:
    """The exporter renames transposed weights: the graph's note knows them, else the bias that is added next."""
    found = noted.get(tensor.name) or tensor.doc_string or tensor.name
    if not found.endswith(".weight"):
        following = readers.get(node.output[0], [])
        # Equal biases are merged, all zeros of an untrained network for example; such a name tells nothing.
        biases = [
            value
            for reader in following
            for value in reader.input
            if value.endswith(".bias") and len(readers[value]) == 1
        ]
        found = biases[0] if biases else node.name
    for prefix, instead in _PREFIXES:
        if found.startswith(prefix):
            found = instead + found.removeprefix(prefix)
            break
    found = next((found.removesuffix(suffix) for suffix in _SUFFIXES if found.endswith(suffix)), found)
    number = 2
    name = found
    while name in names:
        name, number = f"{found}#{number}", number + 1
    names.add(name)
    return name


def _noted_names(model: onnx.ModelProto) -> dict[str, str]:
    """From initializers to the weights that the export noted, the tap's module called the same as in graphs without."""
    notes = {entry.key: entry.value for entry in model.metadata_props}
    places: dict[str, tuple[str, bool]] = json.loads(notes.get(WEIGHTS_KEY, "{}"))
    tap = "_tap_module."
    kept = [(name, initializer) for name, (initializer, _) in places.items() if initializer.startswith(tap)]
    prefixes = {name.removesuffix(short) for name, place in kept if name.endswith(short := place.removeprefix(tap))}
    named = {}
    for name, (initializer, _) in places.items():
        prefix = next((prefix for prefix in prefixes if prefix and name.startswith(prefix)), None)
        named[initializer] = tap + name.removeprefix(prefix) if prefix else name
    return named


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for value in node.input:
            readers[value].append(node)
    return readers


def _upstream(graph: onnx.GraphProto, output: str) -> set[str]:
    """Names of the nodes that an output depends on; none where the graph has no such output."""
    wanted = {output}
    found = set()
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.add(node.name)
    return found


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)


def _constant_chain(
    name: str, producer: Mapping[str, onnx.NodeProto], constants: set[str]
) -> list[onnx.NodeProto] | None:
    """The nodes that compute a tensor from constants alone, in order; nothing where it depends on an input."""
    chain: list[onnx.NodeProto] = []
    waiting = [name]
    while waiting:
        value = waiting.pop()
        if not value or value in constants:
            continue
        node = producer.get(value)
        if node is None or node.domain:
            return None
        chain = [node] + [other for other in chain if other is not node]
        waiting.extend(node.input)
    return chain


def _evaluate(model: onnx.ModelProto, name: str, chain: list[onnx.NodeProto]) -> np.ndarray:
    needed = {value for node in chain for value in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    kind = next(tensor.data_type for tensor in constants if tensor.data_type in _FLOATS)
    output = onnx.helper.make_tensor_value_info(name, kind, None)
    graph = onnx.helper.make_graph(chain, "weights", [], [output], constants)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.ascontiguousarray(session.run([name], {})[0])


def _digest(tensor: onnx.TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    values: Iterator[float] = (
        onnx.helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name
    )
    return next(values, default)
