"""The HTTP side, asked as RunPod, Fly and strangers ask it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.fakes import job_id
from tests.harness import Harness, done
from tests.reconcile.test_reconcile import body
from worker.jobs.errors import RunPodUnavailable
from worker.jobs.job import JobStatus
from worker.runtime.loops import Heartbeats
from worker.web import (
    MAX_BODY,
    Web,
    signature,
    webhook_url,
)

SECRETS = ("new-secret", "old-secret")


class Site(Harness):
    """The application around a reconciler with everything else faked."""

    def __init__(self, secrets: tuple[str, ...] = SECRETS) -> None:
        super().__init__()
        self.time = 0.0
        self.beats = Heartbeats(clock=lambda: self.time)
        self.refreshed = 0
        web = Web(
            reconciler=self.reconciler,
            readiness=self.readiness,
            beats=self.beats,
            secrets=secrets,
            refresh=self.refresh,
        )
        transport = httpx.ASGITransport(app=web.app(), client=("192.0.2.1", 1))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://worker")

    def refresh(self) -> None:
        self.refreshed += 1

    async def hook(
        self, *, attempt: int | str = 1, secret: str = SECRETS[0], mac: str = "", **post: Any
    ) -> httpx.Response:
        """POST a webhook, genuine unless told otherwise."""
        number = int(attempt) if str(attempt).isdecimal() and len(str(attempt)) < 20 else 0
        mac = mac or signature(secret, job_id(), number)
        path = f"/webhooks/runpod/{job_id()}/{attempt}/{mac}"
        return await self.http.post(path, **(post or {"json": body()}))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.submitted()
    site.runpod.runs["run-1"] = done()
    yield site
    await site.http.aclose()


async def test_200_means_that_the_row_is_written(site: Site) -> None:
    answer = await site.hook()
    assert (answer.status_code, answer.json()) == (200, {"result": "applied"})
    assert site.store.job().status is JobStatus.COMPLETED


async def test_the_address_that_a_run_gets_is_one_that_is_taken(site: Site) -> None:
    url = webhook_url("http://worker", SECRETS, job_id(), 1)
    assert url is not None
    assert (await site.http.post(url, json=body())).status_code == 200


async def test_without_an_address_or_a_secret_there_are_no_webhooks() -> None:
    assert webhook_url("", SECRETS, job_id(), 1) is None
    assert webhook_url("http://worker", (), job_id(), 1) is None
    assert (await Site(secrets=()).hook(secret="")).status_code == 404


async def test_a_signature_of_the_old_secret_is_taken_during_a_rotation(site: Site) -> None:
    assert (await site.hook(secret=SECRETS[1])).status_code == 200


@pytest.mark.parametrize(
    "mac",
    [
        "0" * 64, "x", "ü", signature(SECRETS[0], job_id(2), 1), signature(SECRETS[0], job_id(), 2),
        signature("", job_id(), 1),
    ],
    ids=["zeros", "short", "odd", "of another job", "of another attempt", "without a secret"],
)  # fmt: skip
async def test_a_wrong_signature_is_not_found_and_reads_nothing(site: Site, mac: str) -> None:
    assert (await site.hook(mac=mac)).status_code == 404
    assert "case" not in site.store.calls


@pytest.mark.parametrize("attempt", ["-1", "x", "1.0", "9" * 5000, "٣", str(2**31)])
async def test_an_attempt_that_is_no_number_of_ours_is_not_found(site: Site, attempt: str) -> None:
    assert (await site.hook(attempt=attempt)).status_code == 404
    assert "case" not in site.store.calls


async def test_only_post_is_taken(site: Site) -> None:
    path = f"/webhooks/runpod/{job_id()}/1/{signature(SECRETS[0], job_id(), 1)}"
    assert (await site.http.get(path)).status_code == 405


async def test_guesses_do_not_lock_a_genuine_webhook_out(site: Site) -> None:
    """Behind a proxy all have one address."""
    for _ in range(50):
        assert (await site.hook(mac="0" * 64)).status_code == 404
    assert (await site.hook()).status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[" * 100_000, b" " * (MAX_BODY + 1), b'{"id": "other"}', b"null"],
    ids=["empty", "broken", "not text", "deep", "huge", "another run", "null"],
)
async def test_a_body_that_is_useless_is_still_a_hint(site: Site, content: bytes) -> None:
    assert (await site.hook(content=content)).status_code == 200
    assert site.store.job().status is JobStatus.COMPLETED


async def test_with_the_table_away_runpod_is_asked_to_come_again(site: Site) -> None:
    site.store.away = True
    assert (await site.hook()).status_code == 503
    site.store.away = False
    assert (await site.hook()).status_code == 200


async def test_with_runpod_away_the_end_of_a_run_is_kept(site: Site) -> None:
    site.runpod.runs["run-1"] = RunPodUnavailable(502)
    answer = await site.hook()
    assert (answer.status_code, answer.json()) == (200, {"result": "kept"})
    assert site.store.sub().reported is not None


async def test_with_runpod_away_anything_else_is_asked_to_come_again(site: Site) -> None:
    site.runpod.runs["run-1"] = RunPodUnavailable(502)
    assert (await site.hook(json=body(status="IN_PROGRESS"))).status_code == 503


async def test_a_write_that_is_refused_is_not_called_written(site: Site) -> None:
    site.store.refused.add(job_id())
    assert (await site.hook()).status_code == 503


async def test_a_webhook_for_a_row_that_is_gone_is_answered(site: Site) -> None:
    site.store.rows.clear()
    site.store.attempts.clear()
    assert (await site.hook()).json() == {"result": "unknown_job"}


async def test_livez_tells_of_a_stuck_loop(site: Site) -> None:
    site.beats.beat("sweep", 10.0)
    assert (await site.http.get("/livez")).json() == {"status": "ok", "stuck": []}
    site.time = 11.0
    answer = await site.http.get("/livez")
    assert (answer.status_code, answer.json()) == (503, {"status": "stuck", "stuck": ["sweep"]})


async def test_readyz_says_why_jobs_do_not_move(site: Site) -> None:
    assert (await site.http.get("/readyz")).json() == {"status": "ok", "reasons": []}
    assert site.readiness.report("realtime", "nothing is heard")
    assert not site.readiness.report("realtime", "still nothing is heard")
    answer = await site.http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "reasons": ["realtime: still nothing is heard"]}
    site.readiness.report("runpod", "wrong key", severity="down")
    answer = await site.http.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "down")
    assert site.readiness.clear("runpod")
    assert not site.readiness.clear("runpod")


async def test_metrics_are_refreshed_and_shown(site: Site) -> None:
    await site.hook()
    text = (await site.http.get("/metrics")).text
    assert site.refreshed == 1
    assert 'worker_webhooks_total{result="applied",worker="talking-head"}' in text
    assert job_id() not in text
    assert json.dumps(SECRETS[0]) not in text
