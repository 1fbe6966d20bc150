"""No template passes that would waste a GPU, and every reason is named."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workflow.comfy import DATA, findings, object_info
from tests.workflow.templates import (
    SHIPPED,
    load,
    shipped,
    with_audio_crop,
    with_constants,
    with_kj_resize,
    with_other_ids,
    with_t5_loader,
    with_trimmed_voice,
)
from worker.jobs.errors import WorkflowInvalid
from worker.runtime.data_files import node_contracts

STATES = ["nov2025", "feb2026"]
GUIDE_NODES = {
    "5": "WanVideoModelLoader", "6": "WanVideoLoraSelect", "7": "MultiTalkModelLoader",
    "10": "CLIPVisionLoader", "11": "WanVideoClipVisionEncode", "12": "LoadImage",
    "13": "WanVideoImageToVideoMultiTalk", "14": "ImageScale", "15": "GetImageSize",
    "16": "WanVideoSampler", "17": "WanVideoTextEncodeCached", "18": "MultiTalkWav2VecEmbeds",
    "19": "LoadAudio", "21": "WanVideoDecode", "22": "WanVideoVAELoader",
    "23": "VHS_VideoCombine", "28": "Wav2VecModelLoader", "35": "WanVideoBlockSwap",
}  # fmt: skip


def problems_of(graph: Any, **options: Any) -> list[str]:
    """The problems of a graph that is refused."""
    with pytest.raises(WorkflowInvalid) as refusal:
        load(graph, **options)
    return refusal.value.problems


def test_the_shipped_template_has_the_guides_nodes() -> None:
    """Ids and classes; node 17 is the class that loads the T5 by itself."""
    assert {key: node["class_type"] for key, node in shipped().items()} == GUIDE_NODES


@pytest.mark.parametrize("state", STATES)
def test_the_shipped_template_satisfies_the_real_contracts(state: str) -> None:
    """Of both states of the node packs."""
    assert findings(shipped(), object_info(state)) == []


def test_the_shipped_template_means_what_the_reference_graph_means() -> None:
    """All inputs but the prompts."""
    reference = json.loads((DATA / "reference_workflow.json").read_text())
    for key, node in shipped().items():
        wanted = reference[key]
        assert node["class_type"] == wanted["class_type"]
        for name, value in wanted["inputs"].items():
            if name not in {"positive_prompt", "negative_prompt"}:
                assert node["inputs"][name] == value, f"{key}.{name}"
        assert node["inputs"].keys() == wanted["inputs"].keys()


def test_the_shipped_template_passes_and_tells_about_its_windows() -> None:
    """They advance by 56 frames, not by the guide's 72."""
    template = load()
    assert template.advance == 56
    assert template.nodes["LoadImage"] == "12"
    assert len(template.sha256) == 64
    assert any("56" in note and "FRAME_ALIGNMENT" in note for note in template.notes)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "graph",
    [with_t5_loader(), with_other_ids(), with_audio_crop(), with_constants(), with_kj_resize(),
     with_trimmed_voice()],
)  # fmt: skip
def test_other_sound_templates_pass(graph: Any, state: str) -> None:
    """Another text encoder, other ids, other cuts of the audio, other sizes."""
    assert findings(graph, object_info(state)) == []
    load(graph)


def test_the_hash_is_of_the_graph_not_of_its_spelling() -> None:
    """Spaces do not matter, values do."""
    graph = shipped()
    assert load(json.dumps(graph)).sha256 == load().sha256
    graph["17"]["inputs"]["positive_prompt"] += "!"
    assert load(graph).sha256 != load().sha256


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("5", "model", "other.gguf"), ("5", "base_precision", "bf16"),
        ("5", "attention_mode", "sdpa"), ("5", "quantization", "fp8_e4m3fn"),
        ("6", "lora", "other.safetensors"), ("6", "strength", 0.8), ("6", "merge_loras", True),
        ("7", "model", "wan2.1-i2v-14b-480p-Q5_0.gguf"),
        ("13", "motion_frame", 9), ("13", "mode", "auto"), ("13", "colormatch", "disabled"),
        ("13", "frame_window_size", 117), ("14", "upscale_method", "bicubic"),
        ("16", "scheduler", "flowmatch_distill"), ("16", "add_noise_to_samples", False),
        ("16", "cfg", 2.0), ("16", "shift", 5.0), ("16", "cfg", True),
        ("18", "fps", 24), ("18", "normalize_loudness", False),
        ("23", "frame_rate", 30), ("23", "format", "video/h265-mp4"),
        ("23", "pix_fmt", "yuv420p10le"), ("23", "trim_to_audio", False), ("23", "crf", 30),
        ("23", "pingpong", True), ("23", "loop_count", 1),
        ("28", "model", "other.safetensors"),
        ("35", "blocks_to_swap", 40), ("35", "prefetch_blocks", 0),
    ],
)  # fmt: skip
def test_every_pinned_value_is_held_and_named(node: str, name: str, value: object) -> None:
    """Node, input, found and wanted."""
    graph = shipped()
    kind = graph[node]["class_type"]
    graph[node]["inputs"][name] = value
    named = [
        problem
        for problem in problems_of(graph)
        if f"node {node} ({kind})" in problem and f"input {name}: found" in problem
    ]
    assert len(named) >= 1
    assert json.dumps(value) in named[0]
    assert "wanted" in named[0]


@pytest.mark.parametrize(
    ("node", "name"),
    [("13", "mode"), ("6", "merge_loras"), ("22", "precision"), ("5", "quantization"),
     ("23", "trim_to_audio"), ("23", "pix_fmt"), ("16", "add_noise_to_samples"),
     ("35", "prefetch_blocks"), ("13", "motion_frame")],
)  # fmt: skip
def test_a_value_that_must_be_sent_is_missed(node: str, name: str) -> None:
    """Left out, the node would take another default or fail on the GPU."""
    graph = shipped()
    del graph[node]["inputs"][name]
    assert any(f"node {node} " in text and name in text for text in problems_of(graph))


@pytest.mark.parametrize("entry", ["WanVideoImageToVideoMultiTalk.motion_frame", "13.motion_frame"])
def test_a_listed_deviation_passes_and_is_noted(entry: str) -> None:
    """And the windows follow it."""
    graph = shipped()
    graph["13"]["inputs"]["motion_frame"] = 9
    template = load(graph, deviations=[entry])
    assert template.advance == 72
    assert any("found 9, wanted 25" in note for note in template.notes)
    assert not any("FRAME_ALIGNMENT" in note for note in template.notes)


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [("13", "frame_window_size", 117), ("18", "fps", 24), ("23", "frame_rate", 24)],
)
def test_what_the_frame_plan_depends_on_cannot_deviate(node: str, name: str, value: int) -> None:
    """Whatever the setting lists."""
    graph = shipped()
    graph[node]["inputs"][name] = value
    assert problems_of(graph, deviations=[f"{node}.{name}"])


def test_a_deviation_that_nothing_needs_is_noted() -> None:
    """So that old entries do not stay unseen."""
    notes = load(deviations=["16.cfg", " "]).notes
    assert any("16.cfg" in note for note in notes)


def test_more_blocks_than_the_model_has_are_refused_even_if_listed() -> None:
    """The guide's table has 60, which ComfyUI refuses."""
    graph = shipped()
    graph["35"]["inputs"]["blocks_to_swap"] = 60
    assert any("40 blocks" in text for text in problems_of(graph, deviations=["35.blocks_to_swap"]))
    graph["35"]["inputs"]["blocks_to_swap"] = 40
    load(graph, deviations=["35.blocks_to_swap"])


def test_the_editors_own_format_is_recognised_with_advice() -> None:
    """The mistake that everybody makes once."""
    with pytest.raises(WorkflowInvalid, match=r"Export \(API\)"):
        load(json.dumps({"nodes": [], "links": [], "version": 0.4}))


@pytest.mark.parametrize("wrap", [lambda g: {"input": {"workflow": g}}, lambda g: {"prompt": g}])
def test_a_wrapped_graph_is_unwrapped(wrap: Any) -> None:
    """A whole request, or what ComfyUI's /prompt takes."""
    assert load(json.dumps(wrap(shipped()))).sha256 == load().sha256


@pytest.mark.parametrize("kind", ["LoadImage", "LoadAudio", "VHS_VideoCombine"])
def test_the_nodes_that_the_handler_fills_stand_there_exactly_once(kind: str) -> None:
    """It takes the first."""
    graph = shipped()
    key = next(key for key, node in graph.items() if node["class_type"] == kind)
    graph["90"] = graph[key]
    assert any(f"exactly one {kind}" in text for text in problems_of(graph))
    del graph["90"], graph[key]
    assert any(f"exactly one {kind}, found 0" in text for text in problems_of(graph))


@pytest.mark.parametrize("kind", ["PreviewImage", "SaveImage", "PreviewAny"])
def test_a_second_output_is_refused(kind: str) -> None:
    """ComfyUI would run a broken graph in part, and call it done."""
    graph = shipped()
    graph["90"] = {"class_type": kind, "inputs": {"images": ["21", 0]}}
    problems = problems_of(graph, deviations=[f"class:{kind}"])
    assert any("second output" in text for text in problems)


def test_an_unknown_class_is_refused_unless_listed() -> None:
    """The endpoint may have it; the operator says so."""
    graph = shipped()
    graph["90"] = {"class_type": "FancyFilter", "inputs": {"image": ["12", 0], "amount": 3}}
    graph["14"]["inputs"]["image"] = ["90", 0]
    assert any("class:FancyFilter" in text for text in problems_of(graph))
    load(graph, deviations=["class:FancyFilter"])


@pytest.mark.parametrize(
    ("node", "name", "value", "message"),
    [
        ("16", "model", ["6", 0], "is WANVIDLORA"),
        ("16", "model", ["99", 0], "does not exist"),
        ("16", "model", ["5", 7], "no output 7"),
        ("16", "model", ["5", -1], "no output -1"),
        ("16", "model", 5, "wanted a link"),
        ("16", "model", ["5"], "wanted a link"),
        ("16", "steps", "4", "wanted INT"),
        ("16", "steps", True, "wanted INT"),
        ("16", "scheduler", "magic", "wanted"),
        ("21", "tile_x", -5, "wanted INT"),
        ("13", "tiled_vae", "no", "wanted BOOLEAN"),
        ("23", "extra", ["5", 0], "no input extra"),
        ("5", "lora", None, "wanted a link"),
        ("23", "audio", ["19", 0], "ends with the planned frames"),
        ("18", "num_frames", ["15", 2], "cannot set"),
        ("17", "positive_prompt", 3, "wanted"),
    ],
)
def test_links_and_values_are_typed(node: str, name: str, value: object, message: str) -> None:
    """Against what the nodes declare."""
    graph = shipped()
    graph[node]["inputs"][name] = value
    assert any(f"node {node} " in text and message in text for text in problems_of(graph))


@pytest.mark.parametrize(("node", "name"), [("16", "multitalk_embeds"), ("13", "start_image"),
                                            ("23", "audio"), ("5", "multitalk_model")])  # fmt: skip
def test_a_link_that_the_video_needs_is_missed(node: str, name: str) -> None:
    """Though ComfyUI takes it as optional."""
    graph = shipped()
    del graph[node]["inputs"][name]
    assert any(f"node {node} " in text and name in text for text in problems_of(graph))


def test_a_text_encoder_without_its_loader_is_refused() -> None:
    """The guide's node list has none."""
    graph = with_t5_loader()
    del graph["17"]["inputs"]["t5"]
    assert any("t5" in text for text in problems_of(graph))


def test_links_that_run_in_a_circle_are_refused() -> None:
    """Directly, and over several nodes."""
    graph = shipped()
    graph["14"]["inputs"]["image"] = ["14", 0]
    assert any("cycle" in text for text in problems_of(graph))
    graph = shipped()
    graph["60"] = {"class_type": "ImageScale", "inputs": dict(graph["14"]["inputs"])}
    graph["14"]["inputs"]["image"] = ["60", 0]
    graph["60"]["inputs"]["image"] = ["14", 0]
    assert any("cycle" in text for text in problems_of(graph))


def test_a_size_that_nobody_can_set_is_refused() -> None:
    """Read from the uploaded image itself."""
    graph = shipped()
    graph["15"]["inputs"]["image"] = ["12", 0]
    assert any("cannot set the size" in text for text in problems_of(graph))


def test_a_main_node_that_leads_nowhere_is_refused() -> None:
    """Its values would change nothing."""
    graph = shipped()
    graph["23"]["inputs"]["images"] = ["14", 0]
    problems = problems_of(graph)
    assert any("node 16 (WanVideoSampler) has no effect on the video" in text for text in problems)


def test_sound_may_pass_through_other_nodes() -> None:
    """Such as one that keeps the voice alone."""
    graph = shipped()
    graph["80"] = {"class_type": "AudioSeparation", "inputs": {"audio": ["19", 0]}}
    graph["18"]["inputs"]["audio_1"] = ["80", 3]
    load(graph)


def test_a_permitted_class_is_noted() -> None:
    """Nobody checks what it does to the frames."""
    graph = shipped()
    graph["90"] = {"class_type": "RIFE VFI", "inputs": {"frames": ["21", 0], "multiplier": 2}}
    graph["23"]["inputs"]["images"] = ["90", 0]
    notes = load(graph, deviations=["class:RIFE VFI"]).notes
    assert any(note.startswith("Class permitted") and "RIFE VFI" in note for note in notes)


def test_idle_nodes_are_noted() -> None:
    """ComfyUI leaves them out."""
    graph = shipped()
    graph["70"] = {"class_type": "INTConstant", "inputs": {"value": 3}}
    assert any("70" in note for note in load(graph).notes)


def test_a_crop_that_skips_the_start_is_refused() -> None:
    """The plan counts from the audio's start."""
    graph = with_audio_crop()
    graph["40"]["inputs"]["start_time"] = "0:03"
    assert any("start_time" in text for text in problems_of(graph))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"not json", b"\xff\xfe\x00", b"null", b"[]", b"3", b'"x"', b"{}", b"[" * 100_000,
        b'{"1": NaN}', b'{"1": 1e999}', b'{"1": {}, "1": {}}', b'{"1": "\\ud800"}',
        b'{"1": ' + b'{"a": ' * 400 + b"1" + b"}" * 401, b"9" * 5000,
        b'{"5": {"class_type": 5, "inputs": {}}}', b'{"5": {"class_type": "X", "inputs": []}}',
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused_in_one_way(data: bytes) -> None:
    """Never by another error."""
    with pytest.raises(WorkflowInvalid) as refusal:
        load(data)
    assert all(problem.encode() for problem in refusal.value.problems)


@pytest.mark.parametrize(
    "value",
    ["NaN", "-Infinity", "1e999", '{"a": 1, "a": 2}', '"\\ud800"', "[" * 20 + "]" * 20,
     "9" * 5000, "[" * 100_000 + "]" * 100_000],
)  # fmt: skip
def test_what_json_cannot_carry_is_refused_where_nothing_reads_it(value: str) -> None:
    """It would come out again when the request is sent."""
    text = SHIPPED.decode().replace('"_meta": {', f'"_meta": {{"x": {value}, ', 1)
    with pytest.raises(WorkflowInvalid):
        load(text)


def test_a_mark_at_the_start_of_the_file_does_no_harm() -> None:
    """Some editors write one."""
    assert load(b"\xef\xbb\xbf" + SHIPPED) == load()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=20,
)
IDS = st.sampled_from(sorted(GUIDE_NODES))


@given(document=JSON)
def test_any_json_is_refused_in_one_way(document: Any) -> None:
    """Whatever is in the file."""
    with pytest.raises(WorkflowInvalid):
        load(json.dumps(document))


@given(key=IDS, data=st.data())
def test_any_change_of_one_input_passes_or_is_refused_in_one_way(key: str, data: Any) -> None:
    """Wrong types, links into nothing, links in circles."""
    graph = shipped()
    name = data.draw(st.sampled_from(sorted(graph[key]["inputs"])))
    link = st.tuples(IDS, st.integers(-2, 4)).map(list)
    graph[key]["inputs"][name] = data.draw(JSON | link)
    with suppress(WorkflowInvalid):
        load(json.dumps(graph))


@given(key=IDS, node=JSON)
def test_any_node_in_the_place_of_another_is_judged(key: str, node: Any) -> None:
    """Also something that is not a node."""
    with pytest.raises(WorkflowInvalid):
        load(json.dumps(shipped() | {key: node}))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", sorted(node_contracts()))
def test_our_contracts_are_those_of_the_real_nodes(kind: str, state: str) -> None:
    """Outputs equal, inputs a subset or equal, choices and limits never wider."""
    real, ours = object_info(state)[kind], node_contracts()[kind]
    assert list(ours.outputs) == real["output"]
    assert list(ours.output_names) == real["output_name"]
    required, optional = real["input"]["required"], real["input"].get("optional", {})
    assert set(ours.required) == required.keys()
    for name, spec in {**required, **optional}.items():
        accepted = ours.inputs[name]
        if isinstance(spec[0], list):
            assert accepted.choices or accepted.types == ("FILE",)
            assert set(accepted.choices) <= set(spec[0])
            continue
        assert accepted.types[0] == spec[0]
        limits = spec[1] if len(spec) > 1 else {}
        if accepted.minimum is not None and "min" in limits:
            assert accepted.minimum >= limits["min"]
        if accepted.maximum is not None and "max" in limits:
            assert accepted.maximum <= limits["max"]
