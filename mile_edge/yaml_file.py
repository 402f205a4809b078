"""YAML files that people write: whatever is wrong with one is said in one sentence."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from mile_edge.errors import MileError, RecipeError

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
        # Pure Python reads YAML 1.2 on every machine; the C reader, where it is installed, another dialect.
        return YAML(typ="safe", pure=True).load(Path(path))
    except (OSError, YAMLError, ValueError, RecursionError) as problem:
        raise error(f"{what} '{path}' cannot be read ({_reason(problem)}); {remedy}") from None


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
    if isinstance(problem, RecursionError):
        return "nested too deeply"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    if isinstance(problem, MarkedYAMLError) and problem.problem_mark is not None:
        return f"line {problem.problem_mark.line + 1}: {problem.problem}".splitlines()[0]
    return (str(problem).splitlines() or [type(problem).__name__])[0]
