"""Sound of 8 channels, each in a plane of its own, is heard as any other."""

import io
import tempfile
from fractions import Fraction

import pytest

from tests.data.media.sounds import sound
from worker.media.decoders import Decoders


@pytest.mark.parametrize(
    ("codec", "container"), [("aac", "ipod"), ("libopus", "ogg"), ("wavpack", "wv")]
)
async def test_eight_channels_in_planes_of_their_own_end_no_decoder(
    codec: str, container: str
) -> None:
    """PyAV lists a ninth plane, which is no memory at all: a decoder that read it was ended."""
    parts = [[(1.0, 0.3)]] * 8
    data = sound(channels=parts, layout="7.1", codec=codec, container=container, rate=48_000)
    pool = Decoders()
    try:
        with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as into:
            file.write(data)
            file.flush()
            facts = await pool.probe_audio(file)
            await pool.render_audio(file, facts, seconds=Fraction(25, 25), into=into)
            assert into.seek(0, io.SEEK_END) > 1000
    finally:
        pool.close()
    assert facts.channels == 8
    assert float(facts.seconds) == pytest.approx(1.0, abs=0.1)
