"""`doctor --browser` does what a browser does, and leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.commands.backend import Backend, fault
from worker.commands.migrate import apply
from worker.doctor.context import Context
from worker.doctor.examine import BROWSER, CHECKS, examine
from worker.doctor.result import Result
from worker.settings import load_valid_settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor_browser")]
ALONE = ("browser",)


async def browser(backend: Backend, *others: str, **changes: str) -> Result:
    """Return what --browser finds, after other checks."""
    env = {**backend.env, "SUPABASE_ANON_KEY": backend.stack.keys.anon, **changes}
    settings, problems = load_valid_settings(env)
    checks = [*(check for check in CHECKS if check.name in others), BROWSER]
    async with httpx.AsyncClient(timeout=15, trust_env=False) as http:
        context = Context(settings=settings, problems=problems, http=http)
        return (await examine(context, checks, settings=False))[-1]


@contextmanager
def nothing_is_left(backend: Backend) -> Iterator[None]:
    """Compare rows, objects and users with those before."""
    tables = ("public.video_jobs", "storage.objects", "auth.users")
    before = [backend.sql(f"select count(*) from {table}") for table in tables]
    yield
    assert [backend.sql(f"select count(*) from {table}") for table in tables] == before


@pytest.mark.parametrize("key", ["anon", "publishable"])
async def test_a_good_project_lets_a_browser_sign_in_upload_and_insert(
    backend: Backend, key: str
) -> None:
    with nothing_is_left(backend):
        result = await browser(backend, SUPABASE_ANON_KEY=getattr(backend.stack.keys, key))
    assert result.level == "ok"
    assert result.message == (
        "An anonymous user signed in, uploaded to inputs, inserted a row and read it."
    )


async def test_without_a_key_it_says_what_was_not_checked(backend: Backend) -> None:
    result = await browser(backend, SUPABASE_ANON_KEY="")
    assert (result.level, result.message) == ("warn", "Not checked: SUPABASE_ANON_KEY is unset.")


async def test_without_anonymous_sign_ins_it_says_so(backend: Backend) -> None:
    body = {"external": {"anonymous_users": False}}
    rule = {"path": "/auth/v1/settings", "action": "status", "status": 200, "body": body}
    with nothing_is_left(backend), fault(backend.stack.gateway, **rule):
        result = await browser(backend)
    assert result.level == "warn"
    assert "Not checked: this project permits no anonymous sign-ins" in result.message


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        ("drop policy video_job_uploads_insert on storage.objects", "upload to inputs is refused"),
        ("revoke insert on public.video_jobs from authenticated", "insert is refused"),
        ('drop policy "people insert their own jobs" on public.video_jobs', "insert is refused"),
        ('drop policy "people read their own jobs" on public.video_jobs', "cannot read the row"),
        (
            "grant select on public.video_jobs to anon; "
            'create policy "all" on public.video_jobs for select to anon using (true)',
            "anyone can read the row",
        ),
    ],
)
async def test_what_a_browser_may_not_do_is_found_and_removed_again(
    backend: Backend, plant: str, says: str
) -> None:
    backend.sql(plant)
    try:
        with nothing_is_left(backend):
            result = await browser(backend)
    finally:
        backend.sql('drop policy if exists "all" on public.video_jobs')
        backend.sql("revoke all on public.video_jobs from anon")
        apply(backend.env["DATABASE_URL"], again=True)
    assert result.level == "fail"
    assert says in result.message
    assert (await browser(backend)).level == "ok"


async def test_a_bucket_that_takes_no_images_gets_a_sound(backend: Backend) -> None:
    backend.sql("update storage.buckets set allowed_mime_types = '{audio/wav}' where id = 'inputs'")
    try:
        assert (await browser(backend)).level == "ok"
    finally:
        backend.sql("update storage.buckets set allowed_mime_types = null where id = 'inputs'")


async def test_what_cannot_be_removed_is_named(backend: Backend) -> None:
    with fault(
        backend.stack.gateway, path="/auth/v1/admin/users", action="status", status=500, body={}
    ):
        result = await browser(backend)
    assert result.level == "warn"
    assert "Not removed: user " in result.message
    backend.sql("delete from auth.users")


async def test_a_wrong_key_is_the_keys_fault(backend: Backend) -> None:
    result = await browser(backend, SUPABASE_ANON_KEY="sb_publishable_of_yesterday")
    assert result.level == "fail"
    assert "refuses SUPABASE_ANON_KEY" in result.message


async def test_the_option_adds_the_check(backend: Backend) -> None:
    key = {"SUPABASE_ANON_KEY": backend.stack.keys.anon}
    done = await backend.command("doctor", "--only", "storage.policies", "--browser", **key)
    assert done.code == 0
    assert "ok    browser " in done.out
    assert "browser" not in (await backend.command("doctor", "--only", "storage.policies")).out
