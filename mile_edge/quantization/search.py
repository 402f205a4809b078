"""Which layers stay int8: what each costs alone, and the fewest put back until the whole is within its bounds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import onnx

from mile_edge.quantization.judge import Judge, Verdict
from mile_edge.quantization.layers import Layer
from mile_edge.quantization.recipe import Int8Recipe

# Passes per layer for its own cost: seventy layers make these the longest part of a calibration.
ALONE = 8

Quantise = Callable[[Collection[Layer]], onnx.ModelProto]


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs when it alone is int8.

    Attributes:
        name: of the layer.
        kind: ``linear``, ``conv`` or ``depthwise``.
        numbers: how many weights.
        gate: whether the gate sees it.
        cost: its verdict; ``None`` for a layer that the recipe excludes.
        int8: whether it is int8 in the result.
    """

    name: str
    kind: str
    numbers: int
    gate: bool
    cost: Verdict | None
    int8: bool


@dataclass(frozen=True)
class Choice:
    """The result of a search.

    Attributes:
        layers: every candidate, in the graph's order.
        all_int8: what it would cost if all layers but the excluded ones were int8.
        result: what the chosen layers cost.
    """

    layers: tuple[LayerCost, ...]
    all_int8: Verdict
    result: Verdict


def search(
    layers: Sequence[Layer],
    quantise: Quantise,
    judge: Judge,
    recipe: Int8Recipe,
    stage: Callable[[str, int], None] = lambda name, passes: None,
) -> Choice:
    """Choose the layers that stay int8.

    The gate sees only the layers before its tap, so those are settled first, by the distances; then the others by mIoU.
    Among each, the layers go back in the order of what they cost alone, and bisection finds how many must.

    Args:
        layers: candidates.
        quantise: from chosen layers to the graph.
        judge: on frames that did not set the ranges.
        recipe: bounds and exclusions.
        stage: called when a stage begins, with its name and how many passes it makes at most.
    """
    candidates = [layer for layer in layers if not recipe.excludes(layer.name)]
    places = judge.spread(ALONE)
    stage("each layer alone", len(candidates) * len(places))
    alone = {layer.name: judge.verdict(quantise([layer]), places) for layer in candidates}
    before_tap = sorted((one for one in candidates if one.gate), key=lambda one: -alone[one.name].shift)
    behind_tap = sorted((one for one in candidates if not one.gate), key=lambda one: -alone[one.name].changed)
    steps = 2 + len(candidates).bit_length()
    stage("putting layers back", steps * len(judge))
    verdicts: dict[frozenset[str], Verdict] = {}

    def judged(chosen: Sequence[Layer]) -> Verdict:
        key = frozenset(layer.name for layer in chosen)
        if key not in verdicts:
            verdicts[key] = judge.verdict(quantise(chosen))
        return verdicts[key]

    def gate_holds(chosen: Sequence[Layer]) -> bool:
        rerouted, shift = judge.gate_verdict(quantise(chosen))
        return shift <= recipe.max_shift and rerouted <= recipe.max_rerouted

    everything = judged(candidates)
    kept = _fewest_back(before_tap, gate_holds)
    # The gate's layers come last: the distances have chosen among them already.
    final = _fewest_back([*behind_tap, *kept], lambda chosen: judged(chosen).drop <= recipe.max_drop)
    names = {layer.name for layer in final}
    costs = [LayerCost(o.name, o.kind, o.numbers, o.gate, alone.get(o.name), o.name in names) for o in layers]
    return Choice(tuple(costs), everything, judged(final))


def _fewest_back(layers: Sequence[Layer], holds: Callable[[Sequence[Layer]], bool]) -> list[Layer]:
    """What is left of ``layers`` when as few as possible are taken from their front; none of them always holds."""
    low, high = 0, len(layers)
    if high == 0 or holds(layers):
        return list(layers)
    # Invariant: taking `low` does not hold, taking `high` does.
    while high - low > 1:
        middle = (low + high) // 2
        if holds(layers[middle:]):
            high = middle
        else:
            low = middle
    return list(layers[high:])
