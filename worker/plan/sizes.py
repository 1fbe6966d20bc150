"""Chooses the size that is rendered: the model knows only multiples of 16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.jobs.errors import JobFailed, Notice
from worker.plan.media_facts import ImageFacts

SHORTEST_SIDE = 480
LONGEST_SIDE = 1920
GRID = 16
PORTRAIT_HD = (720, 1280)
LANDSCAPE_HD = (1280, 720)
TESTED_SIZES = (PORTRAIT_HD, LANDSCAPE_HD, (480, 832), (832, 480))
_TESTED_PIXELS = frozenset(width * height for width, height in TESTED_SIZES)

SizePolicy = Literal["snap", "reject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizePlan:
    """The size that is rendered, in pixels, and what differs from the wish."""

    width: int
    height: int
    warnings: tuple[Notice, ...] = ()


def plan_size(
    width: object,
    height: object,
    *,
    image: ImageFacts | None = None,
    policy: SizePolicy = "snap",
    max_pixels: int | None = None,
) -> SizePlan:
    """Turn the wished size into one that renders; JobFailed `size_invalid` if that cannot be."""
    if width is None and height is None:
        wished = _from_image(image)
    elif width is None or height is None:
        raise JobFailed("size_invalid", "Give both width and height, or neither.")
    else:
        wished = _side(width, "width"), _side(height, "height")
    size = nearest_side(wished[0]), nearest_side(wished[1])
    if policy == "reject" and size != wished:
        raise JobFailed(
            "size_invalid",
            f"{wished[0]}x{wished[1]} cannot be rendered: both sides must be multiples of 16. "
            f"The nearest size is {size[0]}x{size[1]}.",
        )
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        size = _capped(size, max_pixels, policy)
    return SizePlan(width=size[0], height=size[1], warnings=_warnings(wished, size))


def nearest_side(side: int) -> int:
    """Return the nearest multiple of 16 (a tie goes down) from 480 to 1920."""
    below = side // GRID * GRID
    nearest = below + GRID if side - below > GRID // 2 else below
    return min(max(nearest, SHORTEST_SIDE), LONGEST_SIDE)


def _from_image(image: ImageFacts | None) -> tuple[int, int]:
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


def _capped(size: tuple[int, int], max_pixels: int, policy: SizePolicy) -> tuple[int, int]:
    width, height = size
    longer = max(size)
    for length in range(longer, SHORTEST_SIDE - 1, -GRID):
        candidate = nearest_side(width * length // longer), nearest_side(height * length // longer)
        if candidate[0] * candidate[1] > max_pixels:
            continue
        if policy == "reject":
            raise JobFailed(
                "size_invalid",
                f"{width}x{height} has more than the {max_pixels} pixels that this service "
                f"renders. The nearest size is {candidate[0]}x{candidate[1]}.",
            )
        return candidate
    raise JobFailed(
        "size_invalid",
        f"{width}x{height} has more than the {max_pixels} pixels that this service renders, and "
        f"no smaller size keeps both sides at {SHORTEST_SIDE} or more.",
    )


def _warnings(wished: tuple[int, int], size: tuple[int, int]) -> tuple[Notice, ...]:
    notices = []
    if size != wished:
        notices.append(
            Notice(
                "size_adjusted",
                f"The video is rendered at {size[0]}x{size[1]} instead of "
                f"{wished[0]}x{wished[1]}: the model knows only multiples of 16, within the "
                f"service's limit.",
            )
        )
    if size[0] * size[1] not in _TESTED_PIXELS:
        notices.append(
            Notice(
                "size_untested",
                f"{size[0]}x{size[1]} is outside the tested sizes (480x832, 832x480, 720x1280, "
                f"1280x720); time, memory and quality may differ from the plan.",
            )
        )
    return tuple(notices)
