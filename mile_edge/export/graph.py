"""From torch to the ONNX graphs of a bundle."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.export import Dim

from mile_edge.data.folder import LabelledFrame
from mile_edge.errors import RecipeError
from mile_edge.export.onnx_functions import OPSET, add_low_rank_functions
from mile_edge.export.precision import to_half
from mile_edge.network.fused_pass import FUSED_INPUTS, FUSED_OUTPUTS, FusedPass
from mile_edge.network.one_pass import INPUTS, OUTPUTS, FrozenPass, OnePass
from mile_edge.training.statistics import gate_features

PRECISIONS = ("fp32", "fp16")


def segmenter_graph(network: OnePass, precision: str = "fp32", prototypes: int = 1) -> onnx.ModelProto:
    """The one-pass graph, batch and number of experts left open.

    Args:
        network: converted to half precision in place where ``precision`` is fp16.
        precision: ``fp32`` or ``fp16``; frames, prototypes, whitening, bias and distances are the same in both.
        prototypes: K, prototypes per expert.

    Raises:
        RecipeError: the precision is unknown.
    """
    arguments, shapes = _one_pass(network, precision, prototypes)
    model = _export(network, arguments, INPUTS, OUTPUTS, shapes)
    add_low_rank_functions(model)
    onnx.checker.check_model(model)
    return model


def fused_graph(network: FusedPass, precision: str = "fp32", prototypes: int = 1) -> onnx.ModelProto:
    """The one-pass graph with fusion at its end; the number of groups is left open as well.

    Args:
        network: converted to half precision in place where ``precision`` is fp16.
        precision: ``fp32`` or ``fp16``; group and fusion are fp32 in both.
        prototypes: K, prototypes per expert.

    Raises:
        RecipeError: the precision is unknown.
    """
    arguments, shapes = _one_pass(network.network, precision, prototypes)
    group, vector = torch.ones(3, 2), torch.zeros(network.layout.length)
    shapes |= {"group": {0: Dim("groups", min=1, max=64), 1: shapes["frames"][0]}, "fusion": None}
    model = _export(network, (*arguments, group, vector), FUSED_INPUTS, FUSED_OUTPUTS, shapes)
    add_low_rank_functions(model)
    onnx.checker.check_model(model)
    return model


def _one_pass(network: OnePass, precision: str, prototypes: int) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Example inputs of the one pass, and which of their sides are open; the network takes on the precision."""
    half = _is_half(precision)
    dim = tap_dimension(network)
    if half:
        to_half(network)
    height, width = network.size
    # At least as many rows as are mixed, or top-k could not choose among them.
    mixed = 2 if network.mixture is None else network.mixture.top_k or 2
    experts = mixed + 1
    bank = torch.zeros(experts, network.layout.row_length, dtype=torch.float16 if half else torch.float32)
    arguments = (
        torch.zeros(2, height, width, 3, dtype=torch.uint8),
        bank,
        torch.zeros(experts, prototypes, dim),
        torch.eye(dim),
        torch.zeros(2, experts),
    )
    batch, rows = Dim("batch", min=1, max=64), Dim("experts", min=mixed, max=65536)
    shapes = {
        "frames": {0: batch},
        "bank": {0: rows},
        "prototypes": {0: rows},
        "whitening": None,
        "gate_bias": {0: batch, 1: rows},
    }
    return arguments, shapes


def base_graph(base: nn.Module, size: tuple[int, int], precision: str = "fp32") -> onnx.ModelProto:
    """The frozen base alone: frames in, mask and confidence out."""
    network = FrozenPass(base, size).eval()
    if _is_half(precision):
        to_half(network)
    frames = torch.zeros(2, *size, 3, dtype=torch.uint8)
    shapes = {"frames": {0: Dim("batch", min=1, max=64)}}
    return _export(network, (frames,), ("frames",), OUTPUTS[:2], shapes)


def tap_dimension(network: OnePass) -> int:
    """D, length of the gate's feature, as one blank frame shows it."""
    blank = LabelledFrame("blank", np.zeros((*network.size, 3), np.uint8), None)
    return gate_features(network.pool.base, [blank], network.size, network.tap).shape[1]


def _export(
    network: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    shapes: Mapping[str, object],
) -> onnx.ModelProto:
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network.eval(),
            arguments,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_shapes=dict(shapes),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_origins(model)
    return model


def _forget_origins(model: onnx.ModelProto) -> None:
    """Drop the stack traces that the exporter notes at every node: a tenth of the file, and the user's paths."""
    model.graph.ClearField("metadata_props")
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")


def _is_half(precision: str) -> bool:
    if precision not in PRECISIONS:
        raise RecipeError(f"precision {precision!r} is unknown; choose {' or '.join(PRECISIONS)}")
    return precision == "fp16"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of every operator set it does not find; none of it concerns the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
