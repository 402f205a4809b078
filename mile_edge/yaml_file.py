"""YAML files that people write: whatever is wrong with one is said in one sentence."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from mile_edge.errors import MileError, RecipeError

MAX_BYTES = 1 << 20
MAX_NODES = 1 << 18
MAX_DEPTH = 32
MAX_REASON = 300

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def read_yaml(path: Path | str, what: str, error: type[MileError], remedy: str = "give a YAML file") -> Any:
    """What a YAML file holds.

    Args:
        what: what the file is, as its error's sentence begins, such as ``recipe``.
        error: what is raised.
        remedy: what to do where it cannot be read.

    Raises:
        MileError: of the type ``error``: no such file, no text, or no YAML.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        # Pure Python reads YAML 1.2 on every machine; the C reader, where it is installed, another dialect.
        values = YAML(typ="safe", pure=True).load(data)
        _check_extent(values)
    except Exception as problem:  # on damaged text its constructors raise whatever they stumble over
        raise error(f"{what} '{path}' cannot be read ({_reason(problem)}); {remedy}") from None
    return values


def _check_extent(values: Any) -> None:
    """Refuse what is small as a file and endless once its aliases are followed, before anything prints it."""
    sizes: dict[int, int] = {}

    def measure(value: Any, depth: int) -> int:
        if isinstance(value, int) and abs(value) >= 1 << 64:
            raise ValueError("it holds a number beyond 64 bits")
        if not isinstance(value, (dict, list, tuple, set)):
            return 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels, or an alias of itself")
        if id(value) not in sizes:
            children = [*value, *value.values()] if isinstance(value, dict) else list(value)
            sizes[id(value)] = 1 + sum(measure(child, depth + 1) for child in children)
        if sizes[id(value)] > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} values, aliases counted")
        return sizes[id(value)]

    measure(values, 0)


def read_settings(path: Path | str, recipe: type[DataclassInstance], examples: str) -> dict[str, Any]:
    """A recipe's settings: a mapping with no other keys than the fields of the dataclass ``recipe``.

    Args:
        examples: the folder to look at for what a recipe may hold.

    Raises:
        RecipeError: no such file, no YAML, no mapping, or an unknown key; the key is named.
    """
    settings = read_yaml(path, "recipe", RecipeError, "check the path and the file")
    return known_keys(settings, recipe, f"recipe '{path}'", f"see {examples} for examples")


def known_keys(settings: Any, recipe: type[DataclassInstance], where: str, hint: str) -> dict[str, Any]:
    """``settings`` itself, where it is a mapping with no other keys than the fields of the dataclass ``recipe``.

    Args:
        where: what the mapping is, as the error's sentence begins.
        hint: what to do where it is none.

    Raises:
        RecipeError: no mapping, or an unknown key; the key is named.
    """
    if not isinstance(settings, dict):
        raise RecipeError(f"{where} is not a mapping of settings; {hint}")
    known = sorted(each.name for each in fields(recipe))
    unknown = sorted(str(key) for key in settings if key not in known)
    if unknown:
        raise RecipeError(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(known)}")
    return settings


def _reason(problem: Exception) -> str:
    # The reader quotes what it stumbled over, however long that is.
    reason = _told(problem)
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 3] + "..."


def _told(problem: Exception) -> str:
    if isinstance(problem, RecursionError):
        return "nested too deeply"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    if isinstance(problem, MarkedYAMLError) and problem.problem_mark is not None:
        return f"line {problem.problem_mark.line + 1}: {problem.problem}".splitlines()[0]
    return (str(problem).splitlines() or [type(problem).__name__])[0]
