"""Controls: what a gate is worth is only seen beside routing that knows everything, and routing that knows nothing.

=======  =============================================================================================================
oracle   the expert that is right for the frame's true sensor and domain: what is lost to it is gating error, and with
         it every expert's masks are bit-identical whatever experts came later
random   an expert drawn anew for every frame: what is lost to it is what the experts' differences are worth
=======  =============================================================================================================

Neither needs a graph of its own: any gate's ``gate_bias`` input closes all rows but one, which is what the functions
here make. On the robot side the same is ``Segmenter.pin``, and ``mile-edge evaluate --routing oracle`` or ``random``
does it for every frame; ``replay`` does not, for a stream has no truth to route by. The third control, ``uniform``,
mixes all experts and does need a graph: see ``mixture.py``.
"""

from __future__ import annotations

import torch

from mile_edge.network.gates.mixture import CLOSED


def oracle_bias(right: torch.Tensor, experts: int) -> torch.Tensor:
    """The bias that leaves each sample one expert.

    Args:
        right: (B,) int64, its row.
        experts: E, rows of the bank.

    Returns:
        (B, E) float32.
    """
    closed = torch.full((len(right), experts), 10 * CLOSED)
    return closed.scatter(1, right[:, None], 0.0)


def random_bias(samples: int, used: torch.Tensor, experts: int, generator: torch.Generator) -> torch.Tensor:
    """The bias that leaves each sample one expert, drawn from the rows in use.

    Args:
        samples: B.
        used: (U,) int64 rows that hold an expert.
        experts: E, rows of the bank.
        generator: that draws.

    Returns:
        (B, E) float32.
    """
    drawn = torch.randint(len(used), (samples,), generator=generator)
    return oracle_bias(used[drawn], experts)
