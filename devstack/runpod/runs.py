"""One run at the stand-in: its request, its history, and its form in /status."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

Json = dict[str, object]

DAY_MS: Final = 86_400_000
POLICY_LIMITS_MS: Final = {"executionTimeout": (5_000, 7 * DAY_MS), "ttl": (10_000, 7 * DAY_MS)}


class Missing:
    """Marks a missing output, which differs from an output of null."""


MISSING: Final = Missing()


class State(StrEnum):
    """RunPod's names for the states of a run."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def terminal(self) -> bool:
        """Return whether a run in this state has ended."""
        return self not in (State.IN_QUEUE, State.IN_PROGRESS)


class Refused(Exception):
    """The service does not accept this body of POST /run (400)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The accepted parts of a POST /run body; unknown top-level keys are dropped."""

    input: Json
    webhook: str | None
    policy: Json
    execution_timeout_seconds: float
    ttl_seconds: float

    @classmethod
    def from_body(cls, body: object) -> "Request":
        """Check a decoded body; raise Refused if it is invalid."""
        if not isinstance(body, Mapping):
            raise Refused("body must be a JSON object")
        wanted = body.get("input")
        if not isinstance(wanted, dict):
            raise Refused("input must be a JSON object")
        if not wanted:
            raise Refused("input must not be empty")
        webhook = body.get("webhook")
        if webhook is not None and not (
            isinstance(webhook, str) and webhook.startswith(("http://", "https://"))
        ):
            raise Refused("webhook must be a URL")
        policy = {} if body.get("policy") is None else body["policy"]
        if not isinstance(policy, dict):
            raise Refused("policy must be a JSON object")
        return cls(
            input=wanted,
            webhook=webhook,
            policy=policy,
            execution_timeout_seconds=_policy_seconds(policy, "executionTimeout", 600_000),
            ttl_seconds=_policy_seconds(policy, "ttl", DAY_MS),
        )


def _policy_seconds(policy: Json, name: str, default_ms: int) -> float:
    value = policy.get(name)
    if value is None or value == 0:
        return default_ms / 1000
    low, high = POLICY_LIMITS_MS[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refused(f"policy.{name} must be whole milliseconds from {low} to {high}")
    return value / 1000


@dataclass(slots=True, kw_only=True)
class Run:
    """A run and its history; times are seconds of the stand-in's clock."""

    id: str
    number: int
    request: Request
    submitted_at: float
    submitted_wall: str
    state: State = State.IN_QUEUE
    queued_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    worker_id: str | None = None
    output: object = MISSING
    error: object = None
    retries: int = 0
    takes: int = 0
    gone: str | None = None
    stream: list[object] = field(default_factory=list)
    webhooks: list[Json] = field(default_factory=list)

    def status(self, now: float) -> Json:
        """Return the body of GET /status/{id}."""
        body: Json = {"id": self.id, "status": str(self.state)}
        if self.started_at is not None:
            body["delayTime"] = _ms(self.started_at - self.submitted_at)
            body["executionTime"] = _ms((self.ended_at or now) - self.started_at)
        if self.output is not MISSING:
            body["output"] = self.output
        if self.error is not None:
            body["error"] = self.error
        if self.worker_id is not None:
            body["workerId"] = self.worker_id
        if self.retries:
            body["retries"] = self.retries
        return body

    def record(self, now: float, *, brief: bool = False) -> Json:
        """Return everything that the control API shows; `brief` leaves out the graph."""
        wanted = dict(self.request.input)
        if brief:
            wanted.pop("workflow", None)
        return {
            **self.status(now),
            "number": self.number,
            "input": wanted,
            "policy": self.request.policy,
            "webhook": self.request.webhook,
            "submitted": self.submitted_wall,
            "age_seconds": round(now - self.submitted_at, 3),
            "takes": self.takes,
            "gone": self.gone,
            "webhooks": self.webhooks,
        }


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
