"""A frame's whole work in one graph: pool, gate, fetch the expert's row, segment under it.

Experts, prototypes and biases are inputs, so switching an expert costs nothing, adding one is one row copied, every
sample of a batch may use another expert, and no engine is ever rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from mile_edge.errors import RecipeError
from mile_edge.network.gates import make_gate, make_mixture, make_self_activation
from mile_edge.network.low_rank_mix import mixed_classifier
from mile_edge.network.low_rank_self import low_rank_self
from mile_edge.network.pixels import normalise
from mile_edge.network.pool import ExpertPool, rank_layers, replace_module
from mile_edge.network.tap import Tap

INPUTS = ("frames", "bank", "prototypes", "whitening", "gate_bias")
OUTPUTS = ("mask", "confidence", "expert", "distance")


class OnePass(nn.Module):
    """The network that is exported. Takes the pool over: its classifier is replaced by one that reads the bank.

    Args:
        pool: base with low-rank layers.
        size: (height, width) of the frames.
        max_classes: rows of the classifier in a bank row.
        gate: its kind, one of ``gates.KINDS``.
        tap: ``entry`` or ``early`` (one pass) or ``full`` (the last stage of an extra, adapter-free pass).
        top_k: experts that a ``semla`` gate mixes.
        tau: its softmax's temperature; for a ``mora`` gate both are those of a token's ranks.
        delta: least share at which a rank takes part, of a ``mora`` gate.

    Raises:
        RecipeError: there is no such tap, or the gate cannot work with these layers.
    """

    def __init__(
        self,
        pool: ExpertPool,
        size: tuple[int, int],
        max_classes: int,
        gate: str = "mahalanobis",
        tap: str = "early",
        top_k: int | None = None,
        tau: float | None = None,
        delta: float | None = None,
    ) -> None:
        super().__init__()
        self.pool, self.size, self.tap = pool, size, tap
        self.layout = pool.layout(max_classes)
        self.gate, self.mixture = make_gate(gate), make_mixture(gate, top_k, tau)
        activation = make_self_activation(gate, top_k, tau, delta)
        if activation is not None:
            for layer in rank_layers(pool).values():
                layer.low_rank = low_rank_self(activation)
        self.head = BankClassifier(self.layout.hidden, max_classes, self.layout.classifier_offset)
        self._plain_head = pool.classifier
        replace_module(pool.base, pool.description.classifier, self.head)
        self._tap = Tap(pool.base, pool.description, tap)

    def forward(
        self,
        frames: torch.Tensor,
        bank: torch.Tensor,
        prototypes: torch.Tensor,
        whitening: torch.Tensor,
        gate_bias: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """One pass over a batch of frames.

        Args:
            frames: (B, H, W, 3) uint8.
            bank: (E, P) float, row 0 is the base itself.
            prototypes: (E, K, D) float32.
            whitening: (D, D) float32.
            gate_bias: (B, E) float32.

        Returns:
            mask (B, H, W) uint8, confidence (B, H, W) uint8, expert (B,) int32, distance (B, E) float32.
        """
        scores, expert, distance = self.segment(frames, bank, prototypes, whitening, gate_bias)
        mask, confidence = decide(scores, self.size)
        return mask, confidence, expert.to(torch.int32), distance

    def segment(
        self,
        frames: torch.Tensor,
        bank: torch.Tensor,
        prototypes: torch.Tensor,
        whitening: torch.Tensor,
        gate_bias: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As :meth:`forward` up to the scores (B, C, h, w), with the expert (B,) and the distance (B, E)."""
        # TensorRT transposes no uint8, so the cast comes first.
        pixels = normalise(frames.float().permute(0, 3, 1, 2) / 255).to(bank.dtype)
        routes: list[tuple[torch.Tensor, torch.Tensor]] = []

        def choose(feature: torch.Tensor) -> None:
            expert, distance = self.gate(feature, prototypes, whitening, gate_bias)
            routes.append((expert, distance))
            if self.mixture is None:
                self._route(bank, expert)
            else:
                self._route(bank, *self.mixture(distance, gate_bias))

        for adapter in self.pool.adapters.values():
            adapter.hold()
        hook = self._tap.on_feature(choose)
        try:
            if self._tap.own_pass:
                zeros = torch.zeros(frames.shape[0], dtype=torch.int64, device=frames.device)
                self._route(bank, zeros)
                self.pool(pixels)
                hook.remove()
            scores = self.pool(pixels)
        finally:
            hook.remove()
            self._route(None)
        if not routes:
            raise RecipeError("the tap never ran, so no expert was chosen; the tap must lie in the forward pass")
        return (scores, *routes[0])

    def _route(
        self,
        bank: torch.Tensor | None,
        expert: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> None:
        for name, adapter in self.pool.adapters.items():
            adapter.route(bank, expert, 0 if bank is None else self.layout.offset(name), weights)
        self.head.route(bank, expert, weights)


class FrozenPass(nn.Module):
    """The base alone, with the same ends as :class:`OnePass`: what a benchmark compares the gated pass with.

    Args:
        base: the frozen network, before a pool is made of it.
        size: (height, width) of the frames.
    """

    def __init__(self, base: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.base, self.size = base, size

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, W, 3) uint8 to mask and confidence, each (B, H, W) uint8."""
        pixels = normalise(frames.float().permute(0, 3, 1, 2) / 255).to(next(self.base.parameters()).dtype)
        return decide(self.base(pixel_values=pixels).logits, self.size)


class FixedClassifier(nn.Module):
    """The 1x1 classifier as a matrix product, like :class:`BankClassifier` with one set of weights.

    ONNX Runtime reorders the whole map for a convolution; a baseline that paid for that would flatter the gated pass.
    """

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, hidden) * hidden**-0.5, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(classes, 1), requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, hidden, h, w) to (B, classes, h, w)."""
        scores = self.weight @ hidden.flatten(2) + self.bias
        return scores.reshape(-1, len(self.weight), hidden.shape[2], hidden.shape[3])


class BankClassifier(nn.Module):
    """The 1x1 classifier whose weights are read from each sample's bank row."""

    def __init__(self, hidden: int, max_classes: int, offset: int) -> None:
        super().__init__()
        self.hidden, self.max_classes, self.offset = hidden, max_classes, offset
        self._bank: torch.Tensor | None = None
        self._expert: torch.Tensor | None = None
        self._weights: torch.Tensor | None = None
        self._keep: Callable[[torch.Tensor, torch.Tensor], None] | None = None

    def watch(self, keep: Callable[[torch.Tensor, torch.Tensor], None] | None) -> None:
        """Call ``keep`` at every pass with what is classified, (B, hidden, h, w), and the biases (B, max_classes)."""
        self._keep = keep

    def route(
        self, bank: torch.Tensor | None, expert: torch.Tensor | None, weights: torch.Tensor | None = None
    ) -> None:
        """Use ``bank`` (E, P) at ``expert`` (B,), or at (B, K) with ``weights`` (B, K)."""
        self._bank, self._expert, self._weights = bank, expert, weights

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, hidden, h, w) to (B, max_classes, h, w)."""
        if self._bank is None or self._expert is None:
            raise RecipeError("the classifier ran before the gate had chosen; the tap must come before it")
        weight, bias = self._weight_and_bias(self._bank, self._expert)
        if self._keep is not None:
            self._keep(hidden, bias[:, :, 0])
        scores = weight @ hidden.flatten(2) + bias
        return scores.reshape(-1, self.max_classes, hidden.shape[2], hidden.shape[3])

    def _weight_and_bias(self, bank: torch.Tensor, expert: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, max_classes, hidden) and (B, max_classes, 1) of each sample."""
        if self._weights is not None:
            return mixed_classifier(bank, expert, self._weights, self.offset, self.hidden, self.max_classes)
        bias_start = self.offset + self.hidden * self.max_classes
        row = bank.index_select(0, expert)
        weight = row[:, self.offset : bias_start].reshape(-1, self.max_classes, self.hidden)
        return weight, row[:, bias_start : bias_start + self.max_classes].reshape(-1, self.max_classes, 1)


def decide(scores: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C, h, w) scores to a mask (B, H, W) uint8 and a confidence (B, H, W) uint8, 255 for certain.

    The mask is decided after the scores are enlarged, so edges are as smooth as the scores allow. The confidence is
    the winner's softmax share before enlarging: an exponential for every class and pixel would cost more than it tells.
    """
    scores = scores.float()
    share = torch.softmax(scores, dim=1).amax(dim=1, keepdim=True)
    confidence = functional.interpolate(share * 255, size=size, mode="bilinear", align_corners=False)
    enlarged = functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    return enlarged.argmax(dim=1).to(torch.uint8), confidence[:, 0].round().clamp(0, 255).to(torch.uint8)
