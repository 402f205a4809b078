"""The segmenter's part for several sensors: one pass, each frame under its own expert, and one mask of all."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle, Manifest
from mile_edge.errors import FusionError
from mile_edge.runtime.backends import Backend
from mile_edge.runtime.bank import GateState
from mile_edge.runtime.fusion import TOLERANCE_NS, Fused, SensorFrame, Watch, checked, largest
from mile_edge.runtime.resize import resize_frames, restore
from mile_edge.runtime.segmentation import Segmentation, stage_times


class SensorFusion(ABC):
    """What :class:`mile_edge.runtime.segmenter.Segmenter` does with several sensors at once."""

    _backend: Backend

    @property
    @abstractmethod
    def manifest(self) -> Manifest:
        """The bundle as the next frame sees it."""

    @abstractmethod
    def _frame(self) -> AbstractContextManager[GateState]: ...

    @abstractmethod
    def _bias(
        self, state: GateState, stream: Hashable, only: Sequence[str] | None, fallback: bool = True
    ) -> np.ndarray: ...

    @abstractmethod
    def _answer(
        self,
        state: GateState,
        owners: Sequence[Hashable],
        bias: np.ndarray,
        parts: Sequence[Any],
        timings: dict[str, float],
    ) -> Segmentation: ...

    @abstractmethod
    def _compare(
        self,
        state: GateState,
        frames: Any,
        masks: Any,
        owners: Sequence[Hashable],
        only: Mapping[Any, Sequence[str] | None],
    ) -> None: ...

    def _open_fusion(self, bundle: Bundle) -> None:
        self._fused_graph = None if bundle.manifest.fusion is None else bundle.manifest.fusion.network
        self._watch = Watch()
        self._follow_fusion(bundle)

    def _follow_fusion(self, bundle: Bundle) -> None:
        """Use the head of another state of the bundle, as long as it is for the graph that was opened."""
        info = bundle.manifest.fusion
        same = info is not None and info.network == self._fused_graph
        self._fusion = bundle.fusion_vector() if same else None

    def fuse(
        self,
        frames: Mapping[Any, SensorFrame],
        *,
        tolerance_ns: int = TOLERANCE_NS,
        like: Hashable = None,
        only: Mapping[Any, Sequence[str]] | None = None,
    ) -> Fused:
        """Segment the newest frames of several sensors in one pass, each under its own expert, and fuse them.

        A sensor takes part unless its frame is too old, constant, or repeated though others change; any subset works,
        down to one, and what takes no part cannot change the fused mask. The order of sensors does not matter.

        Args:
            frames: stream, for example a topic, to its newest frame; sizes may differ, viewpoints may not.
            tolerance_ns: how far a stamp may lie behind the newest, nanoseconds.
            like: the stream whose size the fused mask takes; the one with the most pixels where it is missing.
            only: stream to the names of the experts that may be chosen for it.

        Raises:
            FusionError: the bundle does not fuse, a frame is no image, or no sensor gave a usable one.
            ExpertError: a name in ``only`` is not loaded, or it is empty.
            BackendError: the pass failed, the backend cannot fuse, or the segmenter is closed.
        """
        started = time.perf_counter()
        checked(frames)
        vector = self._vector()
        live, absent = self._watch.live(frames, tolerance_ns)
        if not live:
            why = ", ".join(f"{stream}: {reason}" for stream, reason in absent.items())
            raise FusionError(f"no sensor gave a usable frame ({why}); check the sensors")
        with self._frame() as state:
            network = (state.manifest.network.height, state.manifest.network.width)
            owners = list(live)
            batch = np.concatenate([resize_frames(given.frame[None], network) for given in live.values()])
            bias = np.stack([self._bias(state, owner, (only or {}).get(owner)) for owner in owners])
            ready = time.perf_counter()
            group = np.ones((1, len(owners)), np.float32)
            *each, fused_mask, fused_confidence, share = self._backend.fuse(batch, state, bias, group, vector)
        passed = time.perf_counter()
        self._compare(state, batch, each[0], owners, only or {})
        sensors: dict[Hashable, Segmentation] = {}
        for place, (owner, given) in enumerate(live.items()):
            parts = [array[place : place + 1] for array in each]
            parts[:2] = [restore(part, given.frame.shape[:2]) for part in parts[:2]]
            timings = stage_times(started, ready, passed)
            sensors[owner] = self._answer(state, [owner], bias[place : place + 1], parts, timings)
        stream = like if like in live else largest(live)
        height, width = live[stream].frame.shape[:2]
        return Fused(
            restore(fused_mask, (height, width))[0],
            restore(fused_confidence, (height, width))[0],
            stream,
            max(given.stamp for given in live.values()),
            sensors,
            {owner: float(part) for owner, part in zip(owners, share[0], strict=True)},
            absent,
            stage_times(started, ready, passed),
        )

    def fuse_subsets(
        self, frames: Mapping[Any, np.ndarray], subsets: Sequence[Sequence[Hashable]]
    ) -> tuple[dict[Hashable, np.ndarray], list[np.ndarray]]:
        """Masks of one moment as they would be if only some of the sensors were there, all from one pass.

        Args:
            frames: stream to (H, W, 3) uint8, all of one size.
            subsets: streams of each; at least one each.

        Returns:
            each stream's own mask, and each subset's fused mask, all (H, W) uint8.

        Raises:
            FusionError: the bundle does not fuse, or a frame is no image.
            BackendError: the pass failed, the backend cannot fuse, or the segmenter is closed.
        """
        given = {stream: SensorFrame(frame, 0) for stream, frame in frames.items()}
        checked(given)
        vector = self._vector()
        owners = sorted(frames, key=str)
        group = np.array([[float(owner in subset) for owner in owners] for subset in subsets], np.float32)
        with self._frame() as state:
            size = frames[owners[0]].shape[:2]
            network = (state.manifest.network.height, state.manifest.network.width)
            batch = np.concatenate([resize_frames(frames[owner][None], network) for owner in owners])
            bias = np.stack([self._bias(state, owner, None) for owner in owners])
            mask, _, _, _, fused, _, _ = self._backend.fuse(batch, state, bias, group, vector)
        return dict(zip(owners, restore(mask, size), strict=True)), list(restore(fused, size))

    def _vector(self) -> np.ndarray:
        if self._fusion is None:
            raise FusionError(
                f"bundle {self.manifest.name!r} has no graph that fuses, or had none when it was opened; "
                "mile-edge train fusion --add gives it one"
            )
        return self._fusion
