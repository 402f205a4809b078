"""Explicit Q/DQ nodes in a graph: activations per tensor, weights per output channel, both symmetric, biases untouched.

Symmetric because TensorRT takes no other zero point than 0; biases untouched because an int32 bias behind a
DequantizeLinear is refused there. An activation is quantised only on its way into an int8 product: the low-rank path
beside it, and whatever else reads it, sees it as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mile_edge.quantization.layers import Layer
from mile_edge.quantization.ranges import LEVELS

# QuantizeLinear reads fp16 from this operator set on; none of the operators in a bundle changed its meaning in it.
_HALF_OPSET = 19
_ZERO = "mile_edge.int8_zero"
# The smallest step: below it fp16 has no full precision, and no activation that matters is that quiet.
_SMALLEST = 2.0**-14


def quantized_graph(
    model: onnx.ModelProto, layers: Collection[Layer], thresholds: Mapping[str, float]
) -> onnx.ModelProto:
    """A copy of a graph with the given layers in int8.

    Args:
        model: as :func:`mile_edge.quantization.layers.fold_weights` left it.
        layers: of this very graph.
        thresholds: T of every activation that these layers read.
    """
    done = onnx.ModelProto()
    done.CopyFrom(model)
    graph = done.graph
    # The note of where the base's exact weights lie would be wrong from here on.
    del done.metadata_props[:]
    if not layers:
        return done
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    half = any(tensors[layer.weight].data_type == onnx.TensorProto.FLOAT16 for layer in layers)
    if half:
        _raise_opset(done)
    dtype = np.float16 if half else np.float32
    weights: dict[str, str] = {}
    new: list[onnx.NodeProto] = []
    for layer in layers:
        tensor = tensors[layer.weight]
        weights[layer.weight] = _weight_pair(graph, tensor, layer.axis, dtype, new)
        graph.initializer.remove(tensor)
    inputs = {node: activation for layer in layers for node, activation in layer.uses}
    nodes: list[onnx.NodeProto] = new
    restored: dict[str, str] = {}
    for node in list(graph.node):
        if node.name in inputs:
            activation = inputs[node.name]
            if activation not in restored:
                restored[activation] = _activation_pair(graph, activation, thresholds[activation], dtype, nodes)
            node.input[0], node.input[1] = restored[activation], weights[node.input[1]]
        nodes.append(node)
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int8), _ZERO))
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
    return done


def quantized_weights(weights: np.ndarray, axis: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Weights as int8 of the same shape and one step per output channel (C,), so that weights are about int8 * step.

    >>> values, steps = quantized_weights(np.array([[1.27, -0.5], [-0.63, 0.25]], np.float32), 1, np.float32)
    >>> values.tolist()
    [[127, -127], [-63, 64]]
    """
    exact = weights.astype(np.float32)
    others = tuple(other for other in range(exact.ndim) if other != axis)
    steps = np.maximum(np.abs(exact).max(axis=others) / LEVELS, _SMALLEST if dtype is np.float16 else 1e-12)
    steps = steps.astype(dtype)
    shape = [-1 if place == axis else 1 for place in range(exact.ndim)]
    values = np.rint(exact / steps.astype(np.float32).reshape(shape))
    return np.clip(values, -LEVELS, LEVELS).astype(np.int8), steps


def _weight_pair(
    graph: onnx.GraphProto, tensor: onnx.TensorProto, axis: int, dtype: type, nodes: list[onnx.NodeProto]
) -> str:
    """int8 weights and their DequantizeLinear; returns the name of what comes out."""
    values, steps = quantized_weights(numpy_helper.to_array(tensor), axis, dtype)
    names = [f"{tensor.name}.int8", f"{tensor.name}.step", f"{tensor.name}.zero"]
    for name, array in zip(names, (values, steps, np.zeros(len(steps), np.int8)), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    out = f"{tensor.name}.restored"
    nodes.append(helper.make_node("DequantizeLinear", names, [out], name=f"{tensor.name}.DequantizeLinear", axis=axis))
    return out


def _activation_pair(
    graph: onnx.GraphProto, activation: str, threshold: float, dtype: type, nodes: list[onnx.NodeProto]
) -> str:
    step: np.ndarray = np.asarray(max(threshold / LEVELS, _SMALLEST if dtype is np.float16 else 1e-12), dtype)
    name, small, out = f"{activation}.step", f"{activation}.int8", f"{activation}.restored"
    graph.initializer.append(numpy_helper.from_array(step, name))
    for kind, source, target in (("QuantizeLinear", activation, small), ("DequantizeLinear", small, out)):
        nodes.append(helper.make_node(kind, [source, name, _ZERO], [target], name=f"{activation}.{kind}"))
    return out


def _raise_opset(model: onnx.ModelProto) -> None:
    for owner in (model, *model.functions):
        for entry in owner.opset_import:
            if entry.domain == "":
                entry.version = max(entry.version, _HALF_OPSET)
