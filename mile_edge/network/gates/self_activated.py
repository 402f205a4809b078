"""Self-activated mixture of ranks, MoRA: every rank of every task decides for each token how much it takes part.

MoRA / MoRAM (arXiv 2506.21035, ICML 2026; [code] Artificer-AI-Lab/MoRAM, ``MoRAM_Linear``). There is no router and no
auxiliary loss: a rank's own response z_j = a_j . x is its key. The responses of all ranks so far are scaled to length
one, s = z / |z|; the ``top_k`` largest are kept, w = softmax(s / tau) over them, and at evaluation a rank that responds
too little (s < delta) is silent. Old ranks are frozen; each task appends its own.

Unlike every other gate this one is asked at each layer and for each token, so nothing can be merged, and all ranks are
computed for every token whether they take part or not.
"""

from __future__ import annotations

import torch

from mile_edge.network.gates.ranks import RankGate

KINDS = ("mora",)
# Below any response; a rank that is not there must not be among the largest.
_ABSENT = -1e30
_TINY = 1e-12


class SelfActivated(RankGate):
    """How much of each rank goes into each token. Holds no weights.

    Args:
        top_k: how many ranks a token may use; all where there are fewer.
        tau: of the softmax.
        delta: least share of the response's length at which a rank speaks at evaluation.
    """

    def __init__(self, top_k: int = 16, tau: float = 0.01, delta: float = 0.2) -> None:
        super().__init__()
        self.top_k, self.tau, self.delta = top_k, tau, delta

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Weights of the ranks.

        Args:
            x: (..., in) the layer's input, not read.
            z: (..., R) responses of all ranks to it; exactly 0 where a row of the bank has no such rank.

        Returns:
            (..., R) of the type of ``z``.
        """
        response = z.float()
        share = response / response.square().sum(dim=-1, keepdim=True).sqrt().clamp(min=_TINY)
        there = torch.where(response == 0, _ABSENT, share)
        # A comparison with the k-th largest is quicker than scattering k values; equal responses all take part.
        least = torch.topk(there, min(self.top_k, z.shape[-1]), dim=-1).values[..., -1:]
        weights = torch.softmax(torch.where(there >= least, there, _ABSENT) / self.tau, dim=-1)
        if not self.training:
            weights = weights * (share >= self.delta)
        return weights.to(z.dtype)
