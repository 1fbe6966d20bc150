"""The contracts of the ComfyUI nodes that a template may use, as far as the guard needs them.

Taken from what two states of the node packs (November 2025, February 2026) declare: choices and
limits are those that both accept. A type is a link type (several with "," between), or FILE (a
name on the endpoint), STRING, BOOLEAN, INT or FLOAT with limits, or its choices with "|" between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContract:
    """What a node must get, may get, and gives."""

    needs: Mapping[str, str] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=dict)
    gives: tuple[str, ...] = ()


NODES: dict[str, NodeContract] = {
    "AudioCrop": NodeContract(
        needs={"audio": "AUDIO", "start_time": "STRING", "end_time": "STRING"},
        gives=("AUDIO",),
    ),
    "AudioSeparation": NodeContract(
        needs={"audio": "AUDIO"},
        takes={
            "chunk_fade_shape": "linear|half_sine|logarithmic|exponential",
            "chunk_length": "FLOAT",
            "chunk_overlap": "FLOAT",
        },
        gives=("AUDIO", "AUDIO", "AUDIO", "AUDIO"),
    ),
    "CLIPVisionLoader": NodeContract(
        needs={"clip_name": "FILE"},
        gives=("CLIP_VISION",),
    ),
    "DownloadAndLoadWav2VecModel": NodeContract(
        needs={
            "model": "FILE",
            "base_precision": "fp32|bf16|fp16",
            "load_device": "main_device|offload_device",
        },
        gives=("WAV2VECMODEL",),
    ),
    "GetImageSize": NodeContract(
        needs={"image": "IMAGE"},
        gives=("INT", "INT", "INT"),
    ),
    "INTConstant": NodeContract(
        needs={"value": "INT"},
        gives=("INT",),
    ),
    "ImageResizeKJv2": NodeContract(
        needs={
            "image": "IMAGE",
            "width": "INT 0..16384",
            "height": "INT 0..16384",
            "upscale_method": "nearest-exact|bilinear|area|bicubic|lanczos",
            "keep_proportion": "stretch|resize|pad|pad_edge|pad_edge_pixel|crop|pillarbox_blur",
            "pad_color": "STRING",
            "crop_position": "center|top|bottom|left|right",
            "divisible_by": "INT 0..512",
        },
        takes={"mask": "MASK", "device": "cpu|gpu"},
        gives=("IMAGE", "INT", "INT", "MASK"),
    ),
    "ImageScale": NodeContract(
        needs={
            "image": "IMAGE",
            "upscale_method": "nearest-exact|bilinear|area|bicubic|lanczos",
            "width": "INT 0..16384",
            "height": "INT 0..16384",
            "crop": "disabled|center",
        },
        gives=("IMAGE",),
    ),
    "LoadAudio": NodeContract(
        needs={"audio": "FILE"},
        gives=("AUDIO",),
    ),
    "LoadImage": NodeContract(
        needs={"image": "FILE"},
        gives=("IMAGE", "MASK"),
    ),
    "LoadWanVideoT5TextEncoder": NodeContract(
        needs={"model_name": "FILE", "precision": "fp32|bf16"},
        takes={"load_device": "main_device|offload_device", "quantization": "disabled|fp8_e4m3fn"},
        gives=("WANTEXTENCODER",),
    ),
    "MultiTalkModelLoader": NodeContract(
        needs={"model": "FILE"},
        gives=("MULTITALKMODEL",),
    ),
    "MultiTalkWav2VecEmbeds": NodeContract(
        needs={
            "wav2vec_model": "WAV2VECMODEL",
            "audio_1": "AUDIO",
            "normalize_loudness": "BOOLEAN",
            "num_frames": "INT 1..10000",
            "fps": "FLOAT 1.0..60.0",
            "audio_scale": "FLOAT 0.0..100.0",
            "audio_cfg_scale": "FLOAT 0.0..100.0",
            "multi_audio_type": "para|add",
        },
        takes={
            "audio_2": "AUDIO",
            "audio_3": "AUDIO",
            "audio_4": "AUDIO",
            "ref_target_masks": "MASK",
            "add_noise_floor": "BOOLEAN",
            "smooth_transients": "BOOLEAN",
        },
        gives=("MULTITALK_EMBEDS", "AUDIO", "INT"),
    ),
    "PrimitiveFloat": NodeContract(
        needs={"value": "FLOAT"},
        gives=("FLOAT",),
    ),
    "TrimAudioDuration": NodeContract(
        needs={"audio": "AUDIO", "start_index": "FLOAT", "duration": "FLOAT 0.0.."},
        gives=("AUDIO",),
    ),
    "VHS_VideoCombine": NodeContract(
        needs={
            "images": "IMAGE,LATENT",
            "frame_rate": "FLOAT,INT 1..",
            "loop_count": "INT 0..100",
            "filename_prefix": "STRING",
            "format": (
                "image/gif|image/webp|video/16bit-png|video/8bit-png|video/ProRes|video/av1-webm|"
                "video/ffmpeg-gif|video/ffv1-mkv|video/h264-mp4|video/h265-mp4|"
                "video/nvenc_av1-mp4|video/nvenc_h264-mp4|video/nvenc_hevc-mp4|video/webm"
            ),
            "pingpong": "BOOLEAN",
            "save_output": "BOOLEAN",
        },
        takes={
            "audio": "AUDIO",
            "meta_batch": "VHS_BatchManager",
            "vae": "VAE",
            "pix_fmt": "yuv420p|yuv420p10le",
            "crf": "INT 0..100",
            "save_metadata": "BOOLEAN",
            "trim_to_audio": "BOOLEAN",
        },
        gives=("VHS_FILENAMES",),
    ),
    "WanVideoBlockSwap": NodeContract(
        needs={
            "blocks_to_swap": "INT 0..48",
            "offload_img_emb": "BOOLEAN",
            "offload_txt_emb": "BOOLEAN",
        },
        takes={
            "use_non_blocking": "BOOLEAN",
            "vace_blocks_to_swap": "INT 0..15",
            "prefetch_blocks": "INT 0..40",
            "block_swap_debug": "BOOLEAN",
        },
        gives=("BLOCKSWAPARGS",),
    ),
    "WanVideoClipVisionEncode": NodeContract(
        needs={
            "clip_vision": "CLIP_VISION",
            "image_1": "IMAGE",
            "strength_1": "FLOAT 0.0..10.0",
            "strength_2": "FLOAT 0.0..10.0",
            "crop": "center|disabled",
            "combine_embeds": "average|sum|concat|batch",
            "force_offload": "BOOLEAN",
        },
        takes={
            "image_2": "IMAGE",
            "negative_image": "IMAGE",
            "tiles": "INT 0..16",
            "ratio": "FLOAT 0.0..1.0",
        },
        gives=("WANVIDIMAGE_CLIPEMBEDS",),
    ),
    "WanVideoDecode": NodeContract(
        needs={
            "vae": "WANVAE",
            "samples": "LATENT",
            "enable_vae_tiling": "BOOLEAN",
            "tile_x": "INT 40..2048",
            "tile_y": "INT 40..2048",
            "tile_stride_x": "INT 32..2040",
            "tile_stride_y": "INT 32..2040",
        },
        takes={"normalization": "default|minmax"},
        gives=("IMAGE",),
    ),
    "WanVideoImageToVideoMultiTalk": NodeContract(
        needs={
            "vae": "WANVAE",
            "width": "INT 64..2048",
            "height": "INT 64..29048",
            "frame_window_size": "INT 1..10000",
            "motion_frame": "INT 1..10000",
            "force_offload": "BOOLEAN",
            "colormatch": "disabled|mkl|hm|reinhard|mvgd|hm-mvgd-hm|hm-mkl-hm",
        },
        takes={
            "start_image": "IMAGE",
            "tiled_vae": "BOOLEAN",
            "clip_embeds": "WANVIDIMAGE_CLIPEMBEDS",
            "mode": "auto|multitalk|infinitetalk",
            "output_path": "STRING",
        },
        gives=("WANVIDIMAGE_EMBEDS", "STRING"),
    ),
    "WanVideoLoraSelect": NodeContract(
        needs={"lora": "FILE", "strength": "FLOAT -10.0..10.0"},
        takes={
            "prev_lora": "WANVIDLORA",
            "blocks": "SELECTEDBLOCKS",
            "low_mem_load": "BOOLEAN",
            "merge_loras": "BOOLEAN",
        },
        gives=("WANVIDLORA",),
    ),
    "WanVideoModelLoader": NodeContract(
        needs={
            "model": "FILE",
            "base_precision": "fp32|bf16|fp16|fp16_fast",
            "quantization": (
                "disabled|fp8_e4m3fn|fp8_e4m3fn_fast|fp8_e4m3fn_scaled|fp8_e4m3fn_scaled_fast|"
                "fp8_e5m2|fp8_e5m2_fast|fp8_e5m2_scaled|fp8_e5m2_scaled_fast"
            ),
            "load_device": "main_device|offload_device",
        },
        takes={
            "attention_mode": (
                "sdpa|flash_attn_2|flash_attn_3|sageattn|sageattn_3|radial_sage_attention|"
                "sageattn_compiled"
            ),
            "compile_args": "WANCOMPILEARGS",
            "block_swap_args": "BLOCKSWAPARGS",
            "lora": "WANVIDLORA",
            "vram_management_args": "VRAM_MANAGEMENTARGS",
            "extra_model": "VACEPATH",
            "fantasytalking_model": "FANTASYTALKINGMODEL",
            "multitalk_model": "MULTITALKMODEL",
            "fantasyportrait_model": "FANTASYPORTRAITMODEL",
            "rms_norm_function": "default|pytorch",
        },
        gives=("WANVIDEOMODEL",),
    ),
    "WanVideoSampler": NodeContract(
        needs={
            "model": "WANVIDEOMODEL",
            "image_embeds": "WANVIDIMAGE_EMBEDS",
            "steps": "INT 1..",
            "cfg": "FLOAT 0.0..30.0",
            "shift": "FLOAT 0.0..1000.0",
            "seed": "INT 0..",
            "force_offload": "BOOLEAN",
            "scheduler": (
                "unipc|unipc/beta|dpm++|dpm++/beta|dpm++_sde|dpm++_sde/beta|euler|euler/beta|"
                "longcat_distill_euler|deis|lcm|lcm/beta|res_multistep|flowmatch_causvid|"
                "flowmatch_distill|flowmatch_pusa|multitalk|sa_ode_stable|rcm"
            ),
            "riflex_freq_index": "INT 0..1000",
        },
        takes={
            "text_embeds": "WANVIDEOTEXTEMBEDS",
            "samples": "LATENT",
            "denoise_strength": "FLOAT 0.0..1.0",
            "feta_args": "FETAARGS",
            "context_options": "WANVIDCONTEXT",
            "cache_args": "CACHEARGS",
            "flowedit_args": "FLOWEDITARGS",
            "batched_cfg": "BOOLEAN",
            "slg_args": "SLGARGS",
            "rope_function": "default|comfy|comfy_chunked",
            "loop_args": "LOOPARGS",
            "experimental_args": "EXPERIMENTALARGS",
            "sigmas": "SIGMAS",
            "unianimate_poses": "UNIANIMATE_POSE",
            "fantasytalking_embeds": "FANTASYTALKING_EMBEDS",
            "uni3c_embeds": "UNI3C_EMBEDS",
            "multitalk_embeds": "MULTITALK_EMBEDS",
            "freeinit_args": "FREEINITARGS",
            "start_step": "INT 0..10000",
            "end_step": "INT -1..10000",
            "add_noise_to_samples": "BOOLEAN",
        },
        gives=("LATENT", "LATENT"),
    ),
    "WanVideoTextEncode": NodeContract(
        needs={"positive_prompt": "STRING", "negative_prompt": "STRING"},
        takes={
            "t5": "WANTEXTENCODER",
            "force_offload": "BOOLEAN",
            "model_to_offload": "WANVIDEOMODEL",
            "use_disk_cache": "BOOLEAN",
            "device": "gpu|cpu",
        },
        gives=("WANVIDEOTEXTEMBEDS",),
    ),
    "WanVideoTextEncodeCached": NodeContract(
        needs={
            "model_name": "FILE",
            "precision": "fp32|bf16",
            "positive_prompt": "STRING",
            "negative_prompt": "STRING",
            "quantization": "disabled|fp8_e4m3fn",
            "use_disk_cache": "BOOLEAN",
            "device": "gpu|cpu",
        },
        takes={"extender_args": "WANVIDEOPROMPTEXTENDER_ARGS"},
        gives=("WANVIDEOTEXTEMBEDS", "WANVIDEOTEXTEMBEDS", "STRING"),
    ),
    "WanVideoTorchCompileSettings": NodeContract(
        needs={
            "backend": "inductor|cudagraphs",
            "fullgraph": "BOOLEAN",
            "mode": "default|max-autotune|max-autotune-no-cudagraphs|reduce-overhead",
            "dynamic": "BOOLEAN",
            "dynamo_cache_size_limit": "INT 0..1024",
            "compile_transformer_blocks_only": "BOOLEAN",
        },
        takes={
            "dynamo_recompile_limit": "INT 0..1024",
            "force_parameter_static_shapes": "BOOLEAN",
            "allow_unmerged_lora_compile": "BOOLEAN",
        },
        gives=("WANCOMPILEARGS",),
    ),
    "WanVideoVAELoader": NodeContract(
        needs={"model_name": "FILE"},
        takes={
            "precision": "fp16|fp32|bf16",
            "compile_args": "WANCOMPILEARGS",
            "use_cpu_cache": "BOOLEAN",
            "verbose": "BOOLEAN",
        },
        gives=("WANVAE",),
    ),
    "Wav2VecModelLoader": NodeContract(
        needs={
            "model": "FILE",
            "base_precision": "fp32|bf16|fp16",
            "load_device": "main_device|offload_device",
        },
        gives=("WAV2VECMODEL",),
    ),
}
