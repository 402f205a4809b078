"""Study recipes: one YAML file per study, under ``studies/`` at the top of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mile_edge.bundle.manifest import TAPS
from mile_edge.data.world import DOMAINS, SENSORS
from mile_edge.errors import RecipeError
from mile_edge.studies.methods import METHODS
from mile_edge.studies.plan import LatencyPlan, StudyRecipe, TaskPlan, TrainingPlan, domains_of
from mile_edge.training.optimiser import OPTIMISERS
from mile_edge.yaml_file import known_keys, read_settings

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def load_study(path: Path | str) -> StudyRecipe:
    """Read a study's recipe.

    Raises:
        RecipeError: no such file, no YAML, an unknown key at any depth, or a value that cannot work; it is named.
    """
    file = Path(path)
    # A key without a value is a key that is not there.
    settings = {key: value for key, value in read_settings(file, StudyRecipe, "studies/").items() if value is not None}
    settings.setdefault("name", file.stem)
    settings.setdefault("methods", list(METHODS))
    for key in ("base", "tasks", "orders"):
        if key not in settings:
            raise RecipeError(f"recipe '{file}' has no {key}; see studies/ for examples")
    tasks = _mapping(settings["tasks"], f"tasks of recipe '{file}'")
    settings["tasks"] = {
        name: _part(plan, TaskPlan, f"task {name!r} of recipe '{file}'") for name, plan in tasks.items()
    }
    orders = _mapping(settings["orders"], f"orders of recipe '{file}'")
    settings["orders"] = {name: _tuple(order, f"order {name!r} of recipe '{file}'") for name, order in orders.items()}
    for key in ("seeds", "methods", "size", "crop", "zoom"):
        if settings.get(key) is not None:
            settings[key] = _tuple(settings[key], f"{key} of recipe '{file}'")
    for key, kind in (("expert", TrainingPlan), ("full", TrainingPlan), ("latency", LatencyPlan)):
        if settings.get(key) is not None:
            settings[key] = _part(settings[key], kind, f"{key} of recipe '{file}'")
    recipe = StudyRecipe(**settings)
    _check(recipe, file)
    return recipe


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise RecipeError(f"{where} are {value!r}; give a mapping with at least one name")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RecipeError(f"{where} hold the name {name!r}; use lower-case letters, digits, - and _, at most 40")
    return value


def _tuple(value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise RecipeError(f"{where} is {value!r}; give a list")
    return tuple(value)


def _part(value: Any, kind: Any, where: str) -> Any:
    settings = dict(known_keys(value, kind, where, "see studies/ for examples"))
    if isinstance(settings.get("experts"), list):
        settings["experts"] = tuple(settings["experts"])
    return kind(**settings)


def _check(recipe: StudyRecipe, file: Path) -> None:
    where = f"recipe '{file}' has"
    named = [*recipe.methods, *(task for order in recipe.orders.values() for task in order)]
    if odd := [each for each in (recipe.name, *named) if not isinstance(each, str)]:
        raise RecipeError(f"{where} {odd[0]!r} for a name; write it as text")
    if not _NAME.fullmatch(recipe.name):
        raise RecipeError(f"{where} the name {recipe.name!r}; use lower-case letters, digits, - and _, at most 40")
    unknown = [task for order in recipe.orders.values() for task in order if task not in recipe.tasks]
    twice = [name for name, order in recipe.orders.items() if not order or len(set(order)) != len(order)]
    methods = [each for each in recipe.methods if each not in METHODS]
    if unknown:
        raise RecipeError(f"{where} the task {unknown[0]!r} in an order; tasks are {', '.join(recipe.tasks)}")
    if twice:
        raise RecipeError(f"{where} the order {twice[0]!r} empty or with a task twice; name each task once")
    if methods or not recipe.methods:
        raise RecipeError(f"{where} the method {(methods or ['nothing'])[0]!r}; choose of {', '.join(METHODS)}")
    for key, good, expected in _rules(recipe):
        if not good:
            raise RecipeError(f"{where} {key} {getattr(recipe, key)!r}; give {expected}")
    for name, task in recipe.tasks.items():
        _check_task(task, f"task {name!r} of recipe '{file}' has")
    for key in ("expert", "full"):
        _check_training(getattr(recipe, key), f"{key} of recipe '{file}' has")
    if recipe.latency is not None and not (
        recipe.latency.experts
        and all(_whole(count, 1, 4096) for count in recipe.latency.experts)
        and _whole(recipe.latency.rounds, 1, 1000)
    ):
        raise RecipeError(f"{where} latency {recipe.latency}; give numbers of experts from 1 and rounds from 1 to 1000")


def _rules(recipe: StudyRecipe) -> list[tuple[str, bool, str]]:
    return [
        ("base", isinstance(recipe.base, str) and bool(recipe.base), "a path, or random:segformer-b0"),
        ("experts", recipe.experts is None or isinstance(recipe.experts, str), "the path of a bundle"),
        ("seeds", _all_whole(recipe.seeds, 0, 10**6), "different whole numbers"),
        ("size", _is_size(recipe.size, 8), "[height, width], multiples of 8 from 32 to 4096"),
        ("crop", recipe.crop is None or _is_size(recipe.crop, 8), "[height, width], multiples of 8 from 32 to 4096"),
        ("zoom", _is_range(recipe.zoom), "[smallest, largest] above 0, at most 100"),
        ("foreign", _number(recipe.foreign) and 0 <= recipe.foreign <= 1, "a share from 0 to 1"),
        ("rank", _whole(recipe.rank, 1, 64), "1 to 64"),
        ("layers", recipe.layers is None or isinstance(recipe.layers, str), "a regular expression"),
        ("tap", recipe.tap in TAPS, f"one of {', '.join(TAPS)}"),
        ("train_frames", _whole(recipe.train_frames, 2, 100_000), "2 to 100000"),
        ("test_frames", _whole(recipe.test_frames, 1, 100_000), "1 to 100000"),
        ("max_classes", _whole(recipe.max_classes, 1, 255), "1 to 255"),
        ("centres", _whole(recipe.centres, 1, 64), "1 to 64"),
        ("top_k", _whole(recipe.top_k, 1, 64), "1 to 64"),
        ("tau", _number(recipe.tau) and 1e-6 <= recipe.tau <= 1e9, "0.000001 to 1000000000"),
        ("leave_one_out", isinstance(recipe.leave_one_out, bool), "true or false"),
    ]


def _check_task(task: TaskPlan, where: str) -> None:
    folders = (task.train, task.test)
    if (task.world is None) == (folders == (None, None)) or (task.world is None and None in folders):
        raise RecipeError(f"{where} neither `world` nor both `train` and `test`, or all; give one of the two forms")
    if task.world is not None:
        names = domains_of(task)
        wrong = [name for name in names if name not in DOMAINS]
        if wrong or task.sensor not in SENSORS:
            raise RecipeError(
                f"{where} world {task.world!r} and sensor {task.sensor!r}; choose of {', '.join(DOMAINS)} or all, and "
                f"of {', '.join(SENSORS)}"
            )
    for key, value in (("train", task.train), ("test", task.test), ("domain", task.domain)):
        if value is not None and not isinstance(value, str):
            raise RecipeError(f"{where} {key} {value!r}; give text")
    for key, count, least in (("train_frames", task.train_frames, 2), ("test_frames", task.test_frames, 1)):
        if count is not None and not _whole(count, least, 100_000):
            raise RecipeError(f"{where} {key} {count!r}; give {least} to 100000")


def _check_training(plan: TrainingPlan, where: str) -> None:
    rules = [
        ("steps", _whole(plan.steps, 1, 10**7), "1 to 10000000"),
        ("batch", _whole(plan.batch, 1, 4096), "1 to 4096"),
        ("lr", _number(plan.lr) and 0 < plan.lr <= 10, "a number above 0, at most 10"),
        ("optimiser", plan.optimiser in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}"),
        ("class_balance", _number(plan.class_balance) and 0 <= plan.class_balance <= 1, "0 to 1"),
    ]
    for key, good, expected in rules:
        if not good:
            raise RecipeError(f"{where} {key} {getattr(plan, key)!r}; give {expected}")


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _all_whole(values: tuple[Any, ...], low: int, high: int) -> bool:
    return bool(values) and all(_whole(value, low, high) for value in values) and len(set(values)) == len(values)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_size(value: tuple[Any, ...], step: int) -> bool:
    return len(value) == 2 and all(_whole(side, 32, 4096) and side % step == 0 for side in value)


def _is_range(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and all(_number(end) for end in value) and 0 < value[0] <= value[1] <= 100
