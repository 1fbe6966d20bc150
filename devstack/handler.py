"""The endpoint's handler: takes the production request and renders a preview without GPU.

Run by the official SDK's worker loop. It reads the same five inputs as the production handler and
answers failures as that one does: a dictionary with an `error` text in Chinese.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from devstack import media
from devstack.runpod import graph as comfy

DOWNLOAD_TIMEOUT_SECONDS: Final = 15.0
REPORT_EVERY_SECONDS: Final = 0.3
PR_SET_PDEATHSIG: Final = 1

Json = dict[str, Any]


class Failure(Exception):
    """The text that the handler answers as `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to render, read from a valid graph."""

    width: int
    height: int
    frames: int
    fps: int
    crf: int
    prefix: str


def handle(job: Json) -> Json:
    """Answer one job as the production endpoint does: `{"video": [url]}` or `{"error": text}`."""
    options = RunOptions(job)
    if options.fail_text is not None:
        return {"error": options.fail_text}
    workspace = Path(tempfile.mkdtemp(prefix="run-", dir=Path.cwd()))
    try:
        return {"video": [_produce(job["input"], workspace, options)]}
    except Failure as failure:
        return {"error": str(failure)}
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


class RunOptions:
    """Options of the stand-in for this run, and the reporting of its progress."""

    def __init__(self, job: Json) -> None:
        given = job.get("standin") or {}
        self.hang = bool(given.get("hang", False))
        self.fail_text: str | None = given.get("fail_text")
        self.seconds = float(given.get("run_seconds", 0.0))
        self._silent = not given.get("report_progress", True)
        self._job = job
        self._reported_at = 0.0

    def report(self, phase: str, progress: float) -> None:
        """Report progress in percent, slowly enough that reports stay in order."""
        now = time.monotonic()
        if self._silent or (now - self._reported_at < REPORT_EVERY_SECONDS and progress > 0):
            return
        from runpod.serverless import progress_update

        self._reported_at = now
        progress_update(self._job, {"phase": phase, "progress": round(progress, 1)})

    def node_failed(self, problem: str) -> None:
        """Handle a failed node: production waits forever, the stand-in only on request."""
        while self.hang:
            time.sleep(1)
        raise Failure(f"工作流执行失败: {problem}")


def _produce(given: Json, workspace: Path, options: RunOptions) -> str:
    graph = given.get("workflow")
    if not isinstance(graph, dict) or not graph:
        raise Failure("缺少 workflow 参数")
    options.report("loading_models", 0)
    image = _download(given.get("image_url"), workspace / "input.png", "图片")
    audio = _download(given.get("audio_url"), workspace / "input.mp3", "音频")
    for kind in ("LoadImage", "LoadAudio", "VHS_VideoCombine"):
        if not any(isinstance(n, dict) and n.get("class_type") == kind for n in graph.values()):
            raise Failure(f"工作流中没有找到 {kind} 节点")
    # Production writes these two into nodes with these titles, which our graph does not have.
    int(given.get("width") or 0), int(given.get("height") or 0)
    order = _queue_prompt(graph, options)
    target = workspace / f"{order.prefix}_00001-audio.mp4"
    _render(order, image, audio, target, options)
    options.report("saving", 99)
    return _upload(target)


def _download(url: object, target: Path, what: str) -> Path:
    if not isinstance(url, str) or not url:
        raise Failure(f"缺少{what}地址")
    try:
        with httpx.stream(
            "GET", url, timeout=DOWNLOAD_TIMEOUT_SECONDS, follow_redirects=True
        ) as answer:
            answer.raise_for_status()
            with target.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as failed:
        raise Failure(f"{what}下载失败: {url} ({failed})") from failed
    return target


def _queue_prompt(graph: Json, options: RunOptions) -> Order:
    """Check the graph as ComfyUI's POST /prompt and the nodes do; return what to render."""
    verdict = comfy.validate(graph)
    for problem in verdict.problems:
        # Production hides the reason too: it is only in the worker's log.
        print(f"graph: {problem}", flush=True)
    if not verdict.accepted:
        raise Failure("发生未知错误: HTTP Error 400: Bad Request")
    if not any(graph[node_id]["class_type"] == "VHS_VideoCombine" for node_id in verdict.outputs):
        raise Failure("执行超时或没有生成视频")
    problems = comfy.gpu_problems(graph)
    if problems:
        options.node_failed(problems[0])
    scale = comfy.first_of(graph, "ImageScale")
    speech = comfy.first_of(graph, "MultiTalkWav2VecEmbeds")
    video = comfy.first_of(graph, "VHS_VideoCombine")
    if scale is None or speech is None or video is None:
        raise Failure("工作流缺少 ImageScale 或 MultiTalkWav2VecEmbeds 节点")
    return Order(
        # A latent covers 16 pixels; the remainder is cut off.
        width=int(scale["width"]) // 16 * 16,
        height=int(scale["height"]) // 16 * 16,
        frames=int(speech["num_frames"]),
        fps=round(float(video["frame_rate"])),
        crf=int(video.get("crf", 19)),
        prefix=Path(str(video["filename_prefix"])).name,
    )


def _render(order: Order, image: Path, audio: Path, target: Path, options: RunOptions) -> None:
    if options.hang:
        options.node_failed("hang")
    started = time.monotonic()

    def rendered(frame: int) -> None:
        share = frame / order.frames
        # With `run_seconds` a run takes at least that long, as on a GPU.
        ahead = started + options.seconds * share - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        options.report("generating", 99 * share)

    try:
        media.render(
            image=image,
            audio=audio,
            target=target,
            width=order.width,
            height=order.height,
            frames=order.frames,
            fps=order.fps,
            crf=order.crf,
            on_frame=rendered,
        )
    except (OSError, ValueError, IndexError) as failed:
        # Pillow and PyAV raise these for files without picture or sound.
        options.node_failed(f"{type(failed).__name__}: {failed}")


def _upload(video: Path) -> str:
    base = os.environ["STANDIN_STORAGE_URL"].rstrip("/")
    bucket = os.environ["STANDIN_STORAGE_BUCKET"]
    key = os.environ["STANDIN_STORAGE_KEY"]
    path = f"{bucket}/{uuid.uuid4()}_{video.name}"
    answer = httpx.post(
        f"{base}/storage/v1/object/{path}",
        content=video.read_bytes(),
        headers={"Authorization": f"Bearer {key}", "apikey": key, "Content-Type": "video/mp4"},
        timeout=60,
    )
    if answer.status_code != 200:
        raise Failure(f"上传失败: HTTP {answer.status_code}")
    return f"{base}/storage/v1/object/public/{path}"


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Run the SDK's worker loop; it ends with the stand-in that started it."""
    _die_with_parent()
    # The SDK forks its heartbeat process, which must end with us too.
    os.register_at_fork(after_in_child=_die_with_parent)
    if os.environ.get("STANDIN_PARENT") not in (None, str(os.getppid())):
        raise SystemExit("the stand-in that started this worker is gone")
    import runpod

    runpod.serverless.start({"handler": handle})


if __name__ == "__main__":
    main()
