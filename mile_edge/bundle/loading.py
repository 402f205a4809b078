"""Reading a bundle's files: each against the manifest's hash, each problem in one sentence; nothing here writes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from mile_edge.bundle import history
from mile_edge.bundle.admission import restored
from mile_edge.bundle.candidate import Candidate
from mile_edge.bundle.checks import check_fit
from mile_edge.bundle.commit import EXPERTS, MANIFEST, MAX_MANIFEST, strays
from mile_edge.bundle.expert import MAX_BYTES, Expert, parse_expert
from mile_edge.bundle.files import hash_regular, named, read_regular
from mile_edge.bundle.fusion_head import MAX_BYTES as MAX_HEAD
from mile_edge.bundle.fusion_head import FusionHead, check_head, parse_head
from mile_edge.bundle.manifest import ExpertEntry, Manifest, Network
from mile_edge.errors import BundleError, ExpertError, FusionError

MAX_NETWORK = 4 << 30


def manifest_text(folder: Path) -> bytes:
    """The bytes of a bundle's manifest, not yet understood."""
    return read_regular(folder / MANIFEST, MAX_MANIFEST, f"bundle manifest {named(folder / MANIFEST)}", BundleError)


def parsed_manifest(folder: Path, text: bytes) -> Manifest:
    """The manifest in these bytes; it names at least the base's own file."""
    try:
        manifest = Manifest.from_json(text)
    except BundleError as error:
        raise BundleError(f"bundle {named(folder)}: {error}") from None
    if not manifest.experts:
        raise BundleError(f"bundle {named(folder)} has no experts, not even its base; export it again")
    return manifest


def networks(manifest: Manifest) -> list[Network]:
    """The ONNX files a manifest names."""
    fused = None if manifest.fusion is None else manifest.fusion.network
    return [network for network in (manifest.network, manifest.base_graph, fused) if network is not None]


def check_network(folder: Path, network: Network) -> None:
    """Refuse an ONNX file that is missing or not the one the manifest names."""
    path = folder / network.file
    if hash_regular(path, MAX_NETWORK, f"bundle file {named(path)}", BundleError) != network.sha256:
        raise BundleError(f"bundle file {named(path)} is not the one the manifest names; export the bundle again")


def load_expert(folder: Path, manifest: Manifest, entry: ExpertEntry | Candidate) -> Expert:
    """One expert of a bundle, refused unless it is the file the manifest names and fits the manifest."""
    path = folder / entry.file
    where = f"bundle file {named(path)}"
    remedy = f"remove expert {entry.name!r} and add its file again"
    if (folder / EXPERTS).is_symlink():
        raise BundleError(f"bundle {named(folder)} has a symbolic link as {EXPERTS}; copy the folder itself")
    data = read_regular(path, MAX_BYTES, where, BundleError)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(f"{where} has changed since it was added; {remedy}")
    try:
        expert = parse_expert(data, where, check_digest=False)
    except ExpertError as error:
        raise BundleError(str(error)) from None
    _check_place(expert, manifest, entry, where)
    if expert.name != entry.name:
        raise BundleError(f"{where} holds expert {expert.name!r} and the manifest calls it {entry.name!r}; {remedy}")
    if isinstance(entry, ExpertEntry) and not set(expert.classes) <= set(manifest.classes):
        raise BundleError(f"{where} has classes that the manifest lacks; {remedy}")
    return expert


def _check_place(expert: Expert, manifest: Manifest, entry: ExpertEntry | Candidate, where: str) -> None:
    try:
        check_fit(expert, manifest, where)
    except ExpertError as error:
        aside = "" if isinstance(entry, ExpertEntry) else ", or withdraw it (`experts withdraw`)"
        raise BundleError(f"{error}{aside}") from None


def load_head(folder: Path, manifest: Manifest) -> FusionHead | None:
    """A bundle's fusion head, refused unless it is the file the manifest names and fits; None where there is none."""
    info, layout = manifest.fusion, manifest.fusion_layout
    if info is None or info.file is None or layout is None:
        return None
    path = folder / info.file
    where = f"bundle file {named(path)}"
    data = read_regular(path, MAX_HEAD, where, BundleError)
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise BundleError(f"{where} has changed since it was added; train it again: mile-edge train fusion")
    try:
        head = parse_head(data, where)
        check_head(head, layout, manifest.base.sha256, where)
    except FusionError as error:
        raise BundleError(str(error)) from None
    manifest.class_ids(head.classes)
    return head


def load_state(
    folder: Path, manifest: Manifest, known: Mapping[str, Expert]
) -> tuple[tuple[Expert, ...], Expert | None, FusionHead | None]:
    """The experts in row order, the candidate and the fusion head that a manifest names.

    Args:
        folder: of the bundle.
        manifest: of this state.
        known: experts that need not be read again, by their files' SHA-256.
    """
    experts = tuple(known.get(entry.sha256) or load_expert(folder, manifest, entry) for entry in manifest.experts)
    if experts[0].adapter != "none":
        raise BundleError(f"bundle {named(folder)} has an adapter in row 0, the base's own; export the bundle again")
    entry, candidate = manifest.candidate, None
    if entry is not None:
        candidate = known.get(entry.sha256)
        if candidate is None:
            candidate = load_expert(folder, manifest, entry)
        else:
            # The bundle may have given the places that its classes need to others since it was read.
            _check_place(candidate, manifest, entry, f"bundle file {named(folder / entry.file)}")
    return experts, candidate, load_head(folder, manifest)


def kept_manifest(folder: Path, state: str | None) -> tuple[Manifest, str]:
    """A state that a bundle keeps, as its next one, and the SHA-256 of its manifest; reads no expert.

    Args:
        folder: of the bundle.
        state: the first digits of that SHA-256; the one before the present where it is missing.

    Raises:
        BundleError: no such state is kept, or it is damaged or of another network.
    """
    text = manifest_text(folder)
    present = parsed_manifest(folder, text)
    target = history.find_state(folder, state, hashlib.sha256(text).hexdigest())
    return restored(parsed_manifest(folder, history.read_state(target)), present, named(folder)), target.sha256


def verify_bundle(path: str | os.PathLike[str]) -> list[str]:
    """Every problem of a bundle, one sentence each, empty when it is whole; reads every byte and writes nothing."""
    folder = Path(path)
    try:
        text = manifest_text(folder)
        while problems := _problems(folder, text):
            # Another process may have changed the bundle between the manifest and its files.
            newer = manifest_text(folder)
            if newer == text:
                return problems
            text = newer
    except BundleError as error:
        return [str(error)]
    return []


def _problems(folder: Path, text: bytes) -> list[str]:
    manifest = parsed_manifest(folder, text)
    problems: list[str] = []
    for network in networks(manifest):
        try:
            check_network(folder, network)
        except BundleError as error:
            problems.append(str(error))
    entries: list[ExpertEntry | Candidate] = [*manifest.experts, *filter(None, [manifest.candidate])]
    for row, entry in enumerate(entries):
        try:
            expert = load_expert(folder, manifest, entry)
        except BundleError as error:
            problems.append(str(error))
        else:
            if row == 0 and expert.adapter != "none":
                problems.append(f"expert {entry.name!r} is row 0 and has an adapter; export the bundle again")
    try:
        load_head(folder, manifest)
    except BundleError as error:
        problems.append(str(error))
    problems += [
        f"file {named(stray)} is not named by the manifest; the next add or remove sweeps what a killed run left"
        for stray in strays(folder, manifest)
    ]
    return problems
