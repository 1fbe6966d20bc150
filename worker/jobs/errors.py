"""Every error the worker knows, and the stable codes that a row may carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Who = Literal["user", "operator", "provider"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeInfo:
    """What a code means, who can fix it, whether a person's retry can help as it is, and how."""

    meaning: str
    fixed_by: Who
    retry_helps: bool
    advice: str


def _info(fixed_by: Who, retry_helps: bool, meaning: str, advice: str) -> CodeInfo:
    return CodeInfo(meaning=meaning, fixed_by=fixed_by, retry_helps=retry_helps, advice=advice)


CODES: dict[str, CodeInfo] = {
    "image_missing": _info(
        "user", False, "The job names no image.", "Set image_url and retry the job."
    ),
    "image_unreachable": _info(
        "user",
        True,
        "The image could not be fetched from its address.",
        "Open the address in a private browser window; use a public or storage:// address.",
    ),
    "image_unreadable": _info(
        "user",
        False,
        "The file is not an image that can be decoded.",
        "Save the picture again as JPEG, PNG, WebP or HEIC.",
    ),
    "image_too_large": _info(
        "user",
        False,
        "The image has too many bytes or too many pixels.",
        "Send a smaller picture: below 10 MiB and below the pixel limit.",
    ),
    "image_too_complex": _info(
        "user",
        False,
        "Decoding the image takes more memory or time than permitted.",
        "Save the picture again as an ordinary JPEG or PNG, or make it smaller.",
    ),
    "audio_missing": _info(
        "user", False, "The job names no audio.", "Set audio_url and retry the job."
    ),
    "audio_unreachable": _info(
        "user",
        True,
        "The audio could not be fetched from its address.",
        "Open the address in a private browser window; use a public or storage:// address.",
    ),
    "audio_unreadable": _info(
        "user",
        False,
        "The file holds no sound that can be decoded.",
        "Save the recording again as MP3, WAV, M4A or OGG.",
    ),
    "audio_truncated": _info(
        "user",
        False,
        "The audio file is not complete: its end, or the index of its sound, is missing.",
        "The recording or the upload broke off: upload the whole file again.",
    ),
    "audio_too_short": _info(
        "user",
        False,
        "The audio is shorter than the shortest video, 3.24 s (81 frames).",
        "Send a longer recording.",
    ),
    "audio_too_long": _info(
        "user",
        False,
        "The audio is longer than this service accepts.",
        "Shorten the recording or split it into several jobs.",
    ),
    "audio_too_large": _info(
        "user",
        False,
        "The audio file has too many bytes.",
        "Send a compressed file below 50 MiB.",
    ),
    "audio_too_complex": _info(
        "user",
        False,
        "Decoding the audio takes more memory or time than permitted.",
        "Save the recording again as MP3, WAV or M4A in 48 kHz stereo.",
    ),
    "audio_not_aligned": _info(
        "user",
        False,
        "The audio does not have exactly the length of a permitted frame count, "
        "and the operator chose to refuse instead of cutting.",
        "Cut or extend the recording to the length named in the message.",
    ),
    "input_forbidden": _info(
        "user",
        False,
        "The address may not be used: private network, foreign bucket or another user's folder.",
        "Use a public https address, or a storage:// path inside your own folder.",
    ),
    "size_invalid": _info(
        "user",
        False,
        "Width or height is not a size that can be rendered.",
        "Use even sides from 480 to 1920, or leave both empty.",
    ),
    "quality_invalid": _info(
        "user", False, "The quality tier is unknown.", "Use sd, hd or fullhd."
    ),
    "seed_invalid": _info(
        "user",
        False,
        "The seed is not a whole number from 0 to 999999.",
        "Use 0 or nothing for a random seed, or a number up to 999999.",
    ),
    "steps_invalid": _info(
        "user",
        False,
        "The number of steps is not 4, 5 or 6.",
        "Use 4, 5 or 6, or leave it empty for the tier's own.",
    ),
    "prompt_invalid": _info(
        "user",
        False,
        "A prompt is not text or is too long.",
        "Shorten the prompt; what stands in the message is the limit.",
    ),
    "knob_invalid": _info(
        "user",
        False,
        "The job's metadata sets an open knob (model, lora, crf) to a value outside its list.",
        "Use one of the values in the message, or leave the knob out.",
    ),
    "run_refused": _info(
        "operator",
        False,
        "RunPod refused the request.",
        "The message holds RunPod's answer; check the endpoint and its template.",
    ),
    "run_failed": _info(
        "operator",
        False,
        "The run ended with an error on the GPU worker.",
        "Read the message and the endpoint's log; retry once if it names memory or a lost GPU.",
    ),
    "run_timed_out": _info(
        "operator",
        False,
        "The run was stopped by its time limit. A failing ComfyUI node also ends like this, "
        "because the endpoint's handler then waits forever.",
        "Read the endpoint's log; raise SECONDS_PER_WINDOW if the GPU is slower than planned.",
    ),
    "run_lost": _info(
        "provider",
        True,
        "RunPod lost the run, or its GPU worker stopped answering.",
        "Retry the job; look at the endpoint's workers if it happens again.",
    ),
    "run_cancelled": _info(
        "operator",
        False,
        "The run was cancelled at RunPod by somebody else than this service.",
        "Retry the job if that was not meant.",
    ),
    "result_missing": _info(
        "provider",
        True,
        "The run completed but names no video.",
        "Check the endpoint's storage settings; retry the job.",
    ),
    "input_download_failed": _info(
        "provider",
        True,
        "The GPU worker could not download an input that this service could read.",
        "Retry once: the addresses are then made anew. Check that they are public and last.",
    ),
    "output_upload_failed": _info(
        "operator",
        False,
        "The video was made but the GPU worker could not upload it.",
        "Set the R2 variables on the RunPod endpoint (R2_ENDPOINT_URL and the others).",
    ),
    "model_not_on_endpoint": _info(
        "operator",
        False,
        "The endpoint's ComfyUI does not know a model or a node that the workflow names.",
        "Install the files listed in workflows/README.md on the endpoint.",
    ),
    "queue_timeout": _info(
        "provider",
        True,
        "No GPU worker took the run in time; it was cancelled before it started.",
        "Retry later; raise the endpoint's max workers or choose more GPU types.",
    ),
    "too_many_submissions": _info(
        "operator",
        True,
        "The job was submitted as often as permitted and never came to an end.",
        "Find the reason in the attempts, then retry the job.",
    ),
    "too_many_crashes": _info(
        "operator",
        True,
        "The worker stopped several times while it held this job.",
        "Look into the worker's log for this job's id, then retry the job.",
    ),
    "quota_exceeded": _info(
        "user",
        True,
        "The user has used up the permitted number of renders.",
        "Wait until the day is over (UTC), or let the operator raise the quota.",
    ),
    "internal_error": _info(
        "operator",
        True,
        "The worker met an error that it does not know.",
        "Look into the worker's log for this job's id and report it.",
    ),
}


class WorkerError(Exception):
    """An error of this service, with a stable code and a message for people."""

    code: str = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class JobFailed(WorkerError):
    """The job can never succeed as it is: its row ends as failed with this code."""

    def __init__(self, code: str, message: str) -> None:
        if code not in CODES:
            raise ValueError(f"unknown error code: {code}")
        super().__init__(message, code=code)


class TransientError(WorkerError):
    """Nothing is wrong with the job; wait (`retry_in` seconds if known) and try again."""

    code = "unavailable"

    def __init__(
        self, message: str, *, retry_in: float | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_in = retry_in


class StoreUnavailable(TransientError):
    """Supabase is away or answered with a server error."""

    code = "store_unavailable"


class BucketUnusable(StoreUnavailable):
    """A bucket is missing, or does not take what we store: the operator's to repair."""

    code = "bucket_unusable"


class StoreRefused(WorkerError):
    """The database refused one write by a rule of its own; sending it again cannot help."""

    code = "store_refused"


class InputUnavailable(TransientError):
    """An input's host did not answer properly; `code` is what the job ends with if it stays so.

    `seconds` is how long the job's files were being fetched.
    """

    def __init__(
        self, code: str, message: str, *, retry_in: float | None = None, seconds: float = 0.0
    ) -> None:
        if code not in CODES:
            raise ValueError(f"unknown error code: {code}")
        super().__init__(message, retry_in=retry_in, code=code)
        self.seconds = seconds


class DecoderUnavailable(TransientError):
    """This machine cannot start a process that decodes media, or open a file for it."""

    code = "decoder_unavailable"


class DecodersBusy(TransientError):
    """Too many files that are costly to decode wait already."""

    code = "decoders_busy"


class RunPodUnavailable(TransientError):
    """RunPod did not answer, or answered 5xx, to a request that has not started a run."""

    code = "runpod_unavailable"

    def __init__(
        self,
        status: int | None = None,
        message: str = "RunPod does not answer.",
        *,
        retry_in: float | None = None,
    ) -> None:
        super().__init__(message, retry_in=retry_in)
        self.status = status


class RunPodRateLimited(TransientError):
    """RunPod answered 429: the request was not taken."""

    code = "runpod_rate_limited"

    def __init__(
        self, retry_in: float | None = None, message: str = "RunPod asks for fewer requests."
    ) -> None:
        super().__init__(message, retry_in=retry_in)


class OperatorFault(WorkerError):
    """RunPod answered 401, 402, 403 or 404: the account or endpoint is at fault, jobs wait."""

    code = "operator_fault"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RunRefused(WorkerError):
    """RunPod refused this one request (another 4xx), so that no run exists."""

    code = "run_refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SubmissionUnknown(WorkerError):
    """The request may have been accepted: never send it again blindly."""

    code = "submission_unknown"


class RunGone(WorkerError):
    """RunPod does not know the run (any more)."""

    code = "run_gone"

    def __init__(self, message: str = "RunPod does not know this run any more.") -> None:
        super().__init__(message)


class ProblemsFound(WorkerError):
    """Several things are wrong at once; each has its own sentence in `problems`."""

    code = "problems_found"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class WorkflowInvalid(ProblemsFound):
    """The workflow template must not be used; the problems say why."""

    code = "workflow_invalid"


class SettingsInvalid(ProblemsFound):
    """The settings do not allow a start; the problems say why."""

    code = "settings_invalid"
