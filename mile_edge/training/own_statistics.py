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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mile_edge.errors import RecipeError
from mile_edge.network.low_rank import LowRankPath
from mile_edge.network.pool import ExpertPool

# Of a stage whose features have hardly a constant part no use is made: its rank would have to be enormous.
_LEAST = 0.05
# Nor of one where a LayerNorm's weight is next to nothing, since A holds its inverse.
_LEAST_WEIGHT = 1e-3


@contextmanager
def own_statistics(pool: ExpertPool) -> Iterator[None]:
    """Within the block the decoder's batch norm learns; at its end the expert holds what it learnt, the base does not.

    Args:
        pool: a SegFormer's, just reset, with low-rank paths of rank 2 or more beside the decoder's projections.

    Raises:
        RecipeError: it is another network, those layers are not adapted, one rank is all there is, or no feature has a
            constant part.
    """
    norms, paths = _stages(pool)
    constants = [float((norm.bias / norm.weight).sum()) for norm in norms]
    used = [
        stage
        for stage, norm in enumerate(norms)
        if stage in paths and norm.weight.abs().min() >= _LEAST_WEIGHT and abs(constants[stage]) >= _LEAST
    ]
    if not used:
        raise RecipeError(
            "statistics of an expert's own are folded into what the base's stages have in every pixel, which is hardly "
            "anything in this base; train the base first, or the expert without --own-statistics"
        )
    chosen = [paths[stage] for stage in used]
    head: Any = pool.base.decode_head
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
    slices = head.linear_fuse.weight.flatten(1).chunk(len(norms), 1)[::-1]
    # The smallest numbers that add up to it over all stages.
    reach = torch.cat([constants[i] * slices[i] for i in used], dim=1)
    columns = torch.linalg.lstsq(reach.double(), shift.double()[:, None], driver="gelsd").solution[:, 0].float()
    with torch.no_grad():
        pool.classifier.weight.mul_(scale[:, None, None])
        for i, path, column in zip(used, chosen, columns.chunk(len(used)), strict=True):
            path.lora_A[-1] = 1 / norms[i].weight
            path.lora_B[:, -1] = column


def _stages(pool: ExpertPool) -> tuple[list[Any], dict[int, LowRankPath]]:
    """The stages' last LayerNorms, and by stage the low-rank path beside the decoder's projection of it."""
    base: Any = pool.base
    if base.config.model_type != "segformer":
        raise RecipeError(
            f"statistics of an expert's own are those of SegFormer's decoder, and this base is a "
            f"{base.config.model_type}; train without --own-statistics"
        )
    norms: list[Any] = [stage.layer_norm for stage in base.segformer.stages]
    names = [f"decode_head.linear_projections.{stage}.proj" for stage in range(len(norms))]
    adapted: dict[str, Any] = dict(pool.adapters.items())
    paths = {stage: adapted[name] for stage, name in enumerate(names) if name in adapted}
    if not paths:
        raise RecipeError(
            f"statistics of an expert's own are folded into {names[0]} and its like, which this bundle does not adapt; "
            "train without --own-statistics, or export one whose layers reach them"
        )
    if next(iter(paths.values())).rank < 2:
        raise RecipeError(
            "the bundle's rank is 1 and statistics of an expert's own take one rank of it; train without "
            "--own-statistics, or export one of a larger rank"
        )
    return norms, paths


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
    shift = mean - norm.running_mean + (1 / scale - 1) * norm.bias * wide / norm.weight
    # A channel of weight zero is the same whatever its statistics are.
    still = norm.weight == 0
    return scale.masked_fill(still, 1), shift.masked_fill(still, 0)
