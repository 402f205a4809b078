"""The graph that fuses is one that TensorRT builds, with the head and the groups as inputs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install 'mile-edge[rtx]')")

from mile_edge.bundle import Bundle
from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt.api import capability_member, find_api, logger_for


def test_tensorrt_builds_the_fused_graph_for_one_to_four_sensors(fusing_bundle: Path) -> None:
    api, bundle = find_api("tensorrt-rtx"), Bundle.open(fusing_bundle)
    manifest, trt = bundle.manifest, api.module
    layout = manifest.fusion_layout
    assert layout is not None
    rows, dim = manifest.capacity + 1, manifest.gate.dim
    logger, first_error = logger_for(api)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(bundle.fused_path)), parser.get_error(0).desc()
    fixed = {
        "bank": (rows, manifest.low_rank.row_length),
        "prototypes": (rows, manifest.gate.prototypes, dim),
        "whitening": (dim, dim),
        "fusion": (layout.length,),
    }
    batched = {"frames": (64, 96, 3), "gate_bias": (rows,)}
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        if tensor.name in fixed:
            tensor.shape = fixed[tensor.name]
        elif tensor.name == "group":
            profile.set_shape("group", (1, 1), (1, 3), (4, 4))
        else:
            rest = batched[tensor.name]
            tensor.shape = (-1, *rest)
            profile.set_shape(tensor.name, (1, *rest), (3, *rest), (4, *rest))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability_member(api, "8.9"), 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, first_error()
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    types = {tensor.name: tensor.dtype.name for tensor in outputs}
    assert types["fused_mask"] == types["fused_confidence"] == "UINT8"
    assert types["fused_share"] == "FLOAT"


def test_a_tensorrt_backend_says_that_it_cannot_fuse_yet() -> None:
    from mile_edge.runtime.tensorrt.backend import TensorRTBackend

    with pytest.raises(BackendError, match="backend='onnx'"):
        TensorRTBackend.fuse(object.__new__(TensorRTBackend), None, None, None, None, None)


def test_what_tensorrt_calls_an_error_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    api = find_api("tensorrt-rtx")
    severity = api.module.ILogger.Severity
    logger, first_error = logger_for(api)
    with caplog.at_level(logging.DEBUG):
        for each in (severity.WARNING, severity.INTERNAL_ERROR, severity.ERROR, severity.VERBOSE):
            logger.log(each, each.name)
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.ERROR, logging.ERROR, logging.DEBUG]
    assert first_error() == "INTERNAL_ERROR"
