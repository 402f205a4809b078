"""The bundle on disk. `manifest.json` is the only truth: a file it does not name does not exist.

A change writes the new files aside, waits for the disk, and renames the manifest last, so that a kill at any moment
leaves the old or the new state; what a killed run leaves behind is swept by the next change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mile_edge.bundle import commit
from mile_edge.bundle.checks import check_fit
from mile_edge.bundle.expert import MAX_BYTES, Expert, expert_bytes, parse_expert
from mile_edge.bundle.files import named, read_regular
from mile_edge.bundle.gate import Gate
from mile_edge.bundle.loading import (
    check_network,
    load_expert,
    manifest_text,
    networks,
    parsed_manifest,
    verify_bundle,
)
from mile_edge.bundle.lock import locked
from mile_edge.bundle.manifest import ExpertEntry, Manifest, Network, expert_file
from mile_edge.bundle.strict_json import NAME, shown
from mile_edge.errors import BundleError, ExpertError


@dataclass(frozen=True)
class Bundle:
    """One state of a bundle folder, read and checked: changes on disk give a new Bundle and leave this one as it is."""

    path: Path
    manifest: Manifest
    _experts: tuple[Expert, ...] = field(repr=False)

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
            manifest: without experts; the hashes of its networks are filled in from the bytes given.
            onnx_bytes: the file `manifest.network` names.
            base_graph_bytes: the file `manifest.base_graph` names, None when it names none.
            base_expert: adapter "none", with the base's classifier and the statistics of its training data.

        Raises:
            BundleError: the folder exists with something in it, or cannot be written.
            ExpertError: the base's file does not fit the manifest.
        """
        folder = Path(path).absolute()
        if manifest.experts:
            raise BundleError(
                f"manifest already has {len(manifest.experts)} experts; create the bundle first, then add them"
            )
        if (base_graph_bytes is None) != (manifest.base_graph is None):
            raise BundleError("manifest.base_graph and its bytes belong together; give both or neither")
        if base_expert.adapter != "none":
            raise ExpertError(f"expert {shown(base_expert.name)} has an adapter and is to be row 0; give adapter none")
        data = expert_bytes(base_expert)
        check_fit(base_expert, manifest, f"expert {shown(base_expert.name)}")
        entry = _entry(base_expert.name, data)
        contents = {manifest.network.file: onnx_bytes, entry.file: data}
        manifest = replace(manifest, network=_hashed(manifest.network, onnx_bytes))
        if manifest.base_graph is not None and base_graph_bytes is not None:
            contents[manifest.base_graph.file] = base_graph_bytes
            manifest = replace(manifest, base_graph=_hashed(manifest.base_graph, base_graph_bytes))
        manifest = manifest.with_expert(entry, base_expert.classes)
        commit.create_folder(folder, {**contents, commit.MANIFEST: manifest.to_json().encode()})
        return cls.open(folder)

    def experts(self) -> tuple[Expert, ...]:
        """All experts in row order; row 0 is the base."""
        return self._experts

    @property
    def network_path(self) -> Path:
        """The segmenter's ONNX file."""
        return self.path / self.manifest.network.file

    @property
    def base_graph_path(self) -> Path | None:
        """The frozen base's own ONNX file, or None."""
        return None if self.manifest.base_graph is None else self.path / self.manifest.base_graph.file

    def add(self, path: str | os.PathLike[str], name: str | None = None) -> Bundle:
        """Add one expert file in the next free row; the file itself stays where it is.

        Args:
            path: a file that `read_expert` reads.
            name: another name than the file's own.

        Returns:
            The bundle as it is now on disk, also with what other processes changed since; the new expert is the last.

        Raises:
            ExpertError: the file is no expert or does not fit; nothing has changed.
            BundleError: the bundle is full, locked by another process, damaged or not writable; nothing has changed.
        """
        where = f"expert file {named(path)}"
        data = read_regular(path, MAX_BYTES, where, ExpertError)
        expert = parse_expert(data, where)
        if name is not None and name != expert.name:
            if not NAME.fullmatch(name):
                raise ExpertError(
                    f"{shown(name)} is no expert name; use lower-case letters, digits, - and _ (at most 64 letters)"
                )
            expert = replace(expert, name=name)
            data = expert_bytes(expert)
        entry = _entry(expert.name, data)
        with locked(self.path):
            now = self._current()
            _check_room(now.manifest, expert.name, where)
            check_fit(expert, now.manifest, where)
            manifest = now.manifest.with_expert(entry, expert.classes)
            commit.change(self.path, manifest, {entry.file: data})
        return Bundle(self.path, manifest, (*now._experts, expert))

    def remove(self, name: str) -> Bundle:
        """Remove one expert; rows behind it move up, classes and their ids stay.

        Returns:
            The bundle as it is now on disk.

        Raises:
            BundleError: there is no such expert, it is the base, or the bundle is locked, damaged or not writable.
        """
        with locked(self.path):
            now = self._current()
            manifest = now.manifest.without_expert(name)
            commit.change(self.path, manifest, {})
        kept = {entry.name for entry in manifest.experts}
        return Bundle(self.path, manifest, tuple(expert for expert in now._experts if expert.name in kept))

    def set_gate(self, gate: Gate) -> Bundle:
        """Replace the gate's settings, for calibration; kind, tap, dim, prototypes, top_k and tau are the network's.

        Raises:
            BundleError: one of those differs, a threshold names an unknown expert, or the bundle cannot be changed.
        """
        with locked(self.path):
            now = self._current()
            for key in ("kind", "tap", "dim", "prototypes", "top_k", "tau"):
                old, new = getattr(now.manifest.gate, key), getattr(gate, key)
                if old != new:
                    raise BundleError(
                        f"gate.{key} is {old} in the network of {named(self.path)}, not {new}; export it again"
                    )
            manifest = replace(now.manifest, gate=gate)
            commit.change(self.path, manifest, {})
        return Bundle(self.path, manifest, now._experts)

    def verify(self) -> list[str]:
        """As `verify_bundle` on this folder."""
        return verify_bundle(self.path)

    def _current(self) -> Bundle:
        """The state on disk now; files that this Bundle has already read are not read again."""
        manifest = parsed_manifest(self.path, manifest_text(self.path))
        known = dict(zip(self.manifest.experts, self._experts, strict=True))
        if _fixed_part(manifest) != _fixed_part(self.manifest):
            known = {}
        return self._load(self.path, manifest, known)

    @classmethod
    def _load(cls, folder: Path, manifest: Manifest, known: Mapping[ExpertEntry, Expert]) -> Bundle:
        experts = tuple(known.get(entry) or load_expert(folder, manifest, entry) for entry in manifest.experts)
        if experts[0].adapter != "none":
            raise BundleError(
                f"bundle {named(folder)} has an adapter in row 0, the base's own; export the bundle again"
            )
        return cls(folder, manifest, experts)


def remove_expert(path: str | os.PathLike[str], name: str) -> Manifest:
    """As `Bundle.remove`, but reading no expert, so that a bundle with a damaged file can be mended."""
    folder = Path(path)
    parsed_manifest(folder, manifest_text(folder)).without_expert(name)
    with locked(folder):
        new = parsed_manifest(folder, manifest_text(folder)).without_expert(name)
        commit.change(folder, new, {})
    return new


def _check_room(manifest: Manifest, name: str, where: str) -> None:
    if any(entry.name == name for entry in manifest.experts):
        raise ExpertError(
            f"{where} is named {name!r} like one in the bundle; remove that one first or give another name"
        )
    if len(manifest.experts) > manifest.capacity:
        raise BundleError(
            f"bundle {manifest.name!r} is full with {manifest.capacity} experts; "
            "remove one or export it with more capacity"
        )


def _fixed_part(manifest: Manifest) -> Manifest:
    """What no add or remove changes: an expert that fitted once fits as long as this is the same."""
    return replace(manifest, experts=(), classes=(), gate=replace(manifest.gate, thresholds={}))


def _entry(name: str, data: bytes) -> ExpertEntry:
    sha256 = hashlib.sha256(data).hexdigest()
    return ExpertEntry(name, expert_file(name, sha256), sha256)


def _hashed(network: Network, data: bytes) -> Network:
    return replace(network, sha256=hashlib.sha256(data).hexdigest())
