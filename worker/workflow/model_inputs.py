"""How the inputs of the nodes that load models and render are treated."""

from __future__ import annotations

import re
from collections.abc import Mapping

from worker.plan.frames import FIRST_WINDOW, FRAME_RATE
from worker.plan.tiers import LORAS, MODELS
from worker.workflow.media_inputs import SPEECH
from worker.workflow.names import EMBEDS, I2V, LORA, MODEL, RESIZERS, SAMPLER
from worker.workflow.treatment import (
    GUIDE,
    LENGTH,
    Compared,
    Free,
    PerJob,
    Treatment,
    among,
    between,
    default,
    file,
    link,
    matching,
    nothing,
    pin,
)

_MODEL_NAME = re.compile(
    rf"(?:.*[/\\])?wan2\.1-i2v-14b-480p-({'|'.join(MODELS)})\.gguf", re.IGNORECASE
)
_LORA_NAME = re.compile(
    rf"(?:.*[/\\])?lightx2v_I2V_14B_480p_cfg_step_distill_({'|'.join(LORAS)})_bf16\.safetensors",
    re.IGNORECASE,
)

_SOURCE = "the workflow that the guide rests on has it, and it changes the picture"
_GGUF = "a GGUF model fails with anything else"
_TIER = "the quality tiers choose among these"
_FILES = "workflows/README.md lists the files of the endpoint"
_GRAPHS = "the others use CUDA graphs, which cannot follow weights that block swap moves"
_CHAIN = "the video is made along this chain"
_ABSENT = "the guide's graph has nothing there, and it would change the picture"
_MEMORY = Free("it decides where weights wait: memory and speed, not the picture")
_ROUNDING = Free("it trades memory for rounding; the endpoint's GPU decides", needed=True)
_COMPILE = Free("it changes how long compiling takes, not the picture")
_DECODED = Free("the sampler hands on decoded frames, which this node passes on as they are")
_ONE_IMAGE = Free("it weighs a second image, and there is only one")
_LOGS = Free("it changes only what the endpoint logs")
_SCALED = link(*RESIZERS, why="only these have exactly the size of the render")
_COMPILE_ARGS = link("WanVideoTorchCompileSettings", why=_CHAIN, needed=False)
_T5_FILE = file("umt5-xxl-enc-bf16.safetensors", _FILES)
_PLAIN = re.compile(r"(?!.*\[\d+\])(?!.*\([^()]*:[\s\d.]+\)).*", re.DOTALL)
# A job without a prompt of its own is rendered with the template's.
_PROMPTS: Mapping[str, Treatment] = {
    "positive_prompt": PerJob(
        "prompt",
        matching(
            _PLAIN,
            "plain words",
            "the text encoder takes [1] as a change of scene, and (word:1.2) as a weight on all",
        ),
    ),
    "negative_prompt": PerJob("negative_prompt"),
}
_SPEAKER = nothing("the video has one speaker")
_CACHE = Free("the same embeddings, kept for the next job")

_OTHER_ARGUMENTS = (
    "samples", "feta_args", "context_options", "cache_args", "flowedit_args", "slg_args",
    "loop_args", "experimental_args", "sigmas", "unianimate_poses", "fantasytalking_embeds",
    "uni3c_embeds", "freeinit_args",
)  # fmt: skip

MODEL_INPUTS: Mapping[str, Mapping[str, Treatment]] = {
    MODEL: {
        "model": PerJob(
            "model",
            matching(_MODEL_NAME, "wan2.1-i2v-14b-480p-Q4_0.gguf, -Q5_0.gguf or -Q6_K.gguf", _TIER),
        ),
        "base_precision": pin("fp16_fast", GUIDE),
        "quantization": pin("disabled", _GGUF),
        "load_device": _MEMORY,
        "attention_mode": pin("sageattn", GUIDE),
        "compile_args": _COMPILE_ARGS,
        "block_swap_args": link("WanVideoBlockSwap", why=GUIDE),
        "lora": link(LORA, why=GUIDE),
        "vram_management_args": nothing("it contradicts block swap"),
        "multitalk_model": link("MultiTalkModelLoader", why=_CHAIN),
        **dict.fromkeys(
            ("extra_model", "fantasytalking_model", "fantasyportrait_model"), nothing(_ABSENT)
        ),
        "rms_norm_function": Free("two implementations of one formula"),
    },
    LORA: {
        "lora": PerJob(
            "lora",
            matching(
                _LORA_NAME,
                "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors or _rank256_",
                _TIER,
            ),
        ),
        "strength": pin(1.0, GUIDE),
        "prev_lora": nothing(_ABSENT),
        "blocks": nothing(_ABSENT),
        "low_mem_load": default(False, _GGUF),
        "merge_loras": pin(False, _GGUF),
    },
    "MultiTalkModelLoader": {"model": file("Wan2_1-InfiniteTalk_Single_Q8.gguf", GUIDE)},
    "WanVideoBlockSwap": {
        "blocks_to_swap": pin(
            20,
            GUIDE,
            limit=between(
                0,
                40,
                "the model has 40 blocks, and ComfyUI refuses more than 48 (also the 60 of the "
                "guide's table)",
            ),
        ),
        "prefetch_blocks": pin(1, GUIDE),
        "offload_img_emb": _MEMORY,
        "offload_txt_emb": _MEMORY,
        "use_non_blocking": _MEMORY,
        "vace_blocks_to_swap": Free("it moves blocks of VACE, which is not loaded"),
        "block_swap_debug": _LOGS,
    },
    "WanVideoTorchCompileSettings": {
        "backend": pin("inductor", _GRAPHS),
        "fullgraph": pin(False, "it fails at the first part that cannot be compiled"),
        "mode": among(("default", "max-autotune-no-cudagraphs"), _GRAPHS),
        "dynamic": _COMPILE,
        "dynamo_cache_size_limit": _COMPILE,
        "compile_transformer_blocks_only": _COMPILE,
        "dynamo_recompile_limit": _COMPILE,
        "force_parameter_static_shapes": _COMPILE,
        "allow_unmerged_lora_compile": _COMPILE,
    },
    "CLIPVisionLoader": {"clip_name": file("clip_vision_h.safetensors", _FILES)},
    "WanVideoClipVisionEncode": {
        "clip_vision": link("CLIPVisionLoader", why=_CHAIN),
        "image_1": _SCALED,
        "image_2": nothing(_ABSENT),
        "negative_image": nothing(_ABSENT),
        "strength_1": pin(1.0, _SOURCE),
        "strength_2": _ONE_IMAGE,
        "combine_embeds": _ONE_IMAGE,
        "crop": pin("center", _SOURCE),
        "force_offload": _MEMORY,
        "tiles": default(0, _SOURCE),
        "ratio": Free("it weighs tiles, and there are none"),
    },
    "LoadWanVideoT5TextEncoder": {
        "model_name": _T5_FILE,
        "precision": _ROUNDING,
        "load_device": _MEMORY,
        "quantization": default("disabled", _SOURCE),
    },
    "WanVideoTextEncode": {
        **_PROMPTS,
        "t5": link("LoadWanVideoT5TextEncoder", why="each job has its own prompt to encode"),
        "force_offload": _MEMORY,
        "model_to_offload": link(MODEL, why=_CHAIN, needed=False),
        "use_disk_cache": _CACHE,
        "device": _MEMORY,
    },
    "WanVideoTextEncodeCached": {
        **_PROMPTS,
        "model_name": _T5_FILE,
        "precision": _ROUNDING,
        "quantization": pin("disabled", _SOURCE),
        "use_disk_cache": _CACHE,
        "device": _MEMORY,
        "extender_args": nothing(_ABSENT),
    },
    "Wav2VecModelLoader": {
        "model": file("wav2vec2-chinese-base_fp16.safetensors", GUIDE),
        "base_precision": _ROUNDING,
        "load_device": _MEMORY,
    },
    "DownloadAndLoadWav2VecModel": {
        "model": file("chinese-wav2vec2-base", "InfiniteTalk was trained on its features"),
        "base_precision": _ROUNDING,
        "load_device": _MEMORY,
    },
    EMBEDS: {
        "wav2vec_model": link("Wav2VecModelLoader", "DownloadAndLoadWav2VecModel", why=_CHAIN),
        "audio_1": SPEECH,
        "normalize_loudness": pin(True, GUIDE),
        "num_frames": PerJob("frames"),
        "fps": pin(FRAME_RATE, LENGTH, firm=True),
        "audio_scale": pin(1.0, "it scales how far the mouth moves"),
        "audio_cfg_scale": pin(1.0, "other values double the time and change the lips"),
        "multi_audio_type": Free("it combines several voices, and there is only one"),
        **dict.fromkeys(("audio_2", "audio_3", "audio_4"), _SPEAKER),
        "ref_target_masks": _SPEAKER,
        "add_noise_floor": default(False, "it changes what the model hears"),
        "smooth_transients": default(False, "it changes what the model hears"),
    },
    "WanVideoVAELoader": {
        "model_name": file("wan_2.1_vae.safetensors", _FILES),
        "precision": _ROUNDING,
        "compile_args": _COMPILE_ARGS,
        "use_cpu_cache": _MEMORY,
        "verbose": _LOGS,
    },
    I2V: {
        "vae": link("WanVideoVAELoader", why=_CHAIN),
        "start_image": _SCALED,
        "clip_embeds": link("WanVideoClipVisionEncode", why=_CHAIN),
        "width": PerJob("width"),
        "height": PerJob("height"),
        "frame_window_size": pin(FIRST_WINDOW, LENGTH, firm=True),
        "motion_frame": pin(25, GUIDE, limit=between(1, FIRST_WINDOW - 1, LENGTH)),
        "force_offload": _MEMORY,
        "colormatch": pin("mkl", GUIDE),
        "tiled_vae": default(False, "seams between tiles would show in every window"),
        "mode": pin("infinitetalk", GUIDE),
        "output_path": default("", "the frames would fill the endpoint's disk"),
    },
    SAMPLER: {
        "model": link(MODEL, why=_CHAIN),
        "image_embeds": link(I2V, why=_CHAIN),
        "text_embeds": link(
            "WanVideoTextEncode", "WanVideoTextEncodeCached", why="others are not the prompt"
        ),
        "multitalk_embeds": link(EMBEDS, why=_CHAIN),
        "steps": PerJob("steps"),
        "seed": PerJob("seed"),
        "cfg": pin(1.0, GUIDE),
        "shift": pin(11.0, GUIDE),
        "scheduler": pin("dpm++_sde", GUIDE),
        "add_noise_to_samples": pin(True, GUIDE),
        "force_offload": _MEMORY,
        "batched_cfg": Free("with cfg 1.0 there is one pass"),
        "riflex_freq_index": pin(0, _SOURCE),
        "rope_function": pin("comfy", _SOURCE),
        "denoise_strength": default(1.0, "with less the picture stays noise or the still portrait"),
        "start_step": default(0, "a job's steps must all be done"),
        "end_step": default(-1, "a job's steps must all be done"),
        **dict.fromkeys(_OTHER_ARGUMENTS, nothing(_ABSENT)),
    },
    "WanVideoDecode": {
        "vae": link("WanVideoVAELoader", why=_CHAIN),
        "samples": link(SAMPLER, why="only the first output holds the whole video"),
        "enable_vae_tiling": _DECODED,
        "tile_x": Compared("tile_stride_x", above=True),
        "tile_y": Compared("tile_stride_y", above=True),
        "tile_stride_x": Compared("tile_x", above=False),
        "tile_stride_y": Compared("tile_y", above=False),
        "normalization": _DECODED,
    },
}
