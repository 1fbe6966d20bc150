"""The node classes that the worker works with by name."""

from __future__ import annotations

I2V = "WanVideoImageToVideoMultiTalk"
MODEL = "WanVideoModelLoader"
LORA = "WanVideoLoraSelect"
SAMPLER = "WanVideoSampler"
EMBEDS = "MultiTalkWav2VecEmbeds"
VIDEO = "VHS_VideoCombine"
RESIZERS = ("ImageScale", "ImageResizeKJv2")
CONSTANTS = ("INTConstant", "PrimitiveFloat")
