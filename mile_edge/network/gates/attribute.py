"""The attribute gate, MAGE-inspired: the expert whose frames are most like this one in the attributes they show.

MAGE / Uni-IL (MMAsia 2025, no code released) routes by the best-matching attributes of a pool that a language model
wrote. Here the pool holds attributes that experts are labelled with ("night", "fog", "depth map"; sensors and domains
where nothing else is said), each alone or with a vector of any text encoder, given as a ``.npy`` file, which tells how
like each other they are. The frame's similarity to every vector of the pool is the gate's feature, and the nearest
expert in it is chosen, by Euclidean distance.

The similarities are linear in the pooled feature, so their matrix takes the place of the ``whitening`` input, and the
arithmetic is the prototype gate's. It is fitted by ``mile_edge.runtime.attributes`` from the statistics that every
expert file carries; an expert adds nothing but the names of its attributes.
"""

from __future__ import annotations

import torch
from torch import nn

from mile_edge.network.gates.prototype import nearest

KINDS = ("attribute",)


class AttributeGate(nn.Module):
    """The nearest expert in the space of similarities. Holds no weights: they are inputs."""

    def forward(
        self, feature: torch.Tensor, prototypes: torch.Tensor, whitening: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`mile_edge.network.gates.prototype.PrototypeGate.forward`.

        Args:
            feature: (B, D) float32.
            prototypes: (E, 1, D) float32, every expert's mean feature.
            whitening: (D, D) float32 from a feature to similarities; rows of zeros where there are fewer than D.
            bias: (B, E) float32, added to the negative distance.

        Returns:
            expert (B,) int64 and distance (B, E) float32.
        """
        distance = nearest(feature, prototypes, whitening)
        return torch.argmax(bias - distance, dim=1), distance
