"""What the settings mean for each part: its limits and policies, and the workflow template."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from worker.housekeeping import Retention
from worker.jobs.errors import WorkflowInvalid
from worker.jobs.retry import LifecyclePolicy
from worker.jobs.waiting import UserLimits
from worker.media.decoder_process import DecoderLimits
from worker.media.inputs import InputPolicy
from worker.ports import ClaimLimits
from worker.runtime.data_files import node_contracts, workflow_file
from worker.settings import Settings
from worker.workflow.validation import Template, load_template

LARGEST_TEMPLATE = 4 * 1024 * 1024


def read_template(
    settings: Settings, path: Path | None = None, *, allow: Iterable[str] = ()
) -> Template:
    """Read and check a template, by default the settings' own; WorkflowInvalid lists problems."""
    path = path or workflow_file(settings.workflow_path)
    try:
        if path.stat().st_size > LARGEST_TEMPLATE:
            raise WorkflowInvalid([f"{path} is too large for a workflow."])
        data = path.read_bytes()
    except OSError as error:
        raise WorkflowInvalid([f"{path} cannot be read: {error.strerror}."]) from error
    deviations = [*settings.workflow_deviations, *allow]
    return load_template(data, node_contracts(), deviations=deviations)


def input_policy(settings: Settings) -> InputPolicy:
    """What inputs may be, and where they are handed on."""
    return InputPolicy(
        max_image_bytes=settings.max_image_bytes,
        max_audio_bytes=settings.max_audio_bytes,
        max_image_pixels=settings.max_image_pixels,
        input_buckets=frozenset(settings.input_buckets),
        media_bucket=settings.prepared_bucket,
        image_fit=settings.image_fit,
        max_audio_seconds=Fraction(settings.max_audio_seconds),
        # Preparation has its own places: a second line here would not be fair.
        max_open=settings.max_preparing,
    )


def decoder_limits(settings: Settings) -> DecoderLimits:
    """What decoding one file may cost."""
    return DecoderLimits(
        memory_mib=settings.decoder_memory_mib,
        cpu_seconds=settings.decoder_cpu_seconds,
        wall_seconds=settings.decoder_wall_seconds,
        processes=settings.decoder_processes,
    )


def retention(settings: Settings) -> Retention:
    """How long things are kept."""
    return Retention(
        history_days=settings.history_keep_days,
        job_days=settings.job_keep_days,
        upload_days=settings.upload_keep_days,
        media_bucket=settings.media_bucket,
        media_hours=settings.media_retention_hours,
        prepared_bucket=settings.prepared_bucket,
    )


def own_addresses(settings: Settings) -> tuple[str, ...]:
    """How the URLs of our own Storage begin."""
    return ("storage://", f"{settings.supabase_url}/")


def claim_limits(settings: Settings) -> ClaimLimits:
    """How much may be under way at once."""
    return ClaimLimits(
        max_in_flight=settings.max_in_flight,
        max_queued_runs=settings.max_queued_runs,
        max_preparing=settings.max_preparing,
    )


def user_limits(settings: Settings) -> UserLimits:
    """What one user may have."""
    return UserLimits(
        max_in_flight_per_user=settings.max_in_flight_per_user,
        max_submissions_per_user_per_day=settings.max_submissions_per_user_per_day,
        max_failed_preparations_per_user_per_hour=settings.max_failed_preparations_per_user_per_hour,
        max_rows_per_user_per_day=settings.max_rows_per_user_per_day,
    )


def lifecycle_policy(settings: Settings) -> LifecyclePolicy:
    """How patient the worker is with runs, and how often it polls them."""
    return LifecyclePolicy(
        max_submissions=settings.max_submissions,
        queue_deadline=settings.queue_deadline_seconds,
        poll=settings.poll_seconds,
        slow_poll=max(settings.slow_poll_seconds, settings.poll_seconds),
        soon=min(5.0, settings.poll_seconds),
        patience=settings.result_patience_seconds,
        unknown_wait=settings.submit_unknown_wait_seconds,
        retry_first=settings.retry_seconds,
        gpu_price_per_second=settings.gpu_price_per_second,
    )
