"""Chooses the size that is rendered: the model renders multiples of 16 only."""

from __future__ import annotations

from dataclasses import dataclass

from worker.jobs.errors import JobFailed
from worker.plan.media_facts import ImageFacts
from worker.plan.policy import PlanPolicy

SHORTEST_SIDE = 480
LONGEST_SIDE = 1920
GRID = 16
PORTRAIT_HD = (720, 1280)
LANDSCAPE_HD = (1280, 720)
Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizePlan:
    """The size that is rendered and the size that was requested, in pixels."""

    width: int
    height: int
    requested: Size


def plan_size(
    width: object, height: object, *, image: ImageFacts | None, policy: PlanPolicy
) -> SizePlan:
    """Return the requested size as one that can be rendered; raise JobFailed `size_invalid`.

    Without a requested size the image decides between portrait and landscape.
    """
    if width is None and height is None:
        requested = _from_image(image)
    elif width is None or height is None:
        raise JobFailed("size_invalid", "Give both width and height, or neither.")
    else:
        requested = _side(width, "width"), _side(height, "height")
    size = nearest_side(requested[0]), nearest_side(requested[1])
    if policy.size_policy == "reject" and size != requested:
        raise JobFailed(
            "size_invalid",
            f"{_text(requested)} cannot be rendered: both sides must be multiples of {GRID}. "
            f"The nearest size is {_text(size)}.",
        )
    if policy.max_pixels is not None and size[0] * size[1] > policy.max_pixels:
        size = _capped(size, policy.max_pixels)
        if policy.size_policy == "reject":
            raise JobFailed(
                "size_invalid",
                f"{_text(requested)} has more than the {policy.max_pixels} pixels that this "
                f"service renders. The nearest size is {_text(size)}.",
            )
    return SizePlan(width=size[0], height=size[1], requested=requested)


def nearest_side(side: int) -> int:
    """Return the nearest multiple of 16 (a tie goes down) from 480 to 1920."""
    below = side // GRID * GRID
    nearest = below + GRID if side - below > GRID // 2 else below
    return min(max(nearest, SHORTEST_SIDE), LONGEST_SIDE)


def _from_image(image: ImageFacts | None) -> Size:
    return LANDSCAPE_HD if image is not None and image.width > image.height else PORTRAIT_HD


def _side(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise JobFailed("size_invalid", f"The {name} must be a whole number of pixels.")
    if value % 2 or not SHORTEST_SIDE <= value <= LONGEST_SIDE:
        nearest = nearest_side(value)
        raise JobFailed(
            "size_invalid",
            f"The {name} must be an even number from {SHORTEST_SIDE} to {LONGEST_SIDE}. "
            f"The nearest that can be rendered is {nearest}.",
        )
    return value


def _capped(size: Size, max_pixels: int) -> Size:
    """Return the largest size of the same shape within `max_pixels`."""
    width, height = size
    longer = max(size)
    for length in range(longer, SHORTEST_SIDE - 1, -GRID):
        capped = nearest_side(width * length // longer), nearest_side(height * length // longer)
        if capped[0] * capped[1] <= max_pixels:
            return capped
    raise JobFailed(
        "size_invalid",
        f"{_text(size)} has more than the {max_pixels} pixels that this service renders, and no "
        f"smaller size keeps both sides at {SHORTEST_SIDE} or more.",
    )


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
