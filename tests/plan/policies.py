"""The plan policy that tests start from: the guide's choices, without a price."""

from dataclasses import replace
from fractions import Fraction

from worker.plan.policy import PlanPolicy

GUIDE = PlanPolicy(
    max_audio_seconds=Fraction(60),
    max_frames=1089,
    overlong_audio="trim",
    frame_alignment="guide",
    size_policy="snap",
    max_pixels=None,
    seconds_per_window=Fraction(156),
    gpu_price_per_second=None,
    queue_deadline_seconds=3600,
    audio_fit="trim",
    image_fit="cover",
    prepared=False,
    open_knobs=frozenset(),
)
PREPARED = replace(GUIDE, prepared=True)
"""The same where inputs are prepared."""
