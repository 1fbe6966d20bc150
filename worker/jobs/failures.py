"""Says why a run ended without a video, in a stable code and in words for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker.jobs.errors import CODES
from worker.jobs.run import RunState, RunUpdate, reason_of
from worker.jobs.text import one_line

_OTHER_SCRIPT = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a run failed; `resend`: another submission may help though nobody changes anything."""

    code: str
    message: str
    resend: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    code: str
    resend: bool
    message: str


def _rule(pattern: str, code: str, resend: bool, message: str) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE | re.DOTALL), code, resend, message)


# Order matters: the first that matches decides. The Chinese texts are the endpoint handler's own.
_RULES: Sequence[_Rule] = (
    _rule(
        r"execution\s*timeout\s+exceeded",
        "run_timed_out",
        False,
        "The run was stopped at its time limit. Either the GPU is slower than planned (the "
        "operator raises SECONDS_PER_WINDOW), or a ComfyUI node failed and the endpoint's "
        "handler waited forever (the endpoint's log names the node).",
    ),
    _rule(
        r"job timed out after \d+ retr",
        "run_lost",
        True,
        "RunPod lost the GPU worker that had this run, and so did its own second try. "
        "Nothing is wrong with the job.",
    ),
    _rule(
        r"下载(?:图片|音频)|(?:download|fetch)\w*\s.{0,40}(?:image|audio|url)|"
        r"(?:image|audio)\s.{0,40}download",
        "input_download_failed",
        True,
        "The GPU worker could not download the image or the audio, though this service could. "
        "Fresh addresses help if the old ones had expired; otherwise the user checks that both "
        "files are public.",
    ),
    _rule(
        r"value not in list|value_not_in_list",
        "model_not_on_endpoint",
        False,
        "The endpoint's ComfyUI does not have a model or an option that the workflow names. The "
        "operator installs the files listed in workflows/README.md on the endpoint.",
    ),
    _rule(
        r"node\b.{0,80}\b(?:does not exist|not found)|missing_node_type|invalid_prompt.{0,80}class",
        "model_not_on_endpoint",
        False,
        "The endpoint's ComfyUI lacks a node that the workflow names. The operator installs the "
        "node packs listed in workflows/README.md on the endpoint.",
    ),
    _rule(
        r"sage\s?_?att.{0,80}(?:not (?:available|installed|supported)|no module|cannot|failed)|"
        r"no module named.{0,10}sageatt",
        "model_not_on_endpoint",
        False,
        "The endpoint's GPU or image lacks SageAttention. The operator offers the GPU type that "
        "the image was built for (RTX 5090), or builds SageAttention for the GPU in use.",
    ),
    _rule(
        r"out of memory|outofmemory|allocation on device|oom[- ]?kill|\bSIGKILL\b",
        "run_failed",
        True,
        "The GPU ran out of memory. If it happens again, use a smaller size or the sd tier; the "
        "operator can choose a GPU with more memory.",
    ),
    _rule(
        r"cuda (?:runtime )?error|cuda kernel|cudnn|cublas|device-side assert|\bXid\b|"
        r"preempt|worker (?:was )?(?:restarted|exited|killed|terminated)|spot instance",
        "run_failed",
        True,
        "The GPU worker broke off: a GPU error, or the machine was taken away. Nothing is wrong "
        "with the job.",
    ),
    _rule(
        r"putobject|\bs3\b|boto|nosuchbucket|invalidaccesskey|unable to locate credentials|"
        r"parameter validation failed.{0,80}bucket|invalid endpoint|r2\.cloudflarestorage|"
        r"could not connect to the endpoint url",
        "output_upload_failed",
        False,
        "The video was rendered, but the GPU worker could not upload it. The operator sets the "
        "R2 variables on the RunPod endpoint.",
    ),
    _rule(
        r"connection refused|errno 111|connection reset|remote end closed|max retries exceeded",
        "run_failed",
        True,
        "ComfyUI on the GPU worker did not answer. If it happens again, the operator restarts "
        "the endpoint's workers and reads their log.",
    ),
    _rule(
        r"http error 400|bad request|prompt_no_outputs|invalid prompt",
        "run_failed",
        False,
        "The endpoint's ComfyUI refused the workflow. Its log names the node and the input; most "
        "often a model file is missing. The operator repairs the endpoint or the workflow.",
    ),
    _rule(
        r"'workflow' 键|loadimage' 节点|loadaudio' 节点|vhs_videocombine' 节点",
        "run_failed",
        False,
        "The endpoint's handler did not accept the request's workflow. The operator checks that "
        "the endpoint runs the handler this service was made for.",
    ),
    _rule(
        r"执行超时|未生成任何视频",
        "run_failed",
        False,
        "ComfyUI ended without a video, or the handler stopped waiting for it. The endpoint's "
        "log says why; the operator reads it.",
    ),
)


def classify_failure(update: RunUpdate) -> Failure:
    """Say why this ended run holds no video (FAILED, TIMED_OUT, CANCELLED, or no video at all)."""
    if update.state is RunState.TIMED_OUT:
        return _timed_out(update)
    if update.state is RunState.CANCELLED:
        return _from_code("run_cancelled", resend=False)
    reason = reason_of(update.error)
    for rule in _RULES:
        if rule.pattern.search(reason):
            return Failure(code=rule.code, message=rule.message, resend=rule.resend)
    if update.state is RunState.COMPLETED and not reason:
        return _from_code("result_missing", resend=False)
    return Failure(code="run_failed", message=_unknown(reason), resend=False)


def _timed_out(update: RunUpdate) -> Failure:
    if update.execution_ms:
        return Failure(
            code="run_timed_out",
            message="RunPod stopped waiting for the GPU worker. It was paid for, so nothing is "
            "sent again by itself; the operator reads the endpoint's log before a retry.",
            resend=False,
        )
    return Failure(
        code="run_timed_out",
        message="RunPod gave the run up before a GPU worker took it. Nothing was rendered; the "
        "operator raises the endpoint's max workers or offers more GPU types.",
        resend=True,
    )


def _from_code(code: str, *, resend: bool) -> Failure:
    info = CODES[code]
    return Failure(code=code, message=f"{info.meaning} {info.advice}", resend=resend)


def _unknown(reason: str) -> str:
    words = one_line(without_traceback(reason.rpartition("未知错误:")[2]), limit=300)
    if not words:
        return "The run failed on the GPU worker, which gave no reason. The operator reads its log."
    if _OTHER_SCRIPT.search(words):
        return (
            "The run failed on the GPU worker, which gave its reason in another language. "
            "The operator finds it in video_job_attempts and in the endpoint's log."
        )
    end = "" if words.endswith((".", "!", "?", "…")) else "."
    return f"The run failed on the GPU worker: {words}{end} The operator reads the endpoint's log."


def without_traceback(text: str) -> str:
    """Return what a Python traceback says in its last line, or what stands before a cut one."""
    before, found, after = text.partition("Traceback (most recent call last)")
    if not found:
        return text
    said = [line for line in after.splitlines()[1:] if line and not line[0].isspace()]
    return said[-1] if said else before
