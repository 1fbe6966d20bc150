"""The frames of a rendered video are counted."""

import io
from fractions import Fraction

import av
import pytest

from worker.doctor.probe import expected_gpu_seconds
from worker.doctor.video import judge_video


def film(frames: int, width: int = 64, height: int = 48, *, sound: bool = True) -> io.BytesIO:
    """Return a small MP4."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = out.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number in range(frames):
            frame = av.VideoFrame(width, height, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None:
            heard = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            heard.planes[0].update(bytes(4096))
            heard.sample_rate, heard.pts = 16_000, 0
            out.mux(audio.encode(heard))
            out.mux(audio.encode(None))
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (film(5), None),
        (film(4), "The video has 4 frames instead of 5."),
        (film(5, 32, 48), "The video has 32x48 pixels instead of 64x48."),
        (film(5, sound=False), "The video has no audio stream."),
        (io.BytesIO(b"<html>not found</html>"), "cannot be decoded as a video"),
        (io.BytesIO(), "cannot be decoded as a video"),
    ],
)
def test_the_video_must_be_as_requested(file: io.BytesIO, says: str | None) -> None:
    problem = judge_video(file, 5, 64, 48)
    assert problem == says if says is None else says in str(problem)


def test_the_expected_cost_is_that_of_one_small_window() -> None:
    assert expected_gpu_seconds(156) == pytest.approx(67.6)
