"""What each kind of cell does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mile_edge.studies import adapters, data, networks, timing
from mile_edge.studies.cells import Job

WORKS: Mapping[str, Callable[[Job], None]] = {
    "base": networks.make_base,
    "render": data.render,
    "link": data.link,
    "features": adapters.pool_features,
    "network": networks.train_whole,
    "adapter": adapters.train_adapter,
    "bundled": adapters.take_expert,
    "score-network": adapters.score_network,
    "score-bank": adapters.score_bank,
    "latency": timing.measure,
}
