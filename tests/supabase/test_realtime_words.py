"""What the workers tell a waiting row must not ring at the workers."""

import pytest

from tests.supabase.realtime_ears import listening
from tests.supabase.realtime_server import realtime
from worker.supabase.realtime import RingKind

# The library reads attributes that its own websockets release has deprecated.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning"
)


@pytest.mark.parametrize("word", [{"queue_position": 7}, {"phase_detail": "Waiting: the limit."}])
async def test_a_place_in_line_and_a_reason_to_wait_do_not_ring(word):
    async with realtime() as server, listening(server.url) as ears:
        await ears.ready()
        peer = await server.peer()
        waiting = {"status": "queued", "cancel_requested": False}
        await peer.change("UPDATE", {"id": "told", **waiting, **word})
        await peer.change("UPDATE", {"id": "retried", **waiting, **dict.fromkeys(word)})
        ring = await ears.ring()
        assert (ring.kind, ring.job_id) == (RingKind.RETRY, "retried")
