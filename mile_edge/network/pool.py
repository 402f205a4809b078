"""A frozen base with a low-rank path beside chosen layers, and a classifier that belongs to the expert."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import nn

from mile_edge.bundle.expert import Expert
from mile_edge.bundle.layout import LowRankLayer, LowRankLayout
from mile_edge.errors import RecipeError
from mile_edge.network.base import Base, BaseDescription, base_sha256, describe
from mile_edge.network.low_rank import LowRankLinear, LowRankPath
from mile_edge.network.low_rank_entry import LowRankEntry


def adaptable_layers(model: nn.Module, pattern: str, entry: str | None = None) -> list[str]:
    """Names of the linear layers and convolutions that ``pattern`` matches in full, in the network's order.

    Args:
        model: the base.
        pattern: regular expression.
        entry: name of the network's first convolution, which may be adapted as well.

    Raises:
        RecipeError: the pattern is no regular expression, or matches nothing: an expert that silently adapts
            nothing looks trained and is not.
    """
    try:
        matcher = re.compile(pattern)
    except re.error as error:
        raise RecipeError(f"layer pattern {pattern!r} is no regular expression ({error})") from error
    candidates = [
        name
        for name, module in model.named_modules()
        if LowRankLinear.fits(module) or (name == entry and LowRankEntry.fits(module))
    ]
    chosen = [name for name in candidates if matcher.fullmatch(name)]
    if not chosen:
        raise RecipeError(
            f"layer pattern {pattern!r} matches none of the {len(candidates)} linear layers and convolutions, "
            f"such as {candidates[len(candidates) // 2]!r}; change `layers` in the recipe"
        )
    return chosen


class ExpertPool(nn.Module):
    """A frozen base that one expert at a time is trained in, or that a bank of experts is routed through.

    Args:
        base: the frozen network; its layers are replaced in place.
        rank: of every low-rank pair.
        pattern: regular expression of the layers to adapt; the base's own choice by default.
    """

    def __init__(self, base: Base, rank: int = 8, pattern: str | None = None) -> None:
        super().__init__()
        self.description: BaseDescription = describe(base)
        self.base_sha256 = base_sha256(base)
        self.base_parameters = sum(p.numel() for p in base.parameters())
        names = adaptable_layers(base, pattern or self.description.adapted, self.description.entry)
        if self.description.classifier in names:
            raise RecipeError(
                f"layer pattern matches the classifier {self.description.classifier!r}; experts bring their own"
            )
        if self.description.sliced in names:
            raise RecipeError(
                f"layer pattern matches {self.description.sliced!r}, which this base applies slice by slice; adapt the "
                "layers before it, which reaches the same"
            )
        self.base = base
        self._own = tuple(parameter.detach().clone() for parameter in classifier_parameters(self.classifier))
        self.rank = rank
        self.adapters = {name: self._path_beside(name, rank) for name in names}
        for name, adapter in self.adapters.items():
            replace_module(base, name, adapter)

    @property
    def classifier(self) -> nn.Conv2d:
        """The layer from hidden features to class scores: (classes, hidden, 1, 1) weights."""
        return cast("nn.Conv2d", self.base.get_submodule(self.description.classifier))

    def layout(self, max_classes: int) -> LowRankLayout:
        """Where each layer's numbers lie in a bank row."""
        layers = tuple(
            LowRankLayer(name, path.in_features, path.out_features, None if path.rank == self.rank else path.rank)
            for name, path in self.adapters.items()
        )
        return LowRankLayout(self.rank, layers, self.classifier.in_channels, max_classes)

    def expert_parameters(self) -> Iterator[nn.Parameter]:
        """What training an expert changes: every A and B, and the classifier."""
        for adapter in self.adapters.values():
            yield from adapter.trained()
        yield from self.classifier.parameters()

    def reset(self, num_classes: int) -> None:
        """Back to the base with a fresh path and its own classifier's rows as far as they go; more start at zero."""
        for adapter in self.adapters.values():
            adapter.reset()
        self._restore_classifier(num_classes)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for parameter in self.expert_parameters():
            parameter.requires_grad_(True)

    @torch.no_grad()
    def load(self, expert: Expert) -> None:
        """Put one expert's weights into the network: its low-rank pairs and its classifier."""
        self.reset(expert.classifier_weight.shape[0])
        self.load_pairs(expert)
        weight, bias = classifier_parameters(self.classifier)
        # Arrays of a file are read-only, which torch has no notion of: copies.
        weight.copy_(torch.from_numpy(np.array(expert.classifier_weight))[:, :, None, None])
        bias.copy_(torch.from_numpy(np.array(expert.classifier_bias)))

    @torch.no_grad()
    def load_pairs(self, expert: Expert) -> None:
        """Put one expert's low-rank pairs into the network and leave the classifier as it is."""
        for name, (a, b) in expert.low_rank.items():
            self.adapters[name].lora_A.copy_(torch.from_numpy(a.astype("float32")))
            self.adapters[name].lora_B.copy_(torch.from_numpy(b.astype("float32")))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised pixels to (B, classes, h, w) scores at the network's own resolution."""
        return self.base(pixel_values=pixels).logits

    def _path_beside(self, name: str, rank: int) -> LowRankPath:
        layer = self.base.get_submodule(name)
        if name == self.description.entry and LowRankEntry.fits(layer):
            return LowRankEntry(cast("nn.Conv2d", layer))
        return LowRankLinear(layer, rank)

    def _restore_classifier(self, num_classes: int) -> None:
        fresh = nn.Conv2d(self._own[0].shape[1], num_classes, kernel_size=1)
        kept = min(num_classes, len(self._own[0]))
        with torch.no_grad():
            for parameter, own in zip(classifier_parameters(fresh), self._own, strict=True):
                nn.init.zeros_(parameter)
                parameter[:kept] = own[:kept]
        replace_module(self.base, self.description.classifier, fresh)


def rank_layers(pool: ExpertPool, rank: int | None = None) -> dict[str, LowRankLinear]:
    """The adapted layers of a pool by name, for what weighs their ranks one by one.

    Args:
        pool: whose.
        rank: that it should have.

    Raises:
        RecipeError: it has another rank, or one of the layers is the first convolution, whose path is of full rank.
    """
    if rank not in (None, pool.rank):
        raise RecipeError(f"the pool has rank {pool.rank} and the method trains {rank} ranks per task; make it of that")
    layers = {name: layer for name, layer in pool.adapters.items() if isinstance(layer, LowRankLinear)}
    for name in pool.adapters.keys() - layers.keys():
        raise RecipeError(f"layer {name!r} is a convolution without ranks to choose; leave it out of `layers`")
    return layers


def classifier_parameters(classifier: nn.Conv2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (classes, hidden, 1, 1) and bias (classes,) of a classifier.

    Raises:
        RecipeError: it has no bias, which every expert file holds.
    """
    if classifier.bias is None:
        raise RecipeError("the base's classifier has no bias; use a base whose last layer has one")
    return classifier.weight, classifier.bias


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where ``name`` is."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)
