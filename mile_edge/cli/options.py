"""Values that several commands take."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mile_edge.errors import DataError, RecipeError

if TYPE_CHECKING:
    from mile_edge.bundle import Bundle
    from mile_edge.data.folder import FolderDataset


# More frames than any disk holds; what counts them counts in 64 bits.
MANY = 10**12


def image_size(text: str) -> tuple[int, int]:
    """``HxW`` as (height, width), each 32 to 65535 pixels."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts) or max(map(len, parts)) > 5:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no size; give height x width, such as 240x320")
    if not 32 <= min(map(int, parts)) <= max(map(int, parts)) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give sides of 32 to 65535 pixels, such as 240x320")
    return int(parts[0]), int(parts[1])


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def check_expert_name(name: str, bundle: Bundle) -> None:
    """Refuse the name of a new expert before anything is computed for it.

    Raises:
        DataError: no expert can have it, or it is what the base itself goes by.
    """
    from mile_edge.bundle.strict_json import NAME

    if not NAME.fullmatch(name):
        raise DataError(f"--name is {name!r}; use lower-case letters, digits, - and _ (at most 64)")
    if name == bundle.manifest.experts[0].name:
        raise DataError(f"--name {name} is like the bundle's base; choose another")


def check_range(args: argparse.Namespace, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Hold options against their least and greatest values; one that was not given is not held.

    Raises:
        RecipeError: one is beyond them, or no number.
    """
    for option, (low, high) in bounds.items():
        value = getattr(args, option)
        # NaN is within no bounds.
        if value is not None and not low <= value <= high:
            raise RecipeError(f"--{option.replace('_', '-')} is {value}; give {low} to {high}")


def belong_to(args: argparse.Namespace, asked: bool, mode: str, defaults: Mapping[str, Any]) -> None:
    """Give the options of a mode their defaults, where they are None, and refuse them without it.

    Args:
        args: changed in place.
        asked: the mode was asked for.
        mode: how a message names it.
        defaults: option to what it is where it was not given.

    Raises:
        RecipeError: one was given that would do nothing.
    """
    for option, default in defaults.items():
        if getattr(args, option) is None:
            setattr(args, option, default)
        elif not asked:
            told = f"--{option.replace('_', '-')}"
            raise RecipeError(f"{told} does nothing without {mode}; give that too, or leave {told} out")


def name_domains(folders: Sequence[FolderDataset], domains: Sequence[str]) -> None:
    """Overrule what folders say their domain is, one name for each, in order; no names leave them as they are.

    Raises:
        DataError: there are more or fewer names than folders.
    """
    if domains and len(domains) != len(folders):
        raise DataError(f"--domain names {len(domains)} domains for {len(folders)} folders; give one for each")
    for folder, domain in zip(folders, domains, strict=False):
        folder.domain = domain
