"""Export recipes: one YAML file per base and target, under ``export/`` at the top of the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mile_edge.bundle.fusion import FUSIONS
from mile_edge.bundle.gate import MAX_ATTRIBUTES, SUCCESSIVE_KINDS
from mile_edge.bundle.manifest import TAPS
from mile_edge.errors import RecipeError
from mile_edge.export.graph import PRECISIONS
from mile_edge.network.gates import KINDS
from mile_edge.yaml_file import read_settings

# What a recipe of such a gate may leave out. Successive kinds keep a prototype for each task.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "semla": {"top_k": 3, "tau": 0.05},
    "dac": {"prototypes": 17},
    "mora": {"prototypes": 17, "top_k": 16, "tau": 0.01, "delta": 0.2},
}


@dataclass(frozen=True)
class ExportRecipe:
    """What decides a bundle's network.

    Attributes:
        name: of the recipe.
        base: what the base is, for people; its weights are given apart.
        target: where it is meant to run, for people.
        precision: ``fp32`` or ``fp16``.
        size: (height, width) of the network.
        rank: of every low-rank pair.
        layers: regular expression of the adapted layers; the base's own choice where it is missing.
        tap: ``entry`` or ``early`` (one pass) or ``full`` (two passes).
        gate: its kind, see docs/methods.md.
        prototypes: K per expert.
        shrink: of the pooled covariance towards a multiple of the identity.
        hysteresis: distance by which another expert must be nearer before a stream changes to it; where it is missing,
            what suits the gate's kind.
        capacity: experts beside the base.
        max_classes: how far the label space may grow.
        top_k: how many experts a ``semla`` gate mixes (default 3), or how many ranks a ``mora`` gate's token (16).
        tau: temperature of their weights (default 0.05, or 0.01): nearly one expert at 0.01, nearly equal weights at 1.
        delta: least share of a token's response at which a rank of a ``mora`` gate takes part (default 0.2).
        attributes: names of an ``attribute`` gate's pool; those that the experts bring along where there are none.
        attribute_vectors: ``.npy`` file with one vector for each of them, from any text encoder; relative to the
            recipe. Without it no attribute is like another.
        fusion: uniform, routed, both or both-aux for a second graph that fuses several sensors; none where missing.
    """

    name: str
    base: str = "segformer-b0"
    target: str = "onnxruntime"
    precision: str = "fp32"
    size: tuple[int, int] = (480, 640)
    rank: int = 8
    layers: str | None = None
    tap: str = "early"
    gate: str = "mahalanobis"
    prototypes: int = 1
    shrink: float = 0.001
    hysteresis: float | None = None
    capacity: int = 16
    max_classes: int = 16
    top_k: int | None = None
    tau: float | None = None
    attributes: tuple[str, ...] = ()
    attribute_vectors: str | None = None
    fusion: str | None = None
    delta: float | None = None


def load_recipe(path: Path | str) -> ExportRecipe:
    """Read a recipe.

    Raises:
        RecipeError: no such file, no YAML, an unknown key, or a value that cannot work; the key is named.
    """
    file = Path(path)
    settings = read_settings(file, ExportRecipe, "export/")
    settings.setdefault("name", file.stem)
    settings = {**_DEFAULTS.get(str(settings.get("gate")), {}), **settings}
    if "size" in settings:
        settings["size"] = _size(settings["size"], file)
    if isinstance(settings.get("attributes"), list):
        settings["attributes"] = tuple(settings["attributes"])
    if isinstance(settings.get("attribute_vectors"), str):
        settings["attribute_vectors"] = str(file.parent / settings["attribute_vectors"])
    try:
        recipe = ExportRecipe(**settings)
    except TypeError as error:
        raise RecipeError(f"recipe {file} cannot be used ({error})") from error
    try:
        _check(recipe, file)
    except TypeError as error:
        raise RecipeError(
            f"recipe {file} holds a value of the wrong kind ({error}); see export/ for examples"
        ) from None
    return recipe


def _size(value: Any, file: Path) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    raise RecipeError(f"recipe {file} has size {value!r}; give [height, width]")


def _check(recipe: ExportRecipe, file: Path) -> None:
    # The ranks of all tasks lie in one row.
    most = 1024 if recipe.gate in SUCCESSIVE_KINDS else 64
    weighing = recipe.gate in {"semla", "mora"}
    rules: list[tuple[str, bool, str]] = [
        ("precision", recipe.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        ("size", all(32 <= side <= 4096 and side % 8 == 0 for side in recipe.size), "multiples of 8 from 32 to 4096"),
        ("rank", _whole(recipe.rank, 1, most), f"1 to {most}"),
        ("tap", recipe.tap in TAPS, f"one of {', '.join(TAPS)}"),
        ("gate", recipe.gate in KINDS, f"one of {', '.join(KINDS)}"),
        ("prototypes", _whole(recipe.prototypes, 1, 64), "1 to 64"),
        ("shrink", _number(recipe.shrink) and 0 <= recipe.shrink <= 1, "between 0 and 1"),
        ("hysteresis", _margin(recipe.hysteresis), "0 or more"),
        ("capacity", _whole(recipe.capacity, 1, 4096), "1 to 4096"),
        ("max_classes", _whole(recipe.max_classes, 1, 255), "1 to 255"),
        ("top_k", _set(weighing, recipe.top_k, _whole(recipe.top_k, 1, most)), f"1 to {most}, for gate semla or mora"),
        ("top_k", recipe.gate != "semla" or (recipe.top_k or 0) <= recipe.capacity + 1, "at most capacity + 1"),
        ("tau", _set(weighing, recipe.tau, _number(recipe.tau)), "a number above 0, for gate semla or mora"),
        ("delta", _set(recipe.gate == "mora", recipe.delta, _share(recipe.delta)), "0 to 1, for gate mora"),
        ("tau", recipe.tau is None or (_number(recipe.tau) and 1e-6 <= recipe.tau <= 1e9), "0.000001 to 1000000000"),
        ("attributes", _names_of_attributes(recipe), "a list of different names, for gate attribute only"),
        (
            "attribute_vectors",
            recipe.attribute_vectors is None or bool(recipe.attributes and isinstance(recipe.attribute_vectors, str)),
            "a .npy file, and `attributes` to go with it",
        ),
        ("fusion", recipe.fusion is None or recipe.fusion in FUSIONS, f"one of {', '.join(FUSIONS)}, or nothing"),
        ("layers", recipe.layers is None or isinstance(recipe.layers, str), "a regular expression"),
    ]
    for key, good, expected in rules:
        if not good:
            raise RecipeError(f"recipe {file} has {key} {getattr(recipe, key)!r}; give {expected}")


def _set(needed: bool, value: object, good: bool) -> bool:
    return good if needed else value is None


def _share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _names_of_attributes(recipe: ExportRecipe) -> bool:
    names = recipe.attributes
    if not isinstance(names, tuple) or not all(isinstance(name, str) and 0 < len(name) <= 64 for name in names):
        return False
    return len(set(names)) == len(names) <= MAX_ATTRIBUTES and (not names or recipe.gate == "attribute")


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _margin(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
