"""`run` refuses a database that was made by other migration files, and nothing else of it."""

import pytest

from tests.commands.backend import Backend, unused_url
from worker.commands.run import problem_of_database
from worker.settings import load_settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor")]


async def problem(backend: Backend, **changes: str) -> str | None:
    return await problem_of_database(load_settings({**backend.env, **changes}))


async def test_a_database_of_this_version_is_accepted(backend: Backend) -> None:
    assert await problem(backend) is None


async def test_a_database_of_other_files_stops_the_start_with_one_line(backend: Backend) -> None:
    backend.sql("update public.video_job_migrations set hash = 'other' where name = '0002_guards'")
    try:
        done = await backend.command("run")
    finally:
        backend.sql("update public.video_job_migrations set hash = null")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("Cannot start: This database was made by other migration files")
    assert "its 0002_guards differs" in line


async def test_a_database_from_before_the_hashes_is_refused(backend: Backend) -> None:
    backend.sql("alter table public.video_job_migrations rename column hash to not_yet")
    try:
        found = await problem(backend)
    finally:
        backend.sql("alter table public.video_job_migrations rename column not_yet to hash")
    assert found is not None
    assert "its migrations have no hashes" in found


@pytest.mark.parametrize("key", ["sb_secret_wrong", "anon"])
async def test_what_only_waits_does_not_stop_the_start(backend: Backend, key: str) -> None:
    """The daemon waits for Supabase, for its key and for missing tables, and says so."""
    value = getattr(backend.stack.keys, key, key)
    assert await problem(backend, SUPABASE_SERVICE_ROLE_KEY=value) is None
    assert await problem(backend, SUPABASE_URL=unused_url()) is None
