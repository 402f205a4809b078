"""Giving a bundle fusion: the graph with fused outputs, and the trained head; each change is whole or not at all."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

from mile_edge.bundle import commit
from mile_edge.bundle.files import named, read_regular
from mile_edge.bundle.fusion import FusionInfo, graph_file, head_file
from mile_edge.bundle.fusion_head import MAX_BYTES, check_head, parse_head
from mile_edge.bundle.journal import Change
from mile_edge.bundle.lock import locked
from mile_edge.bundle.store import Bundle
from mile_edge.errors import BundleError, FusionError


def set_fusion(bundle: Bundle, kind: str, width: int, onnx_bytes: bytes) -> Bundle:
    """Give a bundle the graph with fused outputs, in place of one that it has; a head stays if it still fits.

    Args:
        bundle: in any state; what other processes changed since is kept.
        kind: one of FUSIONS.
        width: F, numbers per pixel that are fused.
        onnx_bytes: the graph; its large constants may lie in the bundle's own network file.

    Returns:
        The bundle as it is now on disk.

    Raises:
        BundleError: the bundle is locked, damaged or not writable; nothing has changed.
    """
    sha256 = hashlib.sha256(onnx_bytes).hexdigest()
    with locked(bundle.path):
        now = bundle.current()
        network = replace(now.manifest.network, file=graph_file(sha256), sha256=sha256)
        info, head, old = FusionInfo(kind, width, network), now.fusion_head, now.manifest.fusion
        if old is not None and (old.kind, old.width) == (kind, width):
            info = replace(info, file=old.file, sha256=old.sha256)
        else:
            head = None
        manifest = replace(now.manifest, fusion=info)
        what = Change("fusion", sha256=sha256, detail={"kind": kind, "width": width})
        commit.change(bundle.path, manifest, {network.file: onnx_bytes}, what)
    return replace(now, manifest=manifest, fusion_head=head)


def set_fusion_head(bundle: Bundle, path: str | os.PathLike[str]) -> Bundle:
    """Use a trained fusion head, in place of one that the bundle has; the file itself stays where it is.

    Returns:
        The bundle as it is now on disk, also with what other processes changed since.

    Raises:
        FusionError: the file is no fusion head, or does not fit; nothing has changed.
        BundleError: the bundle has no fusion, lacks a class, or cannot be changed; nothing has changed.
    """
    where = f"fusion file {named(path)}"
    data = read_regular(path, MAX_BYTES, where, FusionError)
    head = parse_head(data, where)
    sha256 = hashlib.sha256(data).hexdigest()
    with locked(bundle.path):
        now = bundle.current()
        info, layout = now.manifest.fusion, now.manifest.fusion_layout
        if info is None or layout is None:
            raise BundleError(
                f"bundle {named(bundle.path)} has no graph that fuses; mile-edge train fusion --add gives it one"
            )
        check_head(head, layout, now.manifest.base.sha256, where)
        now.manifest.class_ids(head.classes)
        manifest = replace(now.manifest, fusion=replace(info, file=head_file(sha256), sha256=sha256))
        commit.change(bundle.path, manifest, {head_file(sha256): data}, Change("fusion", sha256=sha256))
    return replace(now, manifest=manifest, fusion_head=head)
