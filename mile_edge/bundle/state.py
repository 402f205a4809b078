"""One state of a bundle as it was read from the disk; nothing here writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle import admission
from mile_edge.bundle.expert import Expert
from mile_edge.bundle.fusion_head import FusionHead
from mile_edge.bundle.gate import SUCCESSIVE_KINDS
from mile_edge.bundle.loading import (
    check_network,
    load_head,
    load_state,
    manifest_text,
    networks,
    parsed_manifest,
    verify_bundle,
)
from mile_edge.bundle.manifest import ExpertEntry, Manifest
from mile_edge.errors import BundleError

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class BundleState:
    """What a bundle folder held at one moment, every file checked."""

    path: Path
    manifest: Manifest
    _experts: tuple[Expert, ...] = field(repr=False)
    candidate: Expert | None = field(default=None, repr=False)
    fusion_head: FusionHead | None = field(default=None, repr=False)
    #: Name of the expert that was just added, live or in shadow.
    newest: str = field(default="", repr=False, compare=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a bundle and check every file against the manifest's hashes and every expert against the base.

        Raises:
            BundleError: the folder is no bundle, of another schema, incomplete or damaged; the message names the file.
        """
        folder = Path(path)
        text = manifest_text(folder)
        while True:
            try:
                manifest = parsed_manifest(folder, text)
                bundle = cls._load(folder, manifest, {})
                for network in networks(manifest):
                    check_network(folder, network)
            except BundleError:
                # Another process may have removed an expert between the manifest and its files.
                newer = manifest_text(folder)
                if newer == text:
                    raise
                text = newer
            else:
                return bundle

    def experts(self) -> tuple[Expert, ...]:
        """All experts in row order; row 0 is the base."""
        return self._experts

    def choices(self) -> tuple[Expert, ...]:
        """Those that the gate may choose, in row order; only the newest where one adapter goes from task to task."""
        return self._experts[-1:] if self.manifest.gate.kind in SUCCESSIVE_KINDS else self._experts

    @property
    def network_path(self) -> Path:
        """The segmenter's ONNX file."""
        return self.path / self.manifest.network.file

    @property
    def fused_path(self) -> Path | None:
        """The ONNX file with fused outputs, or None."""
        return None if self.manifest.fusion is None else self.path / self.manifest.fusion.network.file

    def fusion_vector(self) -> NDArray[np.float32] | None:
        """The fusion head as the graph takes it, (L,) float32: zeros while none was trained, None without fusion."""
        layout = self.manifest.fusion_layout
        if layout is None:
            return None
        if self.fusion_head is None:
            return layout.empty()
        return layout.pack(self.fusion_head, self.manifest.class_ids(self.fusion_head.classes))

    @property
    def base_graph_path(self) -> Path | None:
        """The frozen base's own ONNX file, or None."""
        return None if self.manifest.base_graph is None else self.path / self.manifest.base_graph.file

    def as_if_live(self) -> Self | None:
        """The bundle with its candidate live, in memory only; None where it has none.

        Raises:
            BundleError: it is full.
        """
        if self.candidate is None:
            return None
        return self._with(admission.promoted(self.manifest, self.candidate)[0])

    def verify(self) -> list[str]:
        """As `verify_bundle` on this folder."""
        return verify_bundle(self.path)

    def current(self) -> Self:
        """The state on disk now; files that this Bundle has already read are not read again."""
        manifest = parsed_manifest(self.path, manifest_text(self.path))
        return self._load(self.path, manifest, self._known(manifest))

    def _known(self, manifest: Manifest) -> dict[str, Expert]:
        """The experts that need not be read again for a state of this bundle, by their files' SHA-256."""
        return self._by_file() if admission.fixed_part(manifest) == admission.fixed_part(self.manifest) else {}

    def _by_file(self) -> dict[str, Expert]:
        known = {entry.sha256: expert for entry, expert in zip(self.manifest.experts, self._experts, strict=True)}
        if self.manifest.candidate is not None and self.candidate is not None:
            known[self.manifest.candidate.sha256] = self.candidate
        return known

    def _with(self, manifest: Manifest, new: Expert | None = None, entry: ExpertEntry | None = None) -> Self:
        """Another state of this bundle, from the experts at hand."""
        known = self._by_file()
        if new is not None and entry is not None:
            known[entry.sha256] = new
        candidate = None if manifest.candidate is None else known[manifest.candidate.sha256]
        same = manifest.fusion == self.manifest.fusion
        head = self.fusion_head if same else load_head(self.path, manifest)
        return type(self)(self.path, manifest, tuple(known[each.sha256] for each in manifest.experts), candidate, head)

    @classmethod
    def _load(cls, folder: Path, manifest: Manifest, known: Mapping[str, Expert]) -> Self:
        return cls(folder, manifest, *load_state(folder, manifest, known))
