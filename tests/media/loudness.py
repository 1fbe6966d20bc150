"""How loud a file is, channel by channel, as the worker measures it."""

import io
from statistics import fmean

import av

from worker.media.audio_levels import LevelMeter
from worker.plan.media_facts import dbfs


def loudness(data: bytes) -> list[float]:
    """The mean level of each channel in dBFS."""
    meter = LevelMeter()
    with av.open(io.BytesIO(data), mode="r") as container:
        for frame in container.decode(audio=0):
            meter.feed(frame)
    return [dbfs(fmean(channel.windows)) for channel in meter.finish()]
