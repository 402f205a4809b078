"""The bundle on disk. `manifest.json` is the only truth: a file it does not name does not exist.

A change writes the new files aside, waits for the disk, and renames the manifest last, so that a kill at any moment
leaves the old or the new state; what a killed run leaves behind is swept by the next change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from mile_edge.bundle import admission, commit
from mile_edge.bundle.candidate import Candidate, ShadowPlan
from mile_edge.bundle.checks import check_width
from mile_edge.bundle.expert import Expert
from mile_edge.bundle.files import named
from mile_edge.bundle.gate import Gate
from mile_edge.bundle.journal import Change
from mile_edge.bundle.loading import kept_manifest, manifest_text, parsed_manifest
from mile_edge.bundle.lock import locked
from mile_edge.bundle.manifest import Manifest
from mile_edge.bundle.state import BundleState
from mile_edge.bundle.trust import OPEN, Trust

#: What else must go well for a change: entered before the disk has it, left when the disk has it.
Around = Callable[["Bundle"], AbstractContextManager[object]]


@dataclass(frozen=True)
class Bundle(BundleState):
    """One state of a bundle folder, read and checked: changes on disk give a new Bundle and leave this one as it is."""

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
            manifest: without experts; the hashes of its networks are filled in from the bytes given. Its fusion and
                its candidate stay behind.
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
        around: Around = nullcontext,
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
            around: is entered with what the bundle would be, before the disk has it, and left when the disk has it.
                What it raises on entering refuses the change; what the disk raises passes through it.

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
            others = (each for each in now.experts() if each.name != arrival.expert.name)
            check_width(arrival.expert, others, now.manifest.gate, arrival.where)
            bundle = replace(now._with(manifest, arrival.expert, arrival.entry), newest=arrival.entry.name)
            with around(bundle):
                commit.change(self.path, manifest, {arrival.entry.file: arrival.data}, what)
        return bundle

    def promote(
        self,
        detail: Mapping[str, object] | None = None,
        meant: Candidate | None = None,
        around: Around = nullcontext,
    ) -> Bundle:
        """Put the candidate live, in a new row or in that of the expert of its name.

        Args:
            detail: for the journal.
            meant: the one that is to go live; whichever is in shadow where it is missing.
            around: as of `add`.

        Raises:
            BundleError: there is none, or another, or the bundle is full, locked, damaged or not writable; nothing has
                changed.
        """
        with locked(self.path):
            now = self.current()
            admission.check_meant(now.manifest, meant)
            manifest, what = admission.promoted(now.manifest, now.candidate, detail)
            bundle = now._with(manifest)
            with around(bundle):
                commit.change(self.path, manifest, {}, what)
        return bundle

    def withdraw(
        self,
        detail: Mapping[str, object] | None = None,
        meant: Candidate | None = None,
        around: Around = nullcontext,
    ) -> Bundle:
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
            with around(bundle):
                commit.change(self.path, manifest, {}, what)
        return bundle

    def remove(self, name: str, around: Around = nullcontext) -> Bundle:
        """Remove one expert; `around` as of `add`.

        The experts behind it move up in the manifest, but not in a running bank; classes and their ids stay.

        Returns:
            The bundle as it is now on disk.

        Raises:
            BundleError: there is no such expert, it is the base, or the bundle is locked, damaged or not writable.
        """
        with locked(self.path):
            now = self.current()
            manifest = now.manifest.without_expert(name)
            bundle = now._with(manifest)
            with around(bundle):
                commit.change(self.path, manifest, {}, admission.removal(now.manifest, name))
        return bundle

    def rollback(self, state: str | None = None, around: Around = nullcontext) -> Bundle:
        """Go back to a state that the bundle still keeps: its experts, its candidate, its gate and its fusion.

        It is one change. Classes stay, so that ids keep their meaning, and so do the newest versions seen.

        Args:
            state: the first digits of the SHA-256 of its manifest; the one before the present where it is missing.
            around: as of `add`.

        Returns:
            The bundle as it is now on disk.

        Raises:
            BundleError: no such state is kept, it is damaged or of another network, or the bundle is locked, damaged
                or not writable; nothing has changed.
        """
        with locked(self.path):
            manifest, target = kept_manifest(self.path, state)
            # Also from a bundle with a damaged file: what is needed is the state that is gone back to.
            bundle = self._load(self.path, manifest, self._known(manifest))
            with around(bundle):
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
