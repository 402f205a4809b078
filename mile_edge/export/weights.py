"""The base's weights inside an exported graph, found again for training."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from mile_edge.errors import BundleError
from mile_edge.export.shared_weights import WEIGHTS_KEY


def record_weights(model: onnx.ModelProto, weights: Mapping[str, torch.Tensor]) -> None:
    """Note in the graph which initializer holds which weight, so that :func:`recover_weights` finds them again.

    The exporter renames, transposes and merges constants, so they are matched by content. Where one is not found, as in
    a network whose batch norms it folds into convolutions, nothing is noted, and whoever trains names the base.
    """
    by_content: dict[tuple[tuple[int, ...], bytes], str] = {}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            by_content.setdefault((array.shape, array.tobytes()), tensor.name)
    places: dict[str, list[object]] = {}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            continue
        array = weight.detach().to(torch.float32).numpy()
        for transposed, candidate in ((False, array), (True, array.T)):
            found = by_content.get((candidate.shape, np.ascontiguousarray(candidate).tobytes()))
            if found is not None:
                places[name] = [found, transposed]
                break
        else:
            return
    entry = model.metadata_props.add()
    entry.key, entry.value = WEIGHTS_KEY, json.dumps(places)


def recover_weights(data: bytes) -> dict[str, torch.Tensor]:
    """The weights that :func:`record_weights` noted, as a state dict.

    Raises:
        BundleError: the graph carries no such note, as those in half precision or with folded batch norms do not.
    """
    model = onnx.load_from_string(data)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    if WEIGHTS_KEY not in notes:
        raise BundleError(
            "this bundle's graph does not hold the base's exact weights; name the base with --base FOLDER"
        )
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    recovered = {}
    for name, (initializer, transposed) in json.loads(notes[WEIGHTS_KEY]).items():
        array = numpy_helper.to_array(tensors[initializer])
        recovered[name] = torch.from_numpy(np.array(array.T if transposed else array, order="C"))
    return recovered
