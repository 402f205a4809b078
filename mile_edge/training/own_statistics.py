"""Batch-norm statistics of an expert's own (AdaBN, arXiv 1603.04779), folded into what every expert already holds.

SegFormer's decoder adds up what its stages project, y, normalises it, g (y - m) / r + h with r = sqrt(v + eps), and
passes it through a ReLU to the classifier. With a task's own mean m' and r' in place of the base's

    g (y - m') / r' + h  =  s (g (y + d - m) / r + h),    s = r / r',    d = m - m' + (1/s - 1) h r / g.

s is positive, so it passes the ReLU and is a factor of the classifier's columns. d is a constant, and a constant is one
rank: a stage's features are x = w n + u from a LayerNorm, whose n sum to zero, so 1/w times x is sum(u/w) in every
pixel. One rank of each stage's projection is kept free for it while the rest is trained. So neither the graph nor the
expert's file knows anything of it, and the base stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from mile_edge.errors import RecipeError
from mile_edge.network.low_rank import LowRankPath
from mile_edge.network.pool import ExpertPool

# Of a stage whose features have hardly a constant part no use is made: its rank would have to be enormous.
_LEAST = 0.05


@contextmanager
def own_statistics(pool: ExpertPool) -> Iterator[None]:
    """Within the block the decoder's batch norm learns; at its end the expert holds what it learnt, the base does not.

    Args:
        pool: a SegFormer's, just reset, with low-rank paths beside the decoder's projections.

    Raises:
        RecipeError: it is another network, those layers are not adapted, or no feature has a constant part.
    """
    head: Any = getattr(pool.base, "decode_head", None)
    stages = range(len(getattr(head, "linear_projections", ())))
    paths = [pool.adapters.get(f"decode_head.linear_projections.{i}.proj") for i in stages]
    norms: list[Any] = [pool.base.get_submodule(f"segformer.stages.{i}.layer_norm") for i in stages]
    constants = [float((norm.bias / norm.weight).sum()) for norm in norms]
    used = [i for i in stages if paths[i] is not None and _LEAST <= abs(constants[i]) < math.inf]
    if not used:
        raise RecipeError(
            "statistics of an expert's own are folded into a trained SegFormer's decode_head.linear_projections, which "
            "this bundle does not adapt; train without --own-statistics"
        )
    chosen = [cast("LowRankPath", paths[i]) for i in used]
    norm: Any = head.batch_norm
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    hooks = [hook for path in chosen for hook in _keep_last_free(path)]
    try:
        yield
        scale, shift = _difference(norm, before["running_mean"], before["running_var"])
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in norm.named_buffers():
            buffer.copy_(before[name])
    slices = head.linear_fuse.weight.flatten(1).chunk(len(stages), 1)[::-1]
    # The smallest numbers that add up to it over all stages.
    reach = torch.cat([constants[i] * slices[i] for i in used], dim=1)
    columns = torch.linalg.lstsq(reach.double(), shift.double()[:, None], driver="gelsd").solution[:, 0].float()
    with torch.no_grad():
        pool.classifier.weight.mul_(scale[:, None, None])
        for i, path, column in zip(used, chosen, columns.chunk(len(used)), strict=True):
            path.lora_A[-1] = 1 / norms[i].weight
            path.lora_B[:, -1] = column


def _keep_last_free(path: LowRankPath) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """The last rank of A (rank, in) and B (out, rank) is zero, and stays so in training."""
    with torch.no_grad():
        path.lora_A[-1] = 0
        path.lora_B[:, -1] = 0
    for parameter, axis in ((path.lora_A, 0), (path.lora_B, 1)):
        free = torch.ones_like(parameter).index_fill_(axis, torch.tensor([path.rank - 1]), 0)
        yield parameter.register_hook(lambda gradient, free=free: gradient * free.to(gradient.device))


@torch.no_grad()
def _difference(norm: Any, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """s and d of the module's docstring, (C,) each, from the base's statistics to those that the norm has now."""
    wide = (variance + norm.eps).sqrt()
    scale = wide / (norm.running_var + norm.eps).sqrt()
    return scale, mean - norm.running_mean + (1 / scale - 1) * norm.bias * wide / norm.weight
