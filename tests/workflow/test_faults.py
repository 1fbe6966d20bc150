"""Faults that fail or spoil a render, each by its name: all are refused, and named."""

from typing import Any

import pytest

from tests.workflow.templates import (
    load,
    shipped,
    with_audio_crop,
    with_constants,
    with_kj_resize,
    with_t5_loader,
    with_trimmed_voice,
)
from worker.jobs.errors import WorkflowInvalid

CHANGES: dict[str, tuple[dict[tuple[str, str], Any], str]] = {
    "width and height swapped": (
        {("13", "width"): ["15", 1], ("13", "height"): ["15", 0]},
        "node 13 (WanVideoImageToVideoMultiTalk), input width: found output 1 (height)",
    ),
    "batch size as width": ({("13", "width"): ["15", 2]}, "input width: found output 2 of node 15"),
    "batch size as height": ({("13", "height"): ["15", 2]}, "input height: found output 2"),
    "video fed latents": (
        {("23", "images"): ["16", 0]},
        "found output 0 (samples) of node 16 (WanVideoSampler), wanted output 0 (images) of "
        "WanVideoDecode",
    ),
    "video fed the portrait": ({("23", "images"): ["14", 0]}, "node 23 (VHS_VideoCombine), input"),
    "denoised samples": ({("21", "samples"): ["16", 1]}, "input samples: found output 1 (denoised"),
    "negative prompt as prompt": ({("16", "text_embeds"): ["17", 1]}, "input text_embeds: found"),
    "denoise strength": ({("16", "denoise_strength"): 0.5}, "_strength: found 0.5, wanted 1"),
    "start step": ({("16", "start_step"): 2}, "start_step: found 2, wanted 0"),
    "end step": ({("16", "end_step"): 2}, "end_step: found 2, wanted -1"),
    "riflex": ({("16", "riflex_freq_index"): 6}, "riflex_freq_index: found 6, wanted 0"),
    "audio scale": ({("18", "audio_scale"): 3.0}, "audio_scale: found 3.0, wanted 1.0"),
    "audio cfg": ({("18", "audio_cfg_scale"): 4.0}, "audio_cfg_scale: found 4.0, wanted 1.0"),
    "second audio": ({("18", "audio_2"): ["19", 0]}, "input audio_2: found output 0 (AUDIO)"),
    "tile equals stride": (
        {("21", "tile_x"): 144},
        "input tile_x: found 144, wanted more than tile_stride_x (144)",
    ),
    "tile below stride": ({("21", "tile_stride_y"): 512}, "wanted more than tile_stride_y (512)"),
    "start image not scaled": ({("13", "start_image"): ["12", 0]}, "input start_image: found"),
    "clip image not scaled": ({("11", "image_1"): ["12", 0]}, "input image_1: found output 0"),
    "second clip image": ({("11", "image_2"): ["12", 0]}, "input image_2: found output 0"),
    "clip strength": ({("11", "strength_1"): 0.0}, "strength_1: found 0.0, wanted 1.0"),
    "clip tiles": ({("11", "tiles"): 4}, "tiles: found 4, wanted 0"),
    "output not saved": ({("23", "save_output"): False}, "save_output: found false, wanted true"),
    "video in pieces": ({("23", "vae"): ["22", 0]}, "node 23 (VHS_VideoCombine), input vae: found"),
    "stretched portrait": ({("14", "crop"): "disabled"}, 'found "disabled", wanted center'),
    "tiled VAE": ({("13", "tiled_vae"): True}, "tiled_vae: found true, wanted false"),
    "frames to disk": ({("13", "output_path"): "/tmp/frames"}, "wanted an empty text"),
    "wrong VAE": ({("22", "model_name"): "vae-ft-mse.safetensors"}, "wanted wan_2.1_vae"),
    "low memory LoRA": ({("6", "low_mem_load"): True}, "low_mem_load: found true, wanted false"),
    "misspelt input": ({("16", "denoise_strenght"): 1.0}, "has no input denoise_strenght"),
    "size as a number of blocks": (
        {("35", "blocks_to_swap"): ["15", 0]},
        "found output 0 (width) of node 15 (GetImageSize), wanted 20",
    ),
    "size as tile": ({("21", "tile_x"): ["15", 0]}, "wanted a value of its own, or a constant"),
}  # fmt: skip


def problems_of(graph: Any, **options: Any) -> list[str]:
    """The problems of a graph that is refused."""
    with pytest.raises(WorkflowInvalid) as refusal:
        load(graph, **options)
    return refusal.value.problems


@pytest.mark.parametrize("fault", CHANGES)
def test_a_planted_fault_is_refused_in_one_plain_sentence(fault: str) -> None:
    """Node, input, found, wanted."""
    graph = shipped()
    changes, sentence = CHANGES[fault]
    for (node, name), value in changes.items():
        graph[node]["inputs"][name] = value
    problems = problems_of(graph)
    assert any(sentence in problem for problem in problems), problems
    assert all("wanted" in text or "no effect on the video" in text for text in problems)
    assert all(any(f"node {node} " in text for text in problems) for node, _ in changes)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("keep_proportion", "resize", "resize gives another size"),
        ("keep_proportion", "stretch", "wanted crop"),
        ("keep_proportion", "pad", "wanted crop"),
        ("divisible_by", 64, "wanted 0, 1, 2, 4, 8 or 16"),
        ("device", "gpu", "wanted cpu"),
        ("crop_position", "top", "wanted center"),
    ],
)
def test_a_resize_that_gives_another_picture_is_refused(
    name: str, value: object, wanted: str
) -> None:
    """Another size than planned, bars, or a distorted face."""
    graph = with_kj_resize()
    graph["14"]["inputs"][name] = value
    assert any(wanted in text for text in problems_of(graph))


def test_a_resize_to_another_size_cannot_be_permitted() -> None:
    """The plan's size would be wrong; bars may be wanted."""
    graph = with_kj_resize()
    graph["14"]["inputs"]["keep_proportion"] = "resize"
    assert problems_of(graph, deviations=["14.keep_proportion"])
    graph["14"]["inputs"]["keep_proportion"] = "pad"
    load(graph, deviations=["14.keep_proportion"])


@pytest.mark.parametrize(("width", "height"), [(2, 1), (1, 1), (3, 2), (1, 3)])
def test_the_sizes_of_a_resize_are_not_taken_for_each_other(width: int, height: int) -> None:
    """Outputs 1 and 2 are width and height."""
    graph = with_kj_resize()
    graph["13"]["inputs"] |= {"width": ["14", width], "height": ["14", height]}
    assert any("node 13 " in text for text in problems_of(graph))


def test_one_constant_for_two_values_of_a_job_is_refused() -> None:
    """Both would get the value that is set last."""
    graph = with_constants()
    graph["13"]["inputs"]["height"] = ["50", 0]
    graph["14"]["inputs"]["height"] = ["50", 0]
    problems = problems_of(graph)
    assert any("input height" in text and "a constant of its own" in text for text in problems)


def test_a_constant_of_a_job_that_also_feeds_a_fixed_value_is_refused() -> None:
    """The seed would become the number of steps that are prefetched."""
    graph = shipped()
    graph["60"] = {"class_type": "INTConstant", "inputs": {"value": 1}}
    graph["16"]["inputs"]["seed"] = ["60", 0]
    graph["35"]["inputs"]["prefetch_blocks"] = ["60", 0]
    assert any("input prefetch_blocks" in text and "seed" in text for text in problems_of(graph))


@pytest.mark.parametrize("titles", [("Height", "Width", "Frames"), ("Width", "Height", "Width")])
def test_a_constant_that_the_handler_would_overwrite_is_refused(titles: tuple[str, ...]) -> None:
    """It writes the size into constants that are titled Width and Height."""
    graph = with_constants()
    for key, title in zip(("50", "51", "52"), titles, strict=True):
        graph[key]["_meta"]["title"] = title
    assert any("a constant of its own" in text for text in problems_of(graph))


def test_only_the_voice_of_a_separation_is_taken() -> None:
    """Output 3; the others are bass, drums and the rest."""
    graph = with_trimmed_voice()
    graph["18"]["inputs"]["audio_1"] = ["80", 1]
    assert any("input audio_1: found output 1 (Drums)" in text for text in problems_of(graph))


def test_a_separated_voice_that_is_not_cut_is_refused_as_the_videos_sound() -> None:
    """The frames of the padded tail would stay."""
    graph = with_trimmed_voice()
    graph["80"]["inputs"]["audio"] = ["19", 0]
    problems = problems_of(graph)
    assert any("input audio: found the uncut sound of node 19" in text for text in problems)
    load(graph, deviations=["VHS_VideoCombine.audio"])


@pytest.mark.parametrize("separated", [False, True])
def test_sound_cut_by_an_audio_crop_is_refused_as_the_videos_sound(separated: bool) -> None:
    """It ends at a whole second, up to one after the planned frames: 513 frames became 523."""
    graph = with_audio_crop()
    graph["80"] = {"class_type": "AudioSeparation", "inputs": {"audio": ["40", 0]}}
    graph["23"]["inputs"]["audio"] = ["80", 3] if separated else ["40", 0]
    problems = problems_of(graph)
    assert any("node 23 (VHS_VideoCombine), input audio: found" in text for text in problems)
    load(graph, deviations=["VHS_VideoCombine.audio"])


@pytest.mark.parametrize("text", ["A man. [1] He nods.", "calm (smile:1.4)", "x\n( a b : 2 )"])
def test_markup_in_the_templates_own_prompt_is_refused(text: str) -> None:
    """Every job without a prompt would be rendered with it."""
    graph = shipped()
    graph["17"]["inputs"]["positive_prompt"] = text
    assert any("input positive_prompt: found" in problem for problem in problems_of(graph))
    load(graph, deviations=["17.positive_prompt"])


@pytest.mark.parametrize("text", ["", "(calm) [outside], at 10:30", "one | two", "a: 1"])
def test_plain_words_and_a_prompt_per_window_pass(text: str) -> None:
    graph = shipped()
    graph["17"]["inputs"]["positive_prompt"] = text
    load(graph)


def test_a_text_encoder_that_relies_on_its_cache_is_refused() -> None:
    """A job's prompt is new, so the cache does not hold it."""
    graph = with_t5_loader()
    del graph["17"]["inputs"]["t5"]
    graph["17"]["inputs"]["use_disk_cache"] = True
    assert any("input t5: found nothing" in text for text in problems_of(graph))


def test_an_unknown_node_with_a_link_to_nowhere_is_refused() -> None:
    """ComfyUI would refuse the whole graph."""
    graph = shipped()
    graph["90"] = {"class_type": "FancyFilter", "inputs": {"image": ["99", 0]}}
    problems = problems_of(graph, deviations=["class:FancyFilter"])
    assert any("input image: found a link to node 99" in text for text in problems)


def test_an_input_that_newer_nodes_have_can_be_permitted() -> None:
    """And is noted."""
    graph = shipped()
    graph["16"]["inputs"]["new_switch"] = True
    assert any("has no input new_switch" in text for text in problems_of(graph))
    notes = load(graph, deviations=["WanVideoSampler.new_switch"]).notes
    assert any("new_switch" in note for note in notes)


def test_an_overlap_that_an_unknown_node_gives_is_refused_even_if_listed() -> None:
    """The windows could not be counted."""
    graph = shipped()
    graph["90"] = {"class_type": "FancyNumber", "inputs": {}}
    graph["13"]["inputs"]["motion_frame"] = ["90", 0]
    problems = problems_of(graph, deviations=["class:FancyNumber", "13.motion_frame"])
    assert any("input motion_frame: wanted a whole number" in text for text in problems)
