"""The request holds the guide's values, the plan's, and nothing else of the row's."""

import json
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from tests.plan.policies import GUIDE
from tests.workflow.comfy import findings, object_info
from tests.workflow.templates import (
    load,
    shipped,
    with_audio_crop,
    with_constants,
    with_kj_resize,
    with_other_ids,
    with_t5_loader,
    with_trimmed_voice,
)
from worker.plan.media_facts import AudioFacts
from worker.plan.options import RequestedOptions
from worker.plan.plan import Plan, make_plan
from worker.workflow.request import build_body, build_input, output_prefix
from worker.workflow.validation import Template

JOB = "7b0c1f9a-3d61-4b57-9f6e-0d8f1c2a3b4c"
IMAGE, AUDIO = "https://cdn.example/face.png?token=a", "https://cdn.example/speech.mp3"
TEMPLATE = load()


def planned(template: Template = TEMPLATE, *, prepared: bool = False, **options: Any) -> Plan:
    """A plan for 21 s of audio."""
    return make_plan(
        options=RequestedOptions(**options),
        audio=AudioFacts(seconds=Fraction(21), sample_rate=48_000, channels=1, codec="mp3"),
        image=None,
        advance=template.advance,
        policy=replace(GUIDE, prepared=prepared, open_knobs=frozenset({"model", "lora", "crf"})),
        seed=lambda: 77,
    )


def graph_of(template: Template = TEMPLATE, **options: Any) -> dict[str, Any]:
    """The graph that is sent."""
    plan = planned(template, **options)
    sent = build_input(template, plan, job_id=JOB, image_url=IMAGE, audio_url=AUDIO)
    graph: Any = sent["workflow"]
    return graph


def test_the_input_has_exactly_the_keys_that_the_handler_reads() -> None:
    """One wrapper, the size at its top, the URLs as they were given."""
    sent = build_input(TEMPLATE, planned(), job_id=JOB, image_url=IMAGE, audio_url=AUDIO)
    assert sent.keys() == {"image_url", "audio_url", "width", "height", "workflow"}
    assert (sent["width"], sent["height"]) == (720, 1280)
    assert (sent["image_url"], sent["audio_url"]) == (IMAGE, AUDIO)


def test_only_the_slots_differ_from_the_template() -> None:
    """Everything else is sent as it was checked."""
    graph, template = graph_of(), shipped()
    changed = {
        (key, name)
        for key, node in template.items()
        for name in node["inputs"]
        if graph[key]["inputs"][name] != node["inputs"][name]
    }
    assert changed == {("16", "seed"), ("23", "filename_prefix")}
    assert graph["18"]["inputs"]["num_frames"] == 513
    assert graph["16"]["inputs"]["seed"] == 77
    assert graph["13"]["inputs"]["colormatch"] == "mkl"


@pytest.mark.parametrize(
    ("quality", "model", "lora", "steps"),
    [("sd", "Q4_0", "rank64", 4), ("hd", "Q5_0", "rank64", 4), ("fullhd", "Q5_0", "rank256", 6)],
)
def test_the_tier_chooses_model_lora_and_steps(
    quality: str, model: str, lora: str, steps: int
) -> None:
    """And not the size."""
    graph = graph_of(quality=quality)
    assert graph["5"]["inputs"]["model"] == f"wan2.1-i2v-14b-480p-{model}.gguf"
    wanted = f"lightx2v_I2V_14B_480p_cfg_step_distill_{lora}_bf16.safetensors"
    assert graph["6"]["inputs"]["lora"] == wanted
    assert graph["16"]["inputs"]["steps"] == steps
    assert (graph["14"]["inputs"]["width"], graph["14"]["inputs"]["height"]) == (720, 1280)


@pytest.mark.parametrize("state", ["nov2025", "feb2026"])
@pytest.mark.parametrize("quality", ["sd", "hd", "fullhd"])
@pytest.mark.parametrize(
    "graph",
    [
        shipped(),
        with_t5_loader(),
        with_other_ids(),
        with_audio_crop(),
        with_constants(),
        with_kj_resize(),
        with_trimmed_voice(),
    ],
    ids=["shipped", "t5", "ids", "crop", "constants", "kj", "voice"],
)
def test_what_is_sent_satisfies_the_real_contracts(graph: Any, quality: str, state: str) -> None:
    """Every template, tier and state of the node packs."""
    template = load(graph)
    for prepared in (False, True):
        sent = graph_of(template, quality=quality, prepared=prepared, width=1920, height=1080)
        assert findings(sent, object_info(state)) == []


def test_other_ids_get_the_same_values() -> None:
    """Nodes are found by class."""
    graph = graph_of(load(with_other_ids()), width=1280, height=720)
    assert graph["118"]["inputs"]["num_frames"] == 513
    assert (graph["114"]["inputs"]["width"], graph["114"]["inputs"]["height"]) == (1280, 720)


def test_constants_get_the_values_that_nodes_are_linked_to() -> None:
    """The links stay."""
    graph = graph_of(load(with_constants()), width=1280, height=720)
    values = [graph[key]["inputs"]["value"] for key in ("50", "51", "52")]
    assert values == [1280, 720, 513]
    assert graph["14"]["inputs"]["width"] == ["50", 0]


def test_a_size_that_stands_in_several_nodes_is_set_in_all_of_them() -> None:
    """The scaler's and the windows' own."""
    graph = shipped()
    graph["13"]["inputs"] |= {"width": 480, "height": 832}
    del graph["15"]
    sent = graph_of(load(graph), width=1280, height=720)
    for key in ("13", "14"):
        assert (sent[key]["inputs"]["width"], sent[key]["inputs"]["height"]) == (1280, 720)


def test_the_end_of_a_crop_follows_the_plan() -> None:
    """In whole seconds, rounded up: 0:18 would have cut speech off."""
    graph = graph_of(load(with_audio_crop()))
    assert graph["40"]["inputs"]["end_time"] == "0:21"


def test_a_folder_before_a_models_name_stays() -> None:
    """Endpoints keep their files where they like."""
    graph = shipped()
    graph["5"]["inputs"]["model"] = "wan/wan2.1-i2v-14b-480p-Q6_K.gguf"
    sent = graph_of(load(graph), quality="sd")
    assert sent["5"]["inputs"]["model"] == "wan/wan2.1-i2v-14b-480p-Q4_0.gguf"


def test_a_folder_that_is_named_like_a_tier_stays() -> None:
    """Only the file's name follows the job."""
    graph = shipped()
    graph["5"]["inputs"]["model"] = "Q6_K/wan2.1-i2v-14b-480p-Q6_K.gguf"
    sent = graph_of(load(graph), quality="sd")
    assert sent["5"]["inputs"]["model"] == "Q6_K/wan2.1-i2v-14b-480p-Q4_0.gguf"


def test_every_scaler_on_the_way_gets_the_size() -> None:
    """A second one with a size of its own would blur the picture."""
    graph = shipped()
    graph["60"] = {"class_type": "ImageScale", "inputs": graph["14"]["inputs"] | {"width": 64}}
    graph["14"]["inputs"]["image"] = ["60", 0]
    sent = graph_of(load(graph), width=1280, height=720)
    for key in ("14", "60"):
        assert (sent[key]["inputs"]["width"], sent[key]["inputs"]["height"]) == (1280, 720)


def test_a_crf_in_a_constant_follows_the_job() -> None:
    """The link stays."""
    graph = shipped()
    graph["60"] = {"class_type": "INTConstant", "inputs": {"value": 19}}
    graph["23"]["inputs"]["crf"] = ["60", 0]
    sent = graph_of(load(graph), crf=15)
    assert (sent["23"]["inputs"]["crf"], sent["60"]["inputs"]["value"]) == (["60", 0], 15)


def test_prepared_audio_is_heard_at_full_quality() -> None:
    """It has the video's length; otherwise the embeds node's own cut is heard."""
    assert graph_of()["23"]["inputs"]["audio"] == ["18", 1]
    assert graph_of(prepared=True)["23"]["inputs"]["audio"] == ["19", 0]


def test_the_prompts_are_the_jobs_or_the_templates() -> None:
    """Both have a neutral default."""
    graph = graph_of(prompt="a [1] woman | (speaks:1.4)")
    assert graph["17"]["inputs"]["positive_prompt"] == "a 1 woman , (speaks)"
    default = shipped()["17"]["inputs"]
    assert graph["17"]["inputs"]["negative_prompt"] == default["negative_prompt"]
    assert graph_of()["17"]["inputs"]["positive_prompt"] == default["positive_prompt"]


def test_knobs_reach_their_nodes_when_the_operator_opened_them() -> None:
    """Model, LoRA and crf."""
    graph = graph_of(model="Q6_K", lora="rank256", crf=15)
    assert "Q6_K" in graph["5"]["inputs"]["model"]
    assert "rank256" in graph["6"]["inputs"]["lora"]
    assert graph["23"]["inputs"]["crf"] == 15


def test_jobs_share_nothing() -> None:
    """Changing what was built for one job changes neither the template nor the next job."""
    before = deepcopy(dict(TEMPLATE.graph))
    first, second = graph_of(), graph_of()
    for node in first.values():
        node["inputs"].clear()
    assert second == graph_of()
    assert TEMPLATE.graph == before


def test_the_jobs_id_is_in_the_files_name() -> None:
    """A video that nobody fetched is found by it."""
    assert graph_of()["23"]["inputs"]["filename_prefix"] == f"infinitetalk_{JOB}"


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("a/b", "a_b_x"), (3, "infinitetalk_x"), ("", "infinitetalk_x"), ("ü%date%", "date_x")],
)
def test_the_files_name_is_plain_ascii(prefix: object, name: str) -> None:
    """It goes unescaped into a public URL."""
    assert output_prefix(prefix, "x") == name


def test_the_body_carries_the_policy_in_milliseconds() -> None:
    """600 s + 1.5 x 156 s x 9 windows; ttl: queue deadline + that + 30 minutes."""
    body = build_body(TEMPLATE, planned(), job_id=JOB, image_url=IMAGE, audio_url=AUDIO)
    assert body["policy"] == {"executionTimeout": 2_706_000, "ttl": 8_106_000}
    assert body.keys() == {"input", "policy"}
    json.dumps(body, allow_nan=False)


def test_the_body_names_a_webhook_only_if_there_is_one() -> None:
    """Else RunPod would call nobody."""
    body = build_body(
        TEMPLATE,
        planned(),
        job_id=JOB,
        image_url=IMAGE,
        audio_url=AUDIO,
        webhook="https://app.example/webhooks/runpod/a",
    )
    assert body["webhook"] == "https://app.example/webhooks/runpod/a"
