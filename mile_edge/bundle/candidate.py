"""An expert on probation: its file is in the bundle, and no frame's mask comes from it yet."""

from __future__ import annotations

from dataclasses import dataclass

from mile_edge.bundle.strict_json import Fields, shown
from mile_edge.errors import RecipeError

MAX_FRAMES = 2**31 - 1


@dataclass(frozen=True)
class ShadowPlan:
    """How long an expert runs in shadow, and what it must show before it goes live.

    frames: how many frames are compared.
    every: one frame in this many is compared; each costs one more pass of the network, after its mask is out.
    min_agreement: least share of pixels, over the frames that the gate would have given it, on which its mask must be
        that of the live choice; 0 asks for nothing.
    max_picked: largest share of frames that the gate may have given it; 1 asks for nothing.

    Raises:
        RecipeError: a number is out of its range.
    """

    frames: int
    every: int = 10
    min_agreement: float = 0.0
    max_picked: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("frames", 1, MAX_FRAMES),
            ("every", 1, MAX_FRAMES),
            ("min_agreement", 0, 1),
            ("max_picked", 0, 1),
        ):
            value = getattr(self, name)
            kinds = (int,) if high == MAX_FRAMES else (int, float)
            if type(value) not in kinds or not low <= value <= high:
                raise RecipeError(f"{name} of a shadow run is {shown(value)}; give {low} to {high}")


@dataclass(frozen=True)
class Candidate:
    """The expert in shadow, as the manifest has it: as an `ExpertEntry`, with its plan."""

    name: str
    file: str
    sha256: str
    plan: ShadowPlan


def read_candidate(fields: Fields) -> Candidate:
    """The manifest's field `candidate`."""
    plan = fields.inner("plan")
    candidate = Candidate(
        fields.name("name"),
        fields.text("file"),
        fields.sha256("sha256"),
        ShadowPlan(
            plan.integer("frames", 1, MAX_FRAMES),
            plan.integer("every", 1, MAX_FRAMES),
            plan.number("min_agreement", 0, 1),
            plan.number("max_picked", 0, 1),
        ),
    )
    plan.finish()
    fields.finish()
    return candidate
