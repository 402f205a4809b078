"""What the graphs of a bundle say of their weights: where they are noted, and which they share. No torch."""

from __future__ import annotations

import onnx

# Metadata of the segmenter's graph: weight of the base to [initializer, whether it is transposed there].
WEIGHTS_KEY = "mile_edge.weights"
_SHARED_FROM = 1024


def share_weights(model: onnx.ModelProto, holder: bytes, holder_name: str) -> None:
    """Let the large constants of ``model`` point into another ONNX file instead of carrying them once more.

    Args:
        model: changed in place.
        holder: the serialised file that already has them.
        holder_name: its name, in the folder where ``model`` will lie.
    """
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < _SHARED_FROM:
            continue
        position = holder.find(tensor.raw_data)
        if position < 0:
            continue
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", holder_name), ("offset", position), ("length", length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
