"""The rendered size is a multiple of 16 and close to the requested one."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plan.policies import GUIDE
from worker.jobs.errors import JobFailed
from worker.plan.media_facts import ImageFacts
from worker.plan.sizes import SizePlan, nearest_side, plan_size

EVEN = st.integers(240, 960).map(lambda half: 2 * half)


def picture(width: int, height: int) -> ImageFacts:
    """An upright image."""
    return ImageFacts(width=width, height=height, format="JPEG")


def planned(
    width: object, height: object, *, image: ImageFacts | None = None, **changes: Any
) -> SizePlan:
    """The size under the guide's policy, with some of its choices changed."""
    return plan_size(width, height, image=image, policy=replace(GUIDE, **changes))


@pytest.mark.parametrize("size", [(480, 832), (832, 480), (720, 1280), (1280, 720)])
def test_the_tested_sizes_pass_as_they_are(size: tuple[int, int]) -> None:
    """Nothing is adjusted."""
    plan = planned(*size)
    assert (plan.width, plan.height) == plan.requested == size


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (None, (720, 1280)),
        (picture(1000, 1000), (720, 1280)),
        (picture(3000, 4000), (720, 1280)),
        (picture(4000, 3000), (1280, 720)),
        (picture(1001, 1000), (1280, 720)),
    ],
)
def test_without_a_requested_size_the_image_decides(
    image: ImageFacts | None, size: tuple[int, int]
) -> None:
    """Portrait HD when in doubt."""
    plan = planned(None, None, image=image)
    assert (plan.width, plan.height) == size


@pytest.mark.parametrize(
    ("side", "nearest"),
    [(1080, 1072), (1082, 1088), (488, 480), (490, 496), (722, 720), (854, 848), (540, 544),
     (600, 592), (1000, 992), (1920, 1920), (0, 480), (9999, 1920)],
)  # fmt: skip
def test_the_nearest_side_is_a_multiple_of_16_and_a_tie_goes_down(side: int, nearest: int) -> None:
    """1080 is halfway between 1072 and 1088."""
    assert nearest_side(side) == nearest


def test_a_size_that_would_crash_is_snapped() -> None:
    """1920x1080 is the size that people ask for first."""
    assert planned(1920, 1080) == SizePlan(width=1920, height=1072, requested=(1920, 1080))


def test_the_policy_reject_names_the_nearest_size() -> None:
    """SIZE_POLICY=reject."""
    with pytest.raises(JobFailed, match="nearest size is 1920x1072") as refusal:
        planned(1920, 1080, size_policy="reject")
    assert refusal.value.code == "size_invalid"
    assert planned(1280, 720, size_policy="reject").width == 1280


@pytest.mark.parametrize(
    ("width", "height"),
    [(478, 720), (720, 1922), (721, 1280), (0, 0), (-720, 1280), (True, 720), ("720", 1280),
     (720.0, 1280), (None, 1280), (720, None), ([], {}), (10**30, 720)],
)  # fmt: skip
def test_what_is_no_size_is_refused(width: object, height: object) -> None:
    """Whatever a row holds."""
    with pytest.raises(JobFailed) as refusal:
        planned(width, height)
    assert refusal.value.code == "size_invalid"


def test_too_many_pixels_are_capped_in_the_same_shape() -> None:
    """MAX_PIXELS with the policy snap."""
    plan = planned(1920, 1088, max_pixels=1280 * 720)
    assert (plan.width, plan.height) == (1280, 720)


def test_too_many_pixels_are_refused_with_the_nearest_size() -> None:
    """MAX_PIXELS with the policy reject, and where no size fits."""
    with pytest.raises(JobFailed, match="nearest size is 1280x720"):
        planned(1920, 1088, size_policy="reject", max_pixels=1280 * 720)
    with pytest.raises(JobFailed, match="no smaller size"):
        planned(1280, 720, max_pixels=480 * 480 - 1)


@given(width=EVEN, height=EVEN)
def test_every_allowed_size_gets_one_close_by_that_can_be_rendered(width: int, height: int) -> None:
    """At most 8 pixels away."""
    plan = planned(width, height)
    for side, requested in ((plan.width, width), (plan.height, height)):
        assert side % 16 == 0
        assert 480 <= side <= 1920
        assert abs(side - requested) <= 8
    assert plan.requested == (width, height)


@given(width=EVEN, height=EVEN, most=st.integers(480 * 480, 2_000_000))
def test_a_capped_size_renders_and_keeps_the_cap(width: int, height: int, most: int) -> None:
    """For every cap that leaves the smallest size."""
    plan = planned(width, height, max_pixels=most)
    assert plan.width * plan.height <= most
    assert plan.width % 16 == plan.height % 16 == 0
    assert min(plan.width, plan.height) >= 480


@given(width=st.none() | st.booleans() | st.integers() | st.floats() | st.text(), height=EVEN)
def test_any_value_is_a_size_or_a_refusal(width: object, height: int) -> None:
    """Never another error."""
    with suppress(JobFailed):
        assert planned(width, height).width % 16 == 0
