"""Templates for tests: the shipped one, and others that operators may bring."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from worker.runtime.data_files import node_contracts
from worker.workflow.validation import Template, load_template

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "workflows" / "infinitetalk.json").read_bytes()
Graph = dict[str, Any]


def shipped() -> Graph:
    """A copy of the shipped graph."""
    return json.loads(SHIPPED)


def with_t5_loader() -> Graph:
    """The graph with WanVideoTextEncode and the loader that it needs."""
    graph = shipped()
    cached = graph["17"]["inputs"]
    graph["17"] = {
        "class_type": "WanVideoTextEncode",
        "inputs": {
            "positive_prompt": cached["positive_prompt"],
            "negative_prompt": cached["negative_prompt"],
            "t5": ["20", 0],
            "force_offload": True,
            "use_disk_cache": False,
            "device": "gpu",
        },
    }
    graph["20"] = {
        "class_type": "LoadWanVideoT5TextEncoder",
        "inputs": {"model_name": "umt5-xxl-enc-bf16.safetensors", "precision": "bf16"},
    }
    return graph


def with_other_ids() -> Graph:
    """The graph with every id changed."""
    text = shipped()
    names = {key: f"{100 + int(key)}" for key in text}
    graph = deepcopy({names[key]: node for key, node in text.items()})
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][name] = [names[value[0]], value[1]]
    return graph


def with_audio_crop() -> Graph:
    """The graph with an AudioCrop between the file and the embeddings."""
    graph = shipped()
    graph["40"] = {
        "class_type": "AudioCrop",
        "inputs": {"audio": ["19", 0], "start_time": "0:00", "end_time": "0:18"},
    }
    graph["18"]["inputs"]["audio_1"] = ["40", 0]
    return graph


def with_constants() -> Graph:
    """The graph with its size and frame count in INTConstant nodes."""
    graph = shipped()
    for key, value, title in (("50", 720, "Width"), ("51", 1280, "Height"), ("52", 81, "Frames")):
        graph[key] = {
            "class_type": "INTConstant",
            "inputs": {"value": value},
            "_meta": {"title": title},
        }
    graph["13"]["inputs"] |= {"width": ["50", 0], "height": ["51", 0]}
    graph["14"]["inputs"] |= {"width": ["50", 0], "height": ["51", 0]}
    graph["18"]["inputs"]["num_frames"] = ["52", 0]
    del graph["15"]
    return graph


def with_kj_resize() -> Graph:
    """The graph with the resize of ComfyUI-KJNodes, which also tells the size."""
    graph = shipped()
    graph["14"] = {
        "class_type": "ImageResizeKJv2",
        "inputs": {
            "image": ["12", 0],
            "width": 720,
            "height": 1280,
            "upscale_method": "lanczos",
            "keep_proportion": "crop",
            "pad_color": "0, 0, 0",
            "crop_position": "center",
            "divisible_by": 16,
            "device": "cpu",
        },
    }
    graph["13"]["inputs"] |= {"width": ["14", 1], "height": ["14", 2]}
    del graph["15"]
    return graph


def with_trimmed_voice() -> Graph:
    """The graph with the voice separated and cut, and that sound in the video."""
    graph = shipped()
    graph["80"] = {"class_type": "AudioSeparation", "inputs": {"audio": ["81", 0]}}
    graph["81"] = {
        "class_type": "TrimAudioDuration",
        "inputs": {"audio": ["19", 0], "start_index": 0.0, "duration": 20.0},
    }
    graph["18"]["inputs"]["audio_1"] = ["80", 3]
    graph["23"]["inputs"]["audio"] = ["80", 3]
    return graph


def as_bytes(graph: Graph) -> bytes:
    """The graph as a file."""
    return json.dumps(graph).encode()


def load(data: bytes | str | Graph = SHIPPED, **options: Any) -> Template:
    """The checked template of a graph or a file, with the shipped node contracts."""
    file = as_bytes(data) if isinstance(data, dict) else data
    return load_template(file, node_contracts(), **options)
