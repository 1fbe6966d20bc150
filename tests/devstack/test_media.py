"""The preview video matches the graph."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from devstack import media
from tests.devstack.runpod_kit import SAMPLES


def rendered(path: Path, width: int, height: int, frames: int, audio: Path | None = None) -> Path:
    target = path / "preview.mp4"
    media.render(
        image=SAMPLES / "portrait.jpg",
        audio=audio or SAMPLES / "speech.mp3",
        target=target,
        width=width,
        height=height,
        frames=frames,
    )
    return target


@pytest.mark.parametrize(("width", "height"), [(480, 832), (528, 496), (1280, 720)])
def test_it_has_the_size_the_frames_and_the_codecs_asked_for(
    tmp_path: Path, width: int, height: int
) -> None:
    with av.open(str(rendered(tmp_path, width, height, 30))) as video:
        (picture,), (sound,) = video.streams.video, video.streams.audio
        assert (picture.codec.name, sound.codec.name) == ("h264", "aac")
        assert picture.codec_context.pix_fmt == "yuv420p"
        assert (picture.width, picture.height) == (width, height)
        assert picture.average_rate == Fraction(25)
        assert [_seconds(stream) for stream in (picture, sound)] == [Fraction(30, 25)] * 2
        assert sum(1 for _ in video.decode(video=0)) == 30


def test_its_index_comes_first_so_that_a_browser_starts_at_once(tmp_path: Path) -> None:
    data = rendered(tmp_path, 480, 480, 10).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_it_moves_with_the_sound_and_shows_the_portrait(tmp_path: Path) -> None:
    with av.open(str(rendered(tmp_path, 480, 832, 60))) as video:
        images = [frame.to_image() for frame in video.decode(video=0)]
    head, foot = (0, 0, 480, 700), (0, 780, 480, 832)
    assert _difference(images[5].crop(foot), images[40].crop(foot)) > 5
    expected = media.fit(SAMPLES / "portrait.jpg", 480, 832)
    assert _difference(images[40].crop(head), expected.crop(head)) < 6


def test_sound_shorter_than_the_video_is_followed_by_silence() -> None:
    heard = media.read_audio(SAMPLES / "speech.mp3", 44_100 * 12)
    assert len(heard) == 44_100 * 12
    assert max(heard[: 44_100 * 3]) > 1000
    assert set(heard[44_100 * 10 :]) == {0}


def test_a_picture_is_cut_around_its_centre_not_stretched(tmp_path: Path) -> None:
    wide = Image.new("RGB", (400, 100), "red")
    wide.paste("blue", (150, 0, 250, 100))
    wide.save(tmp_path / "wide.png")
    square = media.fit(tmp_path / "wide.png", 96, 96)
    assert square.getcolors() == [(96 * 96, (0, 0, 255))]


def test_a_picture_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 32), "red")
    picture.paste("blue", (32, 0, 64, 32))
    exif = Image.Exif()
    # "Turn by 90 degrees": the left half comes to the top.
    exif[0x0112] = 6
    picture.save(tmp_path / "sideways.png", exif=exif)
    upright = media.fit(tmp_path / "sideways.png", 32, 64)
    assert (upright.getpixel((16, 5)), upright.getpixel((16, 58))) == ((255, 0, 0), (0, 0, 255))


def test_the_meter_is_low_in_silence_and_high_where_the_sound_is_loud(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 44_100, 0, "NONE", ""))
        silence, loud = b"\0\0" * 44_100, b"\xff\x3f\x01\xc0" * 22_050
        sound.writeframes(silence + loud + silence * 2)
    video = rendered(tmp_path, 480, 832, 100, audio=tmp_path / "sound.wav")
    with av.open(str(video)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
    # The strip is 58 high and its bars stand on its middle; the sound is in frames 25 to 50.
    now = (228, 778, 252, 798)
    before, during, after = (_brightness(images[at].crop(now)) for at in (10, 38, 80))
    assert during > max(before, after) + 40


def _brightness(image: Image.Image) -> float:
    data = image.convert("L").tobytes()
    return sum(data) / len(data)


def _difference(one: Image.Image, other: Image.Image) -> float:
    first, second = one.convert("L").tobytes(), other.convert("L").tobytes()
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)


def _seconds(stream: av.VideoStream | av.AudioStream) -> Fraction:
    assert stream.duration is not None
    assert stream.time_base is not None
    return stream.duration * stream.time_base
