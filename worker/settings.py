"""Every setting: type, default, meaning; what is wrong with one, in a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from worker import environment
from worker.jobs.errors import SettingsInvalid
from worker.plan.policy import PlanPolicy
from worker.runtime.service_urls import not_a_project, not_an_endpoint, without_host

PLACEHOLDERS = {
    "SUPABASE_URL": "http://unset.invalid",
    "SUPABASE_SERVICE_ROLE_KEY": "unset",
    "RUNPOD_API_KEY": "unset",
    "RUNPOD_ENDPOINT_ID": "unset",
}
RUNPOD_BASE = "https://api.runpod.ai/v2"
# RunPod keeps a result for half an hour: with rarer polls or sweeps, videos would be lost.
# The other bounds keep numbers within what Postgres and RunPod accept.
# The dearest GPU of 2026 costs about 0.0025 dollars a second. A price per hour is thousands of
# times that, so whatever is above this bound is one.
MOST_PER_SECOND = Decimal("0.05")
WEEK = 7 * 24 * 3600
# The migrations create these buckets; each kind has its own size limit and file types.
UPLOAD_BUCKETS: dict[Literal["image", "audio"], str] = {
    "image": "video-images",
    "audio": "video-audio",
}
MANY = 1_000_000
NameList = Annotated[tuple[str, ...], NoDecode]
SecretList = Annotated[tuple[SecretStr, ...], NoDecode]


class Settings(BaseSettings):
    """The daemon's settings; docs/settings.md is generated from the descriptions."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    supabase_url: str = Field(description="Your project's URL, like https://abc.supabase.co.")
    supabase_service_role_key: SecretStr = Field(
        description="The service_role JWT or an sb_secret_ key; never the anon key."
    )
    supabase_anon_key: str = Field(
        default="",
        description="The publishable or anon key; only `doctor --browser` uses it.",
    )
    runpod_api_key: SecretStr = Field(description="A RunPod API key with access to the endpoint.")
    runpod_endpoint_id: str = Field(default="", description="The Serverless endpoint's id.")
    runpod_endpoint_url: str = Field(
        default="", description="Instead of the id: https://api.runpod.ai/v2/ID."
    )
    public_url: str = Field(
        default="",
        description="URL at which RunPod reaches this worker; known on Fly. Empty: polling only.",
    )
    webhook_secret: SecretList = Field(
        default=(),
        description="Comma list; the first signs webhook URLs, all verify. Empty: no webhooks.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="A direct Postgres URL, only for `migrate`."
    )
    host: str = Field(default="0.0.0.0", description="The address the HTTP server binds.")
    port: int = Field(default=8080, ge=1, le=65535, description="The HTTP server's port.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log lines to print."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, else JSON."
    )
    sweep_seconds: float = Field(
        default=15,
        gt=0,
        le=300,
        description="Seconds between sweeps, which find rows that no event reported.",
    )
    poll_seconds: float = Field(
        default=30,
        gt=0,
        le=1200,
        description="Seconds between polls of a run that is queued or reports progress.",
    )
    slow_poll_seconds: float = Field(
        default=300,
        gt=0,
        le=1200,
        description="The same for started runs without progress, once a webhook has arrived.",
    )
    lease_seconds: float = Field(
        default=60, ge=5, le=3600, description="How long a claim is valid without renewal."
    )
    max_in_flight: int = Field(
        default=20,
        ge=1,
        le=MANY,
        description="Most open runs in total; unknown submissions do not count.",
    )
    max_queued_runs: int = Field(
        default=5,
        ge=1,
        le=MANY,
        description="Most of these that may wait at RunPod. Set it to the endpoint's max workers.",
    )
    max_preparing: int = Field(
        default=32,
        ge=1,
        le=MANY,
        description="Most jobs whose files are fetched and checked at a time.",
    )
    max_in_flight_per_user: int = Field(
        default=2, ge=1, le=MANY, description="Most open runs of one user_id."
    )
    max_submissions_per_user_per_day: int = Field(
        default=50,
        ge=1,
        le=MANY,
        description="Most submissions of one user_id within 24 hours, retries included.",
    )
    max_failed_preparations_per_user_per_hour: int = Field(
        default=10,
        ge=1,
        le=MANY,
        description="After so many jobs of one user_id whose files were refused within an hour, "
        "its others wait.",
    )
    max_rows_per_user_per_day: int = Field(
        default=200,
        ge=1,
        le=MANY,
        description="Most jobs that a browser's user may insert or retry within 24 hours.",
    )
    max_submissions: int = Field(
        default=3, ge=1, le=100, description="Most accepted or unknown submissions within one try."
    )
    retry_seconds: float = Field(
        default=15,
        gt=0,
        le=3600,
        description="Wait before the second submission of a try; doubles each time.",
    )
    result_patience_seconds: float = Field(
        default=60,
        ge=1,
        le=1200,
        description="How long to look for a missing run or video before it counts as lost.",
    )
    queue_deadline_seconds: float = Field(
        default=3600,
        gt=0,
        le=WEEK,
        description="How long a run may wait at RunPod while no other run starts.",
    )
    seconds_per_window: float = Field(
        default=156,
        gt=0,
        le=WEEK,
        description="GPU seconds per window at 1280x720 and 4 steps on your GPU.",
    )
    endpoint_exclusive: bool = Field(
        default=False,
        description="Only this project uses the endpoint, so /health counts as evidence.",
    )
    submit_unknown_wait_seconds: float | None = Field(
        default=None,
        gt=0,
        le=WEEK,
        description="When to give up an unknown submission; default: its ttl.",
    )
    max_audio_seconds: Decimal = Field(
        default=Decimal(60), gt=3, le=600, description="Longer audio is refused."
    )
    max_frames: int = Field(
        default=1089, ge=81, le=10809, description="Most frames of a video; counts are 81 + n x 72."
    )
    overlong_audio: Literal["trim", "reject"] = Field(
        default="trim", description="What to do with audio beyond MAX_FRAMES."
    )
    frame_alignment: Literal["guide", "template"] = Field(
        default="guide",
        description="guide: its 15 frame counts; template: the stride of the loaded template.",
    )
    size_policy: Literal["snap", "reject"] = Field(
        default="snap", description="What to do with sides that are not a multiple of 16."
    )
    max_pixels: int | None = Field(
        default=None, ge=480 * 480, description="Most pixels of a video frame."
    )
    max_image_pixels: int = Field(
        default=50_000_000, ge=10_000, description="Most pixels of an input image."
    )
    max_image_bytes: int = Field(
        default=10 * 1024 * 1024, ge=1024, description="Images must be smaller than this."
    )
    max_audio_bytes: int = Field(
        default=50 * 1024 * 1024, ge=1024, description="Audio must be smaller than this."
    )
    decoder_memory_mib: int = Field(
        default=640,
        ge=64,
        le=65_536,
        description="Most memory for decoding one file, in MiB. The machine needs 300 more.",
    )
    decoder_cpu_seconds: int = Field(
        default=10, ge=1, le=600, description="Most CPU seconds for decoding one file."
    )
    decoder_wall_seconds: float = Field(
        default=120,
        ge=1,
        le=3600,
        description="Most seconds for decoding one file; waiting for a decoder does not count.",
    )
    decoder_processes: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Most files to decode at a time, one of them a costly one. From 2 on, costly "
        "files delay only one another; more than cores, but at least 2, are never used.",
    )
    image_fit: Literal["cover", "contain", "blur"] = Field(
        default="cover",
        description="How to fit an image of another aspect ratio (not with PASS_ORIGINALS).",
    )
    audio_fit: Literal["trim", "pad", "reject"] = Field(
        default="trim",
        description="trim to the frame count, pad with silence (not with PASS_ORIGINALS) or "
        "reject.",
    )
    input_buckets: NameList = Field(
        default=(*UPLOAD_BUCKETS.values(), "inputs"),
        description="Comma list of buckets that rows may use with storage://; none: https:// only.",
    )
    input_allow_private_hosts: NameList = Field(
        default=(),
        description="Comma list of host:port that may be private and use http; for development.",
    )
    media_bucket: str = Field(
        default="video-prepared",
        description="Private bucket for prepared inputs, the files that RunPod gets.",
    )
    pass_originals: bool = Field(
        default=False,
        description="RunPod gets the rows' own addresses instead of prepared inputs: a host may "
        "send the GPU other bytes than were checked, HEIC and damaged audio are refused, nothing "
        "is fitted or padded.",
    )
    media_retention_hours: float = Field(
        default=24,
        ge=0,
        le=100_000,
        description="How long to keep prepared inputs of ended jobs, where removing them at once "
        "failed.",
    )
    upload_keep_days: int = Field(
        default=7,
        ge=0,
        le=10_000,
        description="Days after which uploads are removed that no job needs; 0: never. Only in "
        "buckets that the migrations created.",
    )
    workflow_path: str = Field(default="", description="Your own template. Empty: the shipped one.")
    workflow_deviations: NameList = Field(
        default=(),
        description="Comma list of node.input that may differ from the guide's pinned values.",
    )
    allow_knobs: NameList = Field(
        default=(), description="Comma list of model, lora, crf: what rows may set in metadata."
    )
    gpu_price_per_second: Decimal | None = Field(
        default=None,
        gt=0,
        description="US dollars per GPU second, like 0.00044 ($1.58 per hour / 3600); at most "
        "0.05. Empty: cost columns stay null.",
    )
    history_keep_days: int = Field(
        default=90,
        ge=2,
        le=10_000,
        description="How long to keep the timeline and ended submissions of deleted jobs.",
    )
    job_keep_days: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Days after which jobs that have ended are deleted; 0: never.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_others: PydanticBaseSettingsSource,
        **_more: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only what `load_settings` passes in, nothing else from the environment."""
        return (init_settings,)

    @field_validator(
        "webhook_secret",
        "input_buckets",
        "input_allow_private_hosts",
        "workflow_deviations",
        "allow_knobs",
        mode="before",
    )
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("input_buckets")
    @classmethod
    def _no_bucket(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return () if value == ("none",) else value

    @field_validator("supabase_url", "public_url", "runpod_endpoint_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (problem := without_host(value)):
            raise ValueError(problem)
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("must end with the host or a path: no user, no ?, no #")
        return value.rstrip("/")

    @field_validator("supabase_url")
    @classmethod
    def _of_a_project(cls, value: str) -> str:
        if problem := not_a_project(value):
            raise ValueError(problem)
        return value

    @field_validator("runpod_endpoint_url")
    @classmethod
    def _of_an_endpoint(cls, value: str) -> str:
        if problem := not_an_endpoint(value):
            raise ValueError(problem)
        return value

    @field_validator("supabase_service_role_key", "runpod_api_key")
    @classmethod
    def _one_word(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("must be ASCII without spaces; copy the whole key again")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _long_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < 16 for secret in value):
            raise ValueError(
                "each secret needs at least 16 characters; create one with `openssl rand -hex 32`"
            )
        return value

    @field_validator("gpu_price_per_second")
    @classmethod
    def _per_second(cls, value: Decimal | None) -> Decimal | None:
        if value is not None and value > MOST_PER_SECOND:
            raise ValueError(
                f"${value} per second would be ${value * 3600:,.0f} per hour. Give the price of a "
                f"second: ${value} per hour is {value / 3600:.6f}"
            )
        return value

    @property
    def plan_policy(self) -> PlanPolicy:
        """Return the settings that the plan depends on."""
        return PlanPolicy(
            max_audio_seconds=Fraction(self.max_audio_seconds),
            max_frames=self.max_frames,
            overlong_audio=self.overlong_audio,
            frame_alignment=self.frame_alignment,
            size_policy=self.size_policy,
            max_pixels=self.max_pixels,
            seconds_per_window=Fraction(str(self.seconds_per_window)),
            gpu_price_per_second=self.gpu_price_per_second,
            queue_deadline_seconds=ceil(self.queue_deadline_seconds),
            audio_fit=self.audio_fit,
            image_fit=self.image_fit,
            prepared=not self.pass_originals,
            open_knobs=frozenset(self.allow_knobs),
        )

    @property
    def prepared_bucket(self) -> str | None:
        """Return the bucket for prepared inputs, or None where originals are passed on."""
        return None if self.pass_originals else self.media_bucket

    def upload_bucket(self, kind: Literal["image", "audio"]) -> str | None:
        """Return where to upload an input of this kind so that rows may use it, if anywhere."""
        own = UPLOAD_BUCKETS[kind]
        others = [name for name in self.input_buckets if name not in UPLOAD_BUCKETS.values()]
        return own if own in self.input_buckets else next(iter(others), None)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return every secret value, so that output can be redacted."""
        secrets = (self.supabase_service_role_key, self.runpod_api_key, *self.webhook_secret)
        found = [secret.get_secret_value() for secret in secrets]
        if self.database_url is not None:
            found.append(self.database_url.get_secret_value())
        return tuple(found)

    @property
    def webhooks(self) -> bool:
        """Return whether runs are sent with a webhook URL."""
        return bool(self.public_url and self.webhook_secret)


def load_planning_settings(given: Mapping[str, str] | None = None) -> Settings:
    """Read settings for commands without an account; keys and URLs are placeholders."""
    env = environment.read() if given is None else given
    names = ("SUPABASE_", "RUNPOD_", "WEBHOOK_", "DATABASE_", "PUBLIC_")
    kept = {name: value for name, value in env.items() if not name.startswith(names)}
    unused = {"SUPABASE_URL": "http://unused", "RUNPOD_ENDPOINT_ID": "unused"}
    keys = {"SUPABASE_SERVICE_ROLE_KEY": "unused", "RUNPOD_API_KEY": "unused"}
    return load_settings(kept | unused | keys)


def load_table_settings(given: Mapping[str, str] | None = None) -> Settings:
    """Read only what commands on jobs need: Supabase's URL and key, and INPUT_BUCKETS."""
    env = environment.read() if given is None else given
    names = {"SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "INPUT_BUCKETS"}
    names |= set(environment.misspelt(env, names).values())
    kept = {name: env[name] for name in names if name in env}
    return load_settings(kept | {"RUNPOD_ENDPOINT_ID": "unused", "RUNPOD_API_KEY": "unused"})


def load_valid_settings(given: Mapping[str, str] | None = None) -> tuple[Settings, dict[str, str]]:
    """Return settings with defaults for what is invalid, and each problem by its name.

    A missing or invalid setting without a default gets a placeholder.
    """
    problems: dict[str, str] = {}
    try:
        env = dict(environment.read() if given is None else given)
    except SettingsInvalid as error:
        env = {}
        problems |= dict(_split(problem) for problem in error.problems)
    while True:
        try:
            return load_settings(env), problems
        except SettingsInvalid as error:
            found = dict(_split(problem) for problem in error.problems)
            if found.keys() <= problems.keys():
                raise
            wrong = environment.misspelt(env, _NAMES)
            for name, text in found.items():
                problems.setdefault(name, text)
                env.pop(wrong.get(name, ""), None)
                env[name] = PLACEHOLDERS.get(name, "")
                if name == "RUNPOD_ENDPOINT_ID":
                    env.pop("RUNPOD_ENDPOINT_URL", None)
                if name == "RUNPOD_ENDPOINT_URL" and not env.get("RUNPOD_ENDPOINT_ID"):
                    # The id came from the URL: one problem, one sentence.
                    env["RUNPOD_ENDPOINT_ID"] = PLACEHOLDERS["RUNPOD_ENDPOINT_ID"]
                if name == "PUBLIC_URL":
                    env.pop("FLY_APP_NAME", None)


def _contradictions(settings: Settings) -> list[str]:
    if settings.pass_originals and "media_bucket" in settings.model_fields_set:
        return [
            "PASS_ORIGINALS: is true, but MEDIA_BUCKET, which is for prepared inputs, is set. "
            "Remove one of them."
        ]
    return []


def _split(problem: str) -> tuple[str, str]:
    name, _, text = problem.partition(": ")
    return name, text


def database_url() -> str | None:
    """Return DATABASE_URL, the only setting that `migrate` needs."""
    return environment.read().get("DATABASE_URL", "").strip() or None


def load_settings(given: Mapping[str, str] | None = None) -> Settings:
    """Read the environment; SettingsInvalid has one line per problem and never a secret."""
    env = environment.read() if given is None else given
    values = {
        name: env[name.upper()].strip()
        for name in Settings.model_fields
        if env.get(name.upper(), "").strip()
    }
    if "public_url" not in values and env.get("FLY_APP_NAME"):
        values["public_url"] = f"https://{env['FLY_APP_NAME']}.fly.dev"
    wrong = environment.misspelt(env, _NAMES)
    problems = _agree_on_endpoint(values)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [_sentence(problem) for problem in error.errors()]
    else:
        problems += _contradictions(settings)
    # A misspelt name is the cause of a missing one: one problem, one sentence.
    problems = [problem for problem in problems if _split(problem)[0] not in wrong]
    problems += [
        f"{name}: is not set, but {other} is. Did you mean {name}?" for name, other in wrong.items()
    ]
    if problems:
        raise SettingsInvalid(problems)
    return settings


_NAMES = frozenset(name.upper() for name in Settings.model_fields)
_ACTION = re.compile(r"(?<=/)([A-Za-z0-9_-]+)/(?:run|runsync)/*$")


def _agree_on_endpoint(values: dict[str, Any]) -> list[str]:
    """Derive the endpoint's id from its URL or the reverse; return the problems found.

    The URL may be the one that requests are sent to: .../v2/ID/run or /runsync.
    """
    endpoint_id = values.get("runpod_endpoint_id", "").strip()
    url = values.get("runpod_endpoint_url", "").strip().rstrip("/")
    if not endpoint_id and not url:
        return ["RUNPOD_ENDPOINT_ID: is missing. Set it, or RUNPOD_ENDPOINT_URL."]
    action = _ACTION.search(urlsplit(url).path) if "://" in url else None
    # .../v2/run is an endpoint of that name.
    if action is not None and not re.fullmatch(r"v\d+", action[1]):
        url = url.removesuffix(url.rsplit("/", 1)[-1]).rstrip("/")
    from_url = url.rsplit("/", 1)[-1]
    if endpoint_id and url and from_url != endpoint_id:
        return [
            f"RUNPOD_ENDPOINT_ID: is {endpoint_id}, but RUNPOD_ENDPOINT_URL ends in {from_url}. "
            "Make them agree, or leave one out."
        ]
    values["runpod_endpoint_id"] = endpoint_id or from_url
    if not re.fullmatch(r"[A-Za-z0-9_-]+", values["runpod_endpoint_id"]):
        values.pop("runpod_endpoint_url", None)
        if "://" in endpoint_id:
            return ["RUNPOD_ENDPOINT_ID: is a URL; give the id alone, or set RUNPOD_ENDPOINT_URL."]
        name = "RUNPOD_ENDPOINT_ID: must" if endpoint_id else "RUNPOD_ENDPOINT_URL: its end must"
        return [f"{name} consist of letters, digits, - and _."]
    values["runpod_endpoint_url"] = url or f"{RUNPOD_BASE}/{endpoint_id}"
    return []


def _sentence(error: Any) -> str:
    name = str(error["loc"][0])
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        text = f"is missing. {Settings.model_fields[name].description}"
    return f"{name.upper()}: {text}"
