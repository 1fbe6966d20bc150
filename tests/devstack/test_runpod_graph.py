"""The stand-in's ComfyUI accepts and refuses graphs as the real one does."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from devstack.runpod.graph import gpu_problems, validate

WORKFLOW = Path(__file__).parents[2] / "workflows" / "infinitetalk.json"


@pytest.fixture
def graph() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    return copy.deepcopy(loaded)


def node(graph: dict[str, Any], kind: str) -> dict[str, Any]:
    inputs: dict[str, Any] = next(n for n in graph.values() if n["class_type"] == kind)["inputs"]
    return inputs


def test_the_shipped_workflow_is_accepted_and_would_run(graph: dict[str, Any]) -> None:
    verdict = validate(graph)
    assert (verdict.accepted, verdict.problems) == (True, ())
    assert gpu_problems(graph) == []


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("WanVideoModelLoader", "model", "another.gguf"),
        ("WanVideoModelLoader", "attention_mode", "flash"),
        ("WanVideoBlockSwap", "blocks_to_swap", 60),
        ("WanVideoSampler", "steps", 0),
        ("WanVideoSampler", "seed", "text"),
        ("WanVideoSampler", "seed", None),
        ("MultiTalkWav2VecEmbeds", "num_frames", 10_001),
        ("MultiTalkWav2VecEmbeds", "wav2vec_model", "a text"),
        ("WanVideoSampler", "model", ["12", 0]),
        ("WanVideoSampler", "model", ["999", 0]),
        ("WanVideoSampler", "model", ["5", 7]),
        ("WanVideoSampler", "model", ["5"]),
        ("WanVideoSampler", "image_embeds", ["16", 0]),
    ],
)
def test_a_wrong_value_is_refused(
    graph: dict[str, Any], kind: str, name: str, value: object
) -> None:
    node(graph, kind)[name] = value
    verdict = validate(graph)
    assert not verdict.accepted
    assert verdict.problems


@pytest.mark.parametrize(
    ("kind", "name"),
    [("WanVideoSampler", "steps"), ("VHS_VideoCombine", "images"), ("LoadImage", "image")],
)
def test_a_missing_required_input_is_refused(graph: dict[str, Any], kind: str, name: str) -> None:
    del node(graph, kind)[name]
    assert not validate(graph).accepted


def test_values_that_comfyui_does_not_check_pass(graph: dict[str, Any]) -> None:
    node(graph, "LoadImage")["image"] = "anything.png"
    node(graph, "VHS_VideoCombine")["something"] = "unknown"
    node(graph, "ImageScale")["width"] = 723
    assert validate(graph).accepted


def test_an_unknown_class_and_a_graph_without_output_are_refused(graph: dict[str, Any]) -> None:
    without = {k: n for k, n in graph.items() if n["class_type"] != "VHS_VideoCombine"}
    assert not validate(without).accepted
    graph["99"] = {"class_type": "NoSuchNode", "inputs": {}}
    assert not validate(graph).accepted
    assert not validate({"1": {"inputs": {}}}).accepted
    assert not validate({"1": "text"}).accepted
    assert not validate({"1": {"class_type": "VHS_VideoCombine"}}).accepted


def test_a_second_output_that_is_right_hides_a_wrong_branch(graph: dict[str, Any]) -> None:
    node(graph, "WanVideoSampler")["steps"] = 0
    image = next(k for k, n in graph.items() if n["class_type"] == "LoadImage")
    graph["99"] = {"class_type": "PreviewImage", "inputs": {"images": [image, 0]}}
    verdict = validate(graph)
    assert verdict.outputs == ("99",)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("ImageScale", "width", 1080),
        ("ImageScale", "height", 600),
        ("WanVideoLoraSelect", "merge_loras", True),
        ("WanVideoModelLoader", "quantization", "fp8_e4m3fn"),
    ],
)
def test_what_validation_lets_pass_but_the_gpu_does_not_is_named(
    graph: dict[str, Any], kind: str, name: str, value: object
) -> None:
    node(graph, kind)[name] = value
    assert validate(graph).accepted
    assert gpu_problems(graph)
