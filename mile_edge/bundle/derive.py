"""A bundle with another graph for the same base: experts, gate and labels go over bit for bit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mile_edge.bundle import commit
from mile_edge.bundle.expert import MAX_BYTES
from mile_edge.bundle.files import named, read_regular
from mile_edge.bundle.store import Bundle
from mile_edge.errors import BundleError


def derive_bundle(
    source: Bundle,
    path: str | os.PathLike[str],
    precision: str,
    onnx_bytes: bytes,
    base_graph_bytes: bytes | None,
    notes: Mapping[str, bytes],
) -> Bundle:
    """Write a new bundle with the source's experts and other graphs; the folder appears whole or not at all.

    Args:
        source: is only read.
        path: a folder that does not exist yet, or an empty one.
        precision: of the new graphs.
        onnx_bytes: the segmenter, with the source's inputs and outputs.
        base_graph_bytes: the base alone; None where the source has none.
        notes: further files to lie beside the graphs, by name.

    Raises:
        BundleError: the folder exists with something in it or cannot be written, or the source changed meanwhile.
    """
    manifest = source.manifest
    contents = dict(notes)
    for entry in manifest.experts:
        file = source.path / entry.file
        data = read_regular(file, MAX_BYTES, f"bundle file {named(file)}", BundleError)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"bundle file {named(file)} changed while it was read; try again")
        contents[entry.file] = data
    network = manifest.network.of(onnx_bytes, precision)
    contents[network.file] = onnx_bytes
    base_graph = None
    if manifest.base_graph is not None and base_graph_bytes is not None:
        base_graph = manifest.base_graph.of(base_graph_bytes, precision)
        contents[base_graph.file] = base_graph_bytes
    # A graph that fuses shares the source's weights, not these.
    manifest = replace(manifest, network=network, base_graph=base_graph, candidate=None, fusion=None)
    commit.create_folder(Path(path).absolute(), {**contents, commit.MANIFEST: manifest.to_json().encode()})
    return Bundle.open(path)
