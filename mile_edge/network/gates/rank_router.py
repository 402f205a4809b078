"""Rank-one expert pool, DAC: a router in every layer votes for ranks while a task is trained, and then goes.

DAC (arXiv 2601.22828, AAAI 2026; [code] Fazhan-cs/DAC, ``LinearLoRA`` and ``compute_orthogonal_loss``). Per layer a
linear router scores the pool's ranks; every sample votes for its ``active`` best, and those ``active`` that most of the
batch voted for compute. After the task the ``merged`` ranks with the most votes are added to the weights, the rest is
thrown away and a fresh pool begins: at inference there is no gate, and no latency.

=======  =============================================================================================================
random   [code] as released: only the router's order is used, so it gets no gradient and stays what it was at first
trained  [choice] a rank's output is scaled by r * p, p the router's softmax; what is merged is scaled by its mean
=======  =============================================================================================================

[choice] The router reads the mean of the layer's tokens; theirs reads the first token, which here is no [CLS].
The activation-guided orthogonal (AGO) loss holds ranks about to be merged apart from those that were: :func:`overlap`.
"""

from __future__ import annotations

import torch
from torch import nn

from mile_edge.network.gates.ranks import RankGate

KINDS = ("dac",)
ROUTERS = ("random", "trained")


class RankRouter(RankGate):
    """Votes for the ranks of one layer's pool.

    Args:
        inputs: features of the layer's input.
        rank: r, of the pool.
        active: ranks that compute while training.
        merged: ranks that remain after it.
        trained: let the router learn.

    Attributes:
        votes: (r,) int64, how many samples each rank was among the best of.
    """

    votes: torch.Tensor
    _gains: torch.Tensor
    _samples: torch.Tensor

    def __init__(self, inputs: int, rank: int, active: int, merged: int, *, trained: bool) -> None:
        super().__init__()
        self.active, self.merged, self.learns = active, merged, trained
        self.scores = nn.Linear(inputs, rank).requires_grad_(trained)
        self.register_buffer("votes", torch.zeros(rank, dtype=torch.int64))
        self.register_buffer("_gains", torch.zeros(rank, dtype=torch.float64))
        self.register_buffer("_samples", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Weights of the ranks; in evaluation those that the merged layer will have.

        Args:
            x: (B, ..., in) the layer's input.
            z: (B, ..., R + r) responses, those of R merged ranks first, which always count in full.

        Returns:
            what ``z`` can be multiplied with: (B or 1, 1, ..., R + r).
        """
        if self.training:
            share = torch.softmax(self.scores(x.flatten(1, -2).mean(dim=1).float()), dim=-1)
            gain = share * share.shape[1] if self.learns else torch.ones_like(share)
            own = gain * self._vote(share.detach())
            self._gains += gain.detach().double().sum(dim=0)
            self._samples += len(share)
        else:
            own = self.gain()[None].to(z.dtype) * self._mask(self.votes, self.merged)
        whole = torch.cat([own.new_ones(len(own), z.shape[-1] - own.shape[1]), own], dim=1)
        return whole.reshape(len(own), *[1] * (z.dim() - 2), -1).to(z.dtype)

    def chosen(self) -> torch.Tensor:
        """(merged,) int64: the ranks with the most votes, in the pool's order."""
        return torch.topk(self.votes, self.merged).indices.sort().values

    def gain(self) -> torch.Tensor:
        """(r,) float32: what each rank was scaled by, on average over all samples so far; 1 with a random router."""
        return torch.where(self._samples > 0, self._gains / self._samples, 1.0).float()

    def _vote(self, share: torch.Tensor) -> torch.Tensor:
        """(1, r): 1 for the ranks that most of the batch's samples want."""
        best = torch.topk(share, self.active, dim=-1).indices
        votes = torch.zeros_like(share, dtype=torch.int64).scatter(1, best, 1).sum(dim=0)
        self.votes += votes
        return self._mask(votes, self.active)[None]

    @staticmethod
    def _mask(votes: torch.Tensor, count: int) -> torch.Tensor:
        none = torch.zeros(len(votes), device=votes.device)
        return none.index_fill(0, torch.topk(votes, count).indices, 1.0)


def overlap(now: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
    """AGO of one layer: the sum of absolute inner products of B_now (out, k) with B_past (out, R)."""
    return (now.T @ past).abs().sum()
