"""The bundle on disk. `manifest.json` is the only truth: a file it does not name does not exist.

A change writes the new files aside, waits for the disk, and renames the manifest last, so that a kill at any moment
leaves the old or the new state; what a killed run leaves behind is swept by the next change.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mile_edge.bundle import admission, commit
from mile_edge.bundle.candidate import Candidate, ShadowPlan
from mile_edge.bundle.expert import Expert
from mile_edge.bundle.files import named
from mile_edge.bundle.fusion_head import FusionHead
from mile_edge.bundle.gate import SUCCESSIVE_KINDS, Gate
from mile_edge.bundle.journal import Change
from mile_edge.bundle.loading import (
    check_network,
    kept_manifest,
    load_head,
    load_state,
    manifest_text,
    networks,
    parsed_manifest,
    verify_bundle,
)
from mile_edge.bundle.lock import locked
from mile_edge.bundle.manifest import ExpertEntry, Manifest
from mile_edge.bundle.trust import OPEN, Trust
from mile_edge.errors import BundleError


@dataclass(frozen=True)
class Bundle:
    """One state of a bundle folder, read and checked: changes on disk give a new Bundle and leave this one as it is."""

    path: Path
    manifest: Manifest
    _experts: tuple[Expert, ...] = field(repr=False)
    candidate: Expert | None = field(default=None, repr=False)
    fusion_head: FusionHead | None = field(default=None, repr=False)
    #: Name of the expert that was just added, live or in shadow.
    newest: str = field(default="", repr=False, compare=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
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

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        manifest: Manifest,
        onnx_bytes: bytes,
        base_graph_bytes: bytes | None,
        base_expert: Expert,
    ) -> Bundle:
        """Write a new bundle with its base as row 0; the folder appears whole or not at all.

        Args:
            path: a folder that does not exist yet, or an empty one.
            manifest: without experts; the hashes of its networks are filled in from the bytes given. Its fusion stays
                behind.
            onnx_bytes: the file `manifest.network` names.
            base_graph_bytes: the file `manifest.base_graph` names, None when it names none.
            base_expert: adapter "none", with the base's classifier and the statistics of its training data.

        Raises:
            BundleError: the folder exists with something in it, or cannot be written.
            ExpertError: the base's file does not fit the manifest.
        """
        folder = Path(path).absolute()
        manifest, contents = admission.founded(manifest, onnx_bytes, base_graph_bytes, base_expert)
        commit.create_folder(folder, {**contents, commit.MANIFEST: manifest.to_json().encode()})
        return cls.open(folder)

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

    def add(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        trust: Trust = OPEN,
        sha256: str = "",
        replaces: bool = False,
        downgrade: bool = False,
        shadow: ShadowPlan | None = None,
    ) -> Bundle:
        """Add one expert file in the next free row; the file itself stays where it is.

        Args:
            path: a file that `read_expert` reads.
            name: another name than the file's own.
            trust: what the file must show.
            sha256: of the file, 64 hexadecimal digits; empty where nobody said.
            replaces: take the row of the expert of that name, in one change.
            downgrade: take it although a newer version of its name was here.
            shadow: enter it as the candidate, to run in shadow by this plan; it may have the name of a live expert,
                whose row it takes when it goes live.

        Returns:
            The bundle as it is now on disk, also with what other processes changed since.

        Raises:
            ExpertError: the file is no expert, is refused by the policy, or does not fit; nothing has changed.
            BundleError: the bundle is full, locked by another process, damaged or not writable; nothing has changed.
        """
        arrival = admission.receive(path, name, trust, sha256)
        with locked(self.path):
            now = self.current()
            known = any(entry.name == arrival.expert.name for entry in now.manifest.experts)
            if shadow is None:
                manifest = admission.entered(
                    now.manifest, arrival, now.candidate, replaces=replaces, downgrade=downgrade
                )
                what = arrival.change("replace" if known else "add")
            else:
                manifest = admission.entered_in_shadow(now.manifest, arrival, shadow, downgrade=downgrade)
                what = arrival.change("shadow", vars(shadow))
            commit.change(self.path, manifest, {arrival.entry.file: arrival.data}, what)
        return replace(now._with(manifest, arrival.expert, arrival.entry), newest=arrival.entry.name)

    def promote(self, detail: Mapping[str, object] | None = None, meant: Candidate | None = None) -> Bundle:
        """Put the candidate live, in a new row or in that of the expert of its name.

        Args:
            detail: for the journal.
            meant: the one that is to go live; whichever is in shadow where it is missing.

        Raises:
            BundleError: there is none, or another, or the bundle is full, locked, damaged or not writable; nothing has
                changed.
        """
        with locked(self.path):
            now = self.current()
            admission.check_meant(now.manifest, meant)
            if now.candidate is None or now.manifest.candidate is None:
                raise BundleError(f"bundle {named(self.path)} has no expert in shadow; add one with a shadow run first")
            manifest = admission.promoted(now.manifest, now.candidate)
            what = admission.change_of("live", now.candidate, now.manifest.candidate.sha256, detail=detail)
            commit.change(self.path, manifest, {}, what)
        return now._with(manifest)

    def withdraw(self, detail: Mapping[str, object] | None = None, meant: Candidate | None = None) -> Bundle:
        """Drop the candidate; arguments as of `promote`.

        Raises:
            BundleError: there is none, or another, or the bundle is locked, damaged or not writable; nothing has
                changed.
        """
        with locked(self.path):
            present = parsed_manifest(self.path, manifest_text(self.path))
            admission.check_meant(present, meant)
            manifest, what = admission.withdrawn(present, detail)
            # Also a candidate that does not fit: what is needed is the state without it.
            bundle = self._load(self.path, manifest, self._known(manifest))
            commit.change(self.path, manifest, {}, what)
        return bundle

    def as_if_live(self) -> Bundle | None:
        """The bundle with its candidate live, in memory only; None where it has none.

        Raises:
            BundleError: it is full.
        """
        if self.candidate is None:
            return None
        return self._with(admission.promoted(self.manifest, self.candidate))

    def remove(self, name: str) -> Bundle:
        """Remove one expert; rows behind it move up, classes and their ids stay.

        Returns:
            The bundle as it is now on disk.

        Raises:
            BundleError: there is no such expert, it is the base, or the bundle is locked, damaged or not writable.
        """
        with locked(self.path):
            now = self.current()
            manifest = now.manifest.without_expert(name)
            commit.change(self.path, manifest, {}, admission.removal(now.manifest, name))
        return now._with(manifest)

    def rollback(self, state: str | None = None) -> Bundle:
        """Go back to a state that the bundle still keeps: its experts, its candidate and its gate, in one change.

        Classes stay, so that ids keep their meaning, and so do the newest versions seen.

        Args:
            state: the first digits of the SHA-256 of its manifest; the one before the present where it is missing.

        Returns:
            The bundle as it is now on disk.

        Raises:
            BundleError: no such state is kept, it is damaged or of another network, or the bundle is locked, damaged
                or not writable; nothing has changed.
        """
        with locked(self.path):
            return self._roll_back(state)

    def undo(self) -> Bundle:
        """Take back the change that led to this state; one that another process made since stays, and this with it.

        Raises:
            BundleError: the state before is no longer kept, or the bundle is locked, damaged or not writable.
        """
        with locked(self.path):
            if parsed_manifest(self.path, manifest_text(self.path)) != self.manifest:
                return self.current()
            return self._roll_back(None)

    def _roll_back(self, state: str | None) -> Bundle:
        manifest, target = kept_manifest(self.path, state)
        # Also from a bundle with a damaged file: what is needed is the state that is gone back to.
        bundle = self._load(self.path, manifest, self._known(manifest))
        commit.change(self.path, manifest, {}, Change("rollback", detail={"to": target}))
        return bundle

    def set_gate(self, gate: Gate) -> Bundle:
        """Replace the gate's settings, for calibration; kind, tap, dim, prototypes, top_k, tau and delta are fixed.

        Raises:
            BundleError: one of those differs, a threshold names an unknown expert, or the bundle cannot be changed.
        """
        with locked(self.path):
            now = self.current()
            admission.check_gate(now.manifest.gate, gate, named(self.path))
            manifest = replace(now.manifest, gate=gate)
            commit.change(self.path, manifest, {}, Change("gate"))
        return now._with(manifest)

    def verify(self) -> list[str]:
        """As `verify_bundle` on this folder."""
        return verify_bundle(self.path)

    def current(self) -> Bundle:
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

    def _with(self, manifest: Manifest, new: Expert | None = None, entry: ExpertEntry | None = None) -> Bundle:
        """Another state of this bundle, from the experts at hand."""
        known = self._by_file()
        if new is not None and entry is not None:
            known[entry.sha256] = new
        candidate = None if manifest.candidate is None else known[manifest.candidate.sha256]
        same = manifest.fusion == self.manifest.fusion
        head = self.fusion_head if same else load_head(self.path, manifest)
        return Bundle(self.path, manifest, tuple(known[each.sha256] for each in manifest.experts), candidate, head)

    @classmethod
    def _load(cls, folder: Path, manifest: Manifest, known: Mapping[str, Expert]) -> Bundle:
        return cls(folder, manifest, *load_state(folder, manifest, known))
