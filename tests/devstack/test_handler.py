"""The handler takes the production request and answers as production does."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import pytest

from devstack import handler
from tests.devstack.runpod_kit import Hub, hub

WORKFLOW = Path(__file__).parents[2] / "workflows" / "infinitetalk.json"


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    async with hub() as started:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("STANDIN_STORAGE_URL", started.url)
        monkeypatch.setenv("STANDIN_STORAGE_KEY", "key")
        monkeypatch.setenv("STANDIN_STORAGE_BUCKET", "results")
        yield started


def order(server: Hub, **changes: Any) -> dict[str, Any]:
    """A job as production gets it, small; `changes` replace parts of its input."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in graph.values():
        if node["class_type"] == "ImageScale":
            node["inputs"].update(width=486, height=480)
        if node["class_type"] == "MultiTalkWav2VecEmbeds":
            node["inputs"]["num_frames"] = 81
        if node["class_type"] == "VHS_VideoCombine":
            node["inputs"]["filename_prefix"] = "row-1"
    given = {
        "workflow": graph,
        "image_url": f"{server.url}/samples/portrait.jpg",
        "audio_url": f"{server.url}/samples/speech.mp3",
        "width": 486,
        "height": 480,
    }
    # Without reports: they would go to the platform, which these tests do not have.
    return {"id": "run-1", "input": {**given, **changes}, "standin": {"report_progress": False}}


async def answer(job: dict[str, Any]) -> dict[str, Any]:
    return await asyncio.to_thread(handler.handle, job)


async def test_it_renders_what_the_graph_asks_for_and_uploads_it(server: Hub) -> None:
    result = await answer(order(server))
    ((path, data),) = server.uploads.items()
    assert result == {"video": [f"{server.url}/storage/v1/object/public/{path}"]}
    assert path.startswith("results/")
    assert path.endswith("_row-1_00001-audio.mp4")
    Path("got.mp4").write_bytes(data)
    with av.open("got.mp4") as video:
        stream = video.streams.video[0]
        # 486 is 30 latents and a rest, which the model drops.
        assert (stream.width, stream.height) == (480, 480)
        assert sum(1 for _ in video.decode(video=0)) == 81


async def test_it_leaves_no_files_behind(server: Hub, tmp_path: Path) -> None:
    await answer(order(server))
    await answer(order(server, image_url="http://127.0.0.1:1/x.png"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"workflow": None}, "缺少 workflow 参数"),
        ({"workflow": {}}, "缺少 workflow 参数"),
        ({"image_url": None}, "缺少图片地址"),
        ({"image_url": "http://127.0.0.1:1/x.png"}, "图片下载失败: http://127.0.0.1:1/x.png"),
        ({"audio_url": "not a url"}, "音频下载失败: not a url"),
        ({"workflow": {"1": {"class_type": "LoadImage", "inputs": {}}}}, "没有找到 LoadAudio"),
    ],
)
async def test_it_says_in_chinese_what_is_missing(
    server: Hub, changes: dict[str, Any], text: str
) -> None:
    result = await answer(order(server, **changes))
    assert set(result) == {"error"}
    assert text in result["error"]


async def test_a_missing_file_is_a_failed_download(server: Hub) -> None:
    result = await answer(order(server, audio_url=f"{server.url}/samples/none.mp3"))
    assert "音频下载失败" in result["error"]
    assert "404" in result["error"]


async def test_a_refused_graph_is_a_bad_request_without_the_reason(server: Hub) -> None:
    job = order(server)
    job["input"]["workflow"]["16"]["inputs"]["steps"] = 0
    result = await answer(job)
    assert result["error"].endswith("HTTP Error 400: Bad Request")
    assert "steps" not in result["error"]


async def test_a_size_that_fails_on_the_gpu_is_an_error(server: Hub) -> None:
    job = order(server)
    job["input"]["workflow"]["14"]["inputs"]["width"] = 1080
    assert "1080" in (await answer(job))["error"]


@pytest.mark.parametrize("name", ["image_url", "audio_url"])
async def test_a_file_of_another_kind_is_an_error(server: Hub, name: str) -> None:
    result = await answer(order(server, **{name: f"{server.url}/samples/README.md"}))
    assert "工作流执行失败" in result["error"]


async def test_the_stand_in_can_ask_for_an_error_text(server: Hub) -> None:
    job = order(server)
    job["standin"]["fail_text"] = "显存不足"
    assert await answer(job) == {"error": "显存不足"}


async def test_a_width_that_is_not_a_number_reaches_the_sdk_as_an_exception(server: Hub) -> None:
    with pytest.raises(ValueError, match="wide"):
        await answer(order(server, width="wide"))
