"""The quality tiers of the guide, and the values that a job may set instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One quality tier: the model, the LoRA and the number of steps; never the size."""

    model: str
    lora: str
    steps: int


TIERS: dict[str, Tier] = {
    "sd": Tier(model="Q4_0", lora="rank64", steps=4),
    "hd": Tier(model="Q5_0", lora="rank64", steps=4),
    "fullhd": Tier(model="Q5_0", lora="rank256", steps=6),
}
MODELS = ("Q4_0", "Q5_0", "Q6_K")
LORAS = ("rank64", "rank256")
STEPS_RANGE = (4, 6)
CRF_RANGE = (15, 23)
