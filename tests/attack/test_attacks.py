"""An honest job is submitted while each attack still runs: the order of events, not seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
import pytest_asyncio

from devstack.postgres import Postgres
from tests.attack import file_attacks, network_attacks, row_attacks
from tests.attack.hosts import trickled_bytes, trickled_head
from tests.attack.machine import Peaks, memory_group, shipped_memory_mib
from tests.attack.order import attacked, honest_end, honest_run, until, upload
from tests.attack.scene import Scene, staged
from tests.attack.trial import Attack
from tests.e2e.kit import until_true, world_on
from tests.media.hostile import jpeg_of_scans, m4a_of_samples, webp_of_pixels
from tests.world import FAST

pytestmark = [
    # Attacks leave connections that the daemon has cut; the collector finds them in any test.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.e2e,
    pytest.mark.timeout(115),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("attack"),
]
# Limits that a test can reach; what is shipped is measured by `make attack`.
LIMITS = {"MAX_FAILED_PREPARATIONS_PER_USER_PER_HOUR": "3", "DECODER_CPU_SECONDS": "3"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(postgres: Postgres) -> AsyncIterator[Scene]:
    """A daemon under the memory limit of the shipped machine, where the kernel lets us set it."""
    settings, peaks = FAST | LIMITS, Peaks()
    with memory_group(shipped_memory_mib()) as group:
        async with (
            world_on(postgres) as world,
            staged(world, group=group, one_core=False, **settings) as scene,
        ):
            watching = asyncio.get_running_loop().create_task(peaks.watch(scene.daemon.pid))
            yield scene
            watching.cancel()
            assert scene.daemon.alive
            assert peaks.together < shipped_memory_mib()
            assert group is None or group.kills == 0
            assert "Traceback" not in scene.daemon.words()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(shared: Scene) -> AsyncIterator[Scene]:
    """Each test begins without hostile rows, and without what was noted of others."""
    yield shared
    await shared.world.sql("delete from public.video_jobs where id = any(%s::uuid[])",
                           shared.hostile)  # fmt: skip
    shared.hostile.clear()
    shared.noted.clear()


async def test_the_worst_accepted_pictures_of_many_users_delay_nobody_until_they_end(
    scene: Scene,
) -> None:
    """Each needs all of its CPU seconds in the one place for costly files."""
    url = await upload(scene, file_attacks.worst("image", "100 scans")[0]())
    for _ in range(6):
        await scene.insert_hostile(image_url=url)
    job_id = await honest_run(scene)
    assert await scene.open_hostile() > 0
    await honest_end(scene, job_id)


async def test_the_worst_accepted_recordings_of_many_users_delay_nobody_until_they_end(
    scene: Scene,
) -> None:
    """It states no length, so that no header tells how long it is."""
    url = await upload(scene, file_attacks.worst("audio", "live")[0]())
    for _ in range(6):
        await scene.insert_hostile(audio_url=url)
    job_id = await honest_run(scene)
    assert await scene.open_hostile() > 0
    await honest_end(scene, job_id)


@pytest.mark.parametrize(
    ("column", "make", "code"),
    [
        ("image_url", lambda: jpeg_of_scans(5000), "image_too_complex"),
        ("audio_url", lambda: m4a_of_samples(240_000_000), "audio_too_complex"),
        ("image_url", lambda: webp_of_pixels(7070), "image_too_large"),
    ],
    ids=["5000 scans", "240 million samples", "50 Mpx WebP"],
)
async def test_files_whose_headers_tell_are_refused_and_end_before_an_honest_job(
    scene: Scene, column: str, make: Callable[[], bytes], code: str
) -> None:
    """Inserted first, and no place is held while an honest job is prepared."""
    url = await upload(scene, make())
    rows = [await scene.insert_hostile(**{column: url}) for _ in range(4)]
    job_id = await honest_run(scene)
    await honest_end(scene, job_id)
    for row_id in rows:
        row = await scene.world.until(row_id, "failed")
        assert (row["error_code"], row["attempt"]) == (code, 1), "tried once"


@pytest.mark.parametrize("answer", [trickled_head, trickled_bytes])
async def test_an_honest_job_is_submitted_while_hostile_hosts_still_hold_their_fetches(
    scene: Scene, answer: Callable
) -> None:
    held = 0

    async def counted(head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal held
        held += 1
        try:
            await answer(head, writer)
        finally:
            held -= 1

    scene.answers["/slow"] = counted
    for _ in range(8):
        await scene.insert_hostile(image_url=f"{scene.host}/slow")

    async def holding() -> bool:
        return held > 0

    await until_true(holding, "the hostile host is asked")
    job_id = await honest_run(scene)
    assert held > 0
    assert await scene.open_hostile() == 8
    await honest_end(scene, job_id)


async def test_the_gpu_never_asks_a_host_that_shows_it_another_file(scene: Scene) -> None:
    def submitted() -> bool:
        return any(scene.world.runs_of(job_id) for job_id in scene.hostile)

    async with attacked(scene, row_attacks.hosts_with_two_faces):
        await until(submitted, "a hostile row is submitted")
        looked = scene.noted["runs looked at"]
        await honest_end(scene, await honest_run(scene))
        await until(lambda: scene.noted["runs looked at"] > looked, "its input is looked at")
    assert scene.broken == []


async def test_rows_that_are_cancelled_at_insert_fill_nothing_and_delay_nobody(
    scene: Scene,
) -> None:
    """12,000 at once are refused; 200 of each of many users are inserted, and end at once."""
    async with attacked(scene, row_attacks.cancelled_inserts) as task:
        await honest_end(scene, await honest_run(scene))
        assert not task.done()
    assert scene.noted["statements refused"] == 1
    assert scene.noted["rows inserted"] >= 200


async def test_cycles_of_cancel_and_retry_write_no_more_than_a_days_rows(scene: Scene) -> None:
    async with attacked(scene, row_attacks.retry_cycles) as task:
        await honest_end(scene, await honest_run(scene))
        assert not task.done()

        async def enough() -> bool:
            return scene.noted["cycles"] > 20

        await until_true(enough, "some cycles")
    (row,) = await scene.world.sql(
        "select max(e.n) as most from (select count(*) as n from public.video_job_events "
        "where job_id = any(%s::uuid[]) and event = 'retried' group by job_id) e", scene.hostile
    )  # fmt: skip
    assert (row["most"] or 0) <= 200


async def test_a_user_whose_rows_all_fail_is_held_while_others_are_served(scene: Scene) -> None:
    missing, user = f"{scene.world.image_url}.missing", str(uuid4())
    for _ in range(30):
        await scene.insert_hostile(user, image_url=missing)
    job_id = await honest_run(scene)
    assert await scene.open_hostile() > 0
    await honest_end(scene, job_id)

    async def held() -> bool:
        found = await scene.world.sql(
            "select held from public.video_job_users where user_id = %s", user
        )
        return bool(found and found[0]["held"] == "preparations")

    await until_true(held, "the user is held")
    assert (await scene.became())["image_unreachable"] < 10


async def test_webhooks_arrive_beside_silent_connections(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than the server keeps."""
    monkeypatch.setattr(network_attacks, "SILENT_CONNECTIONS", 400)
    async with attacked(scene, network_attacks.silent_connections) as task:
        await until(lambda: scene.noted["connections made"] >= 400, "400 connections")
        job_id = await honest_run(scene)
        await honest_end(scene, job_id)
        assert not task.done()
        (run,) = scene.world.runs_of(job_id)
        await until(lambda: any(sent["answer"] == 200 for sent in run.webhooks), "it is answered")
        status, said = await scene.readyz(60)
        assert (status, said["status"]) == (200, "ok")


@pytest.mark.parametrize(
    "attack", [network_attacks.forged_webhooks, network_attacks.forged_broadcasts]
)
async def test_floods_of_forged_messages_change_nothing(scene: Scene, attack: Attack) -> None:
    async with attacked(scene, attack) as task:
        await honest_end(scene, await honest_run(scene))
        assert not task.done()
    refused = scene.noted["webhook: 404"]
    assert refused > 0 or scene.noted["forged messages"] > 0
    assert scene.noted["webhook: 200"] == 0


async def test_readyz_blames_nobody_for_files_that_were_refused(scene: Scene) -> None:
    """After all of this, and while one more comes in."""
    url = await upload(scene, jpeg_of_scans(5000))
    await scene.world.until(await scene.insert_hostile(image_url=url), "failed")
    assert await scene.readyz(60) == (200, {"status": "ok", "reasons": []})
