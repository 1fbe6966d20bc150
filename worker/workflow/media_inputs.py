"""How the inputs of the nodes for images, sound and the video file are treated."""

from __future__ import annotations

import re
from collections.abc import Mapping

from worker.plan.frames import FRAME_RATE
from worker.plan.tiers import CRF_RANGE
from worker.workflow.names import EMBEDS, RESIZERS, VIDEO
from worker.workflow.treatment import (
    GUIDE,
    LENGTH,
    Free,
    Output,
    PerJob,
    Treatment,
    among,
    between,
    default,
    link,
    matching,
    nothing,
    pin,
)

_HANDLER = Free("the endpoint's handler writes the name of the job's file here")
_CONSTANT = Free("it is read where it is linked to, by the rule of that input")
_IMAGE = link("LoadImage", *RESIZERS, why="only the portrait is scaled")
SPEECH = link(
    "LoadAudio",
    "AudioCrop",
    "TrimAudioDuration",
    Output("AudioSeparation", 3),
    why="it must be the voice that the plan measured",
)
_SCALING = pin("lanczos", GUIDE)
_START = "the plan counts from the start of the audio"

MEDIA_INPUTS: Mapping[str, Mapping[str, Treatment]] = {
    "LoadImage": {"image": _HANDLER},
    "ImageScale": {
        "image": _IMAGE,
        "upscale_method": _SCALING,
        "width": PerJob("width"),
        "height": PerJob("height"),
        "crop": pin("center", "disabled stretches a portrait of another shape"),
    },
    "ImageResizeKJv2": {
        "image": _IMAGE,
        "width": PerJob("width"),
        "height": PerJob("height"),
        "upscale_method": _SCALING,
        "keep_proportion": pin(
            "crop",
            "stretch distorts a portrait of another shape, pad puts bars beside it",
            limit=matching(
                re.compile("stretch|crop|pad.*|pillarbox_blur"),
                "crop",
                "resize gives another size than the planned one",
            ),
        ),
        "pad_color": Free("nothing is padded"),
        "crop_position": pin("center", "a face at another edge would be cut off"),
        "divisible_by": among((0, 1, 2, 4, 8, 16), "render sizes are multiples of 16 only"),
        "mask": nothing("only the portrait is scaled"),
        "device": default("cpu", "lanczos does not run on the GPU"),
    },
    "GetImageSize": {"image": _IMAGE},
    "LoadAudio": {"audio": _HANDLER},
    "AudioCrop": {
        "audio": SPEECH,
        "start_time": matching(re.compile(r"[0:. ]*"), "0:00", _START, firm=True),
        "end_time": PerJob("crop_end"),
    },
    "TrimAudioDuration": {
        "audio": SPEECH,
        "start_index": pin(0, _START, firm=True),
        "duration": PerJob("trim_seconds"),
    },
    "AudioSeparation": {
        "audio": SPEECH,
        "chunk_fade_shape": Free("it blends the pieces of the separated voice"),
        "chunk_length": default(10.0, "longer pieces need more memory, shorter ones lose words"),
        "chunk_overlap": default(0.1, "it must stay far below the length of a piece"),
    },
    VIDEO: {
        "images": link("WanVideoDecode", why="other images are not the rendered frames"),
        "audio": link(
            Output(EMBEDS, 1),
            "TrimAudioDuration",
            Output("AudioSeparation", 3),
            why="that sound ends with the planned frames; AudioCrop knows only whole seconds",
        ),
        "frame_rate": pin(FRAME_RATE, LENGTH, firm=True),
        "loop_count": pin(0, LENGTH),
        "filename_prefix": PerJob("file_name"),
        "format": pin("video/h264-mp4", GUIDE),
        "pix_fmt": pin("yuv420p", GUIDE),
        "crf": PerJob("crf", between(*CRF_RANGE, "the guide's range")),
        "save_metadata": Free("it adds the graph to the file's metadata, not to the picture"),
        "trim_to_audio": pin(True, "the frames of the padded tail would stay in the video"),
        "pingpong": pin(False, LENGTH),
        "save_output": pin(True, "the endpoint's handler delivers what lies in the output folder"),
        "meta_batch": nothing("the video would come in pieces"),
        "vae": nothing("the frames are decoded already"),
    },
    "INTConstant": {"value": _CONSTANT},
    "PrimitiveFloat": {"value": _CONSTANT},
}
