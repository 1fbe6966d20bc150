"""Checks a rendered video: size, number of frames, sound."""

from __future__ import annotations

from typing import BinaryIO


def judge_video(file: BinaryIO, frames: int, width: int, height: int) -> str | None:
    """Return what is wrong with the video, None if it is as requested."""
    import av  # not above: the daemon must not load it

    try:
        with av.open(file, mode="r") as container:
            if not container.streams.video:
                return "The file has no video stream."
            if not container.streams.audio:
                return "The video has no audio stream."
            stream = container.streams.video[0]
            size = (stream.width, stream.height)
            count = len([None for _ in container.decode(stream)])
    except av.FFmpegError as error:
        return f"The file cannot be decoded as a video ({type(error).__name__})."
    if size != (width, height):
        return f"The video has {size[0]}x{size[1]} pixels instead of {width}x{height}."
    if count != frames:
        return f"The video has {count} frames instead of {frames}."
    return None
