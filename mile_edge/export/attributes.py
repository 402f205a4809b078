"""How like each other attributes are, from the vectors that a text encoder gave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mile_edge.errors import RecipeError


def similarity_of(names: tuple[str, ...], vectors: str | None) -> tuple[tuple[float, ...], ...]:
    """The cosines among attributes' vectors, (M, M); empty where there are no vectors.

    Args:
        names: the M attributes.
        vectors: a ``.npy`` file of shape (M, T), in the order of the names.

    Raises:
        RecipeError: the file cannot be read, or holds something else.
    """
    if vectors is None:
        return ()
    where = f"attribute_vectors {vectors}"
    try:
        found = np.load(Path(vectors), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where} cannot be read ({error}); give a .npy file") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or len(found) != len(names):
        shape = getattr(found, "shape", "of several arrays")
        raise RecipeError(f"{where} has shape {shape}; give one vector for each of {len(names)} attributes")
    if found.dtype.kind != "f" or not np.isfinite(found).all() or not (found != 0).any(axis=1).all():
        raise RecipeError(f"{where} holds other than finite vectors that are not zero; encode the names again")
    exact = found.astype(np.float64)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return tuple(tuple(round(float(value), 6) for value in row) for row in unit @ unit.T)
