"""Options of the RunPod stand-in, set at start or later through its control API."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


class OptionsInvalid(Exception):
    """A control request has an unknown option or an invalid value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Behaviour of the stand-in; each probability is drawn per run from `seed`."""

    # Time, in seconds unless named otherwise.
    retention_seconds: float = 1800.0
    cold_start_seconds: float = 0.0
    idle_timeout_seconds: float = 5.0
    worker_lost_seconds: float = 35.0
    # Shortens executionTimeout and ttl for tests.
    policy_scale: float = 1.0

    # "mp4": worker processes render a preview; "none": the stand-in simulates the workers.
    render: str = "mp4"
    no_workers: bool = False
    # How many runs may be in progress at once with render="none".
    simulated_workers: int = 1000
    run_seconds_min: float = 0.0
    run_seconds_max: float = 0.0
    report_progress: bool = True

    # Faults inside a run.
    hang: float = 0.0
    fail_text: str | None = None
    fail_probability: float = 1.0
    lose_worker: float = 0.0
    lose_run: float = 0.0
    lose_output: float = 0.0
    refuse_results: bool = False

    # Webhooks.
    webhook_interval_seconds: float = 10.0
    webhook_timeout_seconds: float = 10.0
    webhook_lost: float = 0.0
    webhook_twice: float = 0.0
    webhook_late: float = 0.0
    webhook_late_seconds: float = 5.0
    webhook_forged: float = 0.0
    webhook_on_cancel: bool = True

    rate_limits: bool = False
    seed: int = 0

    def changed(self, wanted: Mapping[str, object]) -> "Options":
        """Return a copy with the given values; raise OptionsInvalid for the first bad one."""
        known = {field.name for field in fields(self)}
        clean: dict[str, object] = {}
        for name, value in wanted.items():
            if name not in known:
                raise OptionsInvalid(f"unknown option {name}; known: {', '.join(sorted(known))}")
            clean[name] = _checked(name, value, getattr(self, name))
        return replace(self, **clean)  # type: ignore[arg-type]  # checked above, by name


def _checked(name: str, value: object, present: object) -> object:
    if name == "fail_text":
        if value is None or isinstance(value, str):
            return value
        raise OptionsInvalid("fail_text must be a text or null")
    if name == "render":
        if value in ("mp4", "none"):
            return value
        raise OptionsInvalid('render must be "mp4" or "none"')
    if isinstance(present, bool):
        if isinstance(value, bool):
            return value
        raise OptionsInvalid(f"{name} must be true or false")
    if not isinstance(value, int | float) or value < 0:
        raise OptionsInvalid(f"{name} must be a number of at least 0")
    return int(value) if isinstance(present, int) else float(value)
