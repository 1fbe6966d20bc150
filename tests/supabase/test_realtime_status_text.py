"""The status text that workers write to a waiting row must not wake the workers."""

import pytest

from tests.supabase.heard import listening
from tests.supabase.realtime_server import realtime
from worker.supabase.realtime import HintKind

# The library reads attributes that its own websockets release has deprecated.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning"
)


@pytest.mark.parametrize("text", [{"queue_position": 7}, {"phase_detail": "Waiting: the limit."}])
async def test_a_queue_position_and_a_waiting_text_give_no_hint(text):
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        peer = await server.peer()
        waiting = {"status": "queued", "cancel_requested": False}
        await peer.change("UPDATE", {"id": "waiting", **waiting, **text})
        await peer.change("UPDATE", {"id": "retried", **waiting, **dict.fromkeys(text)})
        hint = await heard.hint()
        assert (hint.kind, hint.job_id) == (HintKind.RETRY, "retried")
