"""An expert file on its way into a bundle: what it is, whether it may enter, and what the manifest becomes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mile_edge.bundle.candidate import Candidate, ShadowPlan
from mile_edge.bundle.checks import check_fit
from mile_edge.bundle.expert import Expert, expert_bytes
from mile_edge.bundle.files import named
from mile_edge.bundle.gate import Gate
from mile_edge.bundle.journal import Change
from mile_edge.bundle.manifest import ExpertEntry, Manifest, expert_file
from mile_edge.bundle.strict_json import NAME, shown
from mile_edge.bundle.trust import Trust
from mile_edge.bundle.versions import check_version, merged, with_version
from mile_edge.errors import BundleError, ExpertError


@dataclass(frozen=True)
class Arrival:
    """An expert file that the policy took, and under which name it goes in."""

    expert: Expert
    data: bytes
    entry: ExpertEntry
    signer: str
    policy: str
    where: str

    def change(self, action: str, detail: Mapping[str, object] | None = None) -> Change:
        """What the journal says of it."""
        return change_of(action, self.expert, self.entry.sha256, self.signer, self.policy, detail)


def receive(path: str | os.PathLike[str], name: str | None, trust: Trust, sha256: str) -> Arrival:
    """Read an expert file under a policy.

    Raises:
        ExpertError: it is refused.
    """
    where = f"expert file {named(path)}"
    admitted = trust.read(path, where, sha256)
    expert, data = admitted.expert, admitted.data
    if name is not None and name != expert.name:
        if not NAME.fullmatch(name):
            raise ExpertError(
                f"{shown(name)} is no expert name; use lower-case letters, digits, - and _ (at most 64 letters)"
            )
        if trust.policy == "signed":
            raise ExpertError(f"{where} is signed as {expert.name!r} and not as {name!r}; add it under its own name")
        expert = replace(expert, name=name, package=None)
        data = expert_bytes(expert)
    return Arrival(expert, data, entry_of(expert.name, data), admitted.signer, trust.policy, where)


def founded(
    manifest: Manifest, onnx_bytes: bytes, base_graph_bytes: bytes | None, base_expert: Expert
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of a new bundle whose only expert is its base, and the files that it names.

    Raises:
        BundleError: the manifest has experts already, or its base graph is given without bytes or they without it.
        ExpertError: the base has an adapter, or does not fit the manifest.
    """
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
    entry = entry_of(base_expert.name, data)
    files = {manifest.network.file: onnx_bytes, entry.file: data}
    # A graph that fuses reads the weights of the very graph that it was made with: `set_fusion` gives a new one.
    # A candidate's file is not among those given.
    manifest = replace(manifest, network=manifest.network.of(onnx_bytes), fusion=None, candidate=None)
    if manifest.base_graph is not None and base_graph_bytes is not None:
        files[manifest.base_graph.file] = base_graph_bytes
        manifest = replace(manifest, base_graph=manifest.base_graph.of(base_graph_bytes))
    return manifest.with_expert(entry, base_expert.classes), files


def entered(
    manifest: Manifest, arrival: Arrival, candidate: Expert | None, *, replaces: bool, downgrade: bool
) -> Manifest:
    """The manifest with the expert live, and with room for the classes of the one in shadow, `candidate`.

    Raises:
        ExpertError: it does not fit, is older than one seen before, or has the name of another one.
        BundleError: the bundle is full.
    """
    _check(manifest, arrival, candidate, replaces, downgrade)
    versions = with_version(manifest.versions, arrival.expert, arrival.entry.sha256)
    return replace(manifest.with_expert(arrival.entry, arrival.expert.classes), versions=versions)


def entered_in_shadow(manifest: Manifest, arrival: Arrival, plan: ShadowPlan, *, downgrade: bool) -> Manifest:
    """The manifest with the expert as candidate; one of its name stays live until the candidate goes live.

    Raises:
        ExpertError: it does not fit or is older than one seen before.
        BundleError: the bundle has a candidate already, or is full.
    """
    if manifest.candidate is not None:
        raise BundleError(
            f"bundle {manifest.name!r} has {manifest.candidate.name!r} in shadow already; promote or withdraw it first"
        )
    _check(manifest, arrival, None, True, downgrade)
    if len(manifest.experts) > manifest.capacity:
        raise BundleError(f"bundle {manifest.name!r} is full and a shadow run needs a row; remove an expert first")
    versions = with_version(manifest.versions, arrival.expert, arrival.entry.sha256)
    candidate = Candidate(arrival.entry.name, arrival.entry.file, arrival.entry.sha256, plan)
    return replace(manifest, candidate=candidate, versions=versions)


def check_meant(manifest: Manifest, meant: Candidate | None) -> None:
    """Refuse to settle another candidate than the one that is meant, under whatever name or plan; None means any.

    Raises:
        BundleError: another is in shadow.
    """
    found = manifest.candidate
    if meant is None or found is None or found == meant:
        return
    told = f"another {found.name!r} in shadow now"
    if found.name != meant.name:
        told = f"{found.name!r} in shadow now and no longer {meant.name!r}"
    raise BundleError(f"bundle {manifest.name!r} has {told}; see how that one does before it is promoted or withdrawn")


def promoted(
    manifest: Manifest, expert: Expert | None, detail: Mapping[str, object] | None = None
) -> tuple[Manifest, Change]:
    """The manifest with its candidate, `expert`, live and none in shadow, and what the journal says of it.

    Raises:
        BundleError: it has none, or is full.
    """
    candidate = manifest.candidate
    if candidate is None or expert is None:
        raise BundleError(f"bundle {manifest.name!r} has no expert in shadow; add one with a shadow run first")
    entry = ExpertEntry(candidate.name, candidate.file, candidate.sha256)
    check_room(replace(manifest, candidate=None), candidate.name, f"expert {candidate.name!r}", replaces=True)
    what = change_of("live", expert, candidate.sha256, detail=detail)
    return replace(manifest.with_expert(entry, expert.classes), candidate=None), what


def withdrawn(manifest: Manifest, detail: Mapping[str, object] | None = None) -> tuple[Manifest, Change]:
    """The manifest without its candidate, and what the journal says of it, for which no file need be read.

    Raises:
        BundleError: it has none.
    """
    candidate = manifest.candidate
    if candidate is None:
        raise BundleError(f"bundle {manifest.name!r} has no expert in shadow; there is nothing to withdraw")
    seen = manifest.versions.get(candidate.name)
    version = seen.version if seen is not None and seen.sha256 == candidate.sha256 else 0
    what = Change("withdraw", candidate.name, version, candidate.sha256, detail=dict(detail or {}))
    return replace(manifest, candidate=None), what


def restored(target: Manifest, present: Manifest, where: str) -> Manifest:
    """A kept state as the bundle's next one, with the classes and the newest versions of the present.

    Raises:
        BundleError: the bundle has another network since.
    """
    if fixed_part(target) != replace(fixed_part(present), gate=fixed_part(target).gate):
        raise BundleError(f"bundle {where} was exported anew since that state; its experts cannot come back")
    return replace(target, classes=present.classes, versions=merged(target.versions, present.versions))


def fixed_part(manifest: Manifest) -> Manifest:
    """What no add or remove changes: an expert that fitted once fits as long as this is the same."""
    gate = replace(manifest.gate, thresholds={}, novelty=None)
    return replace(manifest, experts=(), classes=(), gate=gate, candidate=None, versions={}, fusion=None)


def removal(manifest: Manifest, name: str) -> Change:
    """What the journal says of an expert that goes."""
    return Change("remove", name, sha256=manifest.entry(name).sha256)


def change_of(
    action: str,
    expert: Expert,
    sha256: str,
    signer: str = "",
    policy: str = "",
    detail: Mapping[str, object] | None = None,
) -> Change:
    """What the journal says of an expert."""
    version = 0 if expert.package is None else expert.package.version
    return Change(action, expert.name, version, sha256, signer, policy, dict(detail or {}))


def entry_of(name: str, data: bytes) -> ExpertEntry:
    """The manifest's entry for the bytes of an expert file."""
    sha256 = hashlib.sha256(data).hexdigest()
    return ExpertEntry(name, expert_file(name, sha256), sha256)


def _check(manifest: Manifest, arrival: Arrival, candidate: Expert | None, replaces: bool, downgrade: bool) -> None:
    check_room(manifest, arrival.expert.name, arrival.where, replaces=replaces)
    # A candidate's classes are the bundle's only once it is live, and must still find their places and colours then.
    pending = () if candidate is None else candidate.classes
    new = tuple(label for label in pending if label not in manifest.classes)
    check_fit(arrival.expert, replace(manifest, classes=manifest.classes + new), arrival.where)
    if not downgrade:
        check_version(manifest.versions, arrival.expert, arrival.entry.sha256, arrival.where)


def check_room(manifest: Manifest, name: str, where: str, *, replaces: bool = False) -> None:
    """Refuse an expert for its name alone, or for want of a row: known before a training has cost hours.

    Raises:
        ExpertError: the bundle has one of this name, and it is the base's or not to be replaced.
        BundleError: the bundle is full.
    """
    names = [entry.name for entry in manifest.experts]
    if name == names[0]:
        raise ExpertError(f"{where} is named {name!r} like the bundle's base, which stays; give it another name")
    if name in names:
        if not replaces:
            raise ExpertError(
                f"{where} is named {name!r} like one in the bundle; remove that one first, give another name, or ask "
                "to replace it (`experts add --replace`)"
            )
    # A candidate holds a row too, until it goes live or is withdrawn.
    elif len(names) + (manifest.candidate is not None) > manifest.capacity:
        raise BundleError(
            f"bundle {manifest.name!r} is full with {manifest.capacity} experts; "
            "remove one or export it with more capacity"
        )


def check_gate(built: Gate, given: Gate, where: str) -> None:
    """Refuse settings of a gate that the network was not built with.

    Raises:
        BundleError: one of them differs.
    """
    for key in ("kind", "tap", "dim", "prototypes", "top_k", "tau", "delta"):
        old, new = getattr(built, key), getattr(given, key)
        if old != new:
            raise BundleError(f"gate.{key} is {old} in the network of {where}, not {new}; export it again")
