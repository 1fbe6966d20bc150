"""`doctor` finds each fault that can be planted in the database, and its own advice repairs it."""

import re
from dataclasses import dataclass

import pytest

from tests.commands.backend import Backend, levels
from worker.commands.migrate import apply

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("doctor_database"),
]
CLAIM = (
    "claim_video_jobs_v1(uuid, integer, double precision, text, integer, integer, integer, uuid[])"
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A planted fault, the check that must find it, and what it must report."""

    plant: str
    check: str
    says: str
    fix: str
    level: str = "fail"
    undo: str = ""


AGAIN = "migrate --again"
FAULTS = {
    "a function is missing": Fault(
        plant="drop function public.refresh_video_job_queue_v1(integer, jsonb)",
        check="supabase.functions",
        says="Missing: refresh_video_job_queue_v1(integer, jsonb)",
        fix=AGAIN,
    ),
    "the worker may not claim": Fault(
        plant=f"revoke execute on function public.{CLAIM} from service_role",
        check="supabase.functions",
        says="service_role may not execute claim_video_jobs_v1",
        fix=f"grant execute on function public.{CLAIM} to service_role;",
    ),
    "everybody may claim": Fault(
        plant=f"grant execute on function public.{CLAIM} to public",
        check="supabase.functions",
        says="anon and authenticated may execute claim_video_jobs_v1",
        fix=f"revoke execute on function public.{CLAIM} from public, anon",
    ),
    "the worker may not write": Fault(
        plant="revoke update on public.video_jobs from service_role",
        check="supabase.grants",
        says="service_role lacks update on video_jobs",
        fix="grant update on public.video_jobs to service_role;",
    ),
    "the worker may not read submissions": Fault(
        plant="revoke select on public.video_job_attempts from service_role",
        check="supabase.grants",
        says="service_role lacks select on video_job_attempts",
        fix="grant select on public.video_job_attempts to service_role;",
    ),
    "people may not insert an image": Fault(
        plant="revoke insert (image_url) on public.video_jobs from authenticated",
        check="supabase.grants",
        says="authenticated lacks insert image_url on video_jobs",
        fix="grant insert (image_url) on public.video_jobs to authenticated;",
    ),
    "people may not see their jobs": Fault(
        plant="revoke select on public.video_jobs from authenticated",
        check="supabase.grants",
        says="authenticated lacks select on video_jobs.",
        fix="grant select on public.video_jobs to authenticated;",
    ),
    "people may not insert their options": Fault(
        plant="revoke insert (prompt, seed, steps, width) on public.video_jobs from authenticated",
        check="supabase.grants",
        says="authenticated lacks insert (4 columns) on video_jobs.",
        fix="grant insert (prompt, seed, steps, width) on public.video_jobs to authenticated;",
    ),
    "only the server may insert": Fault(
        plant="revoke insert on public.video_jobs from authenticated",
        check="supabase.grants",
        says="Signed-in users may not insert jobs; only your server can.",
        fix="To let browsers insert, run `python -m worker migrate --again`.",
        level="warn",
    ),
    "people may write any column": Fault(
        plant="grant update on public.video_jobs to authenticated",
        check="supabase.grants",
        says="authenticated may update on video_jobs",
        fix="revoke update on public.video_jobs from authenticated; grant update "
        "(cancel_requested) on public.video_jobs to authenticated;",
    ),
    "people may write the status": Fault(
        plant="grant update (status) on public.video_jobs to authenticated",
        check="supabase.grants",
        says="authenticated may update status on video_jobs",
        fix="revoke update (status) on public.video_jobs from authenticated;",
    ),
    "strangers may read submissions": Fault(
        plant="grant select on public.video_job_attempts to anon",
        check="supabase.grants",
        says="anon may select on video_job_attempts",
        fix="revoke select on public.video_job_attempts from anon;",
    ),
    "everybody may read jobs": Fault(
        plant="grant select on public.video_jobs to public",
        check="supabase.grants",
        says="PUBLIC may select on video_jobs",
        fix="revoke select on public.video_jobs from public;",
    ),
    "row level security is off": Fault(
        plant="alter table public.video_jobs disable row level security",
        check="supabase.rls",
        says="off for video_jobs",
        fix="alter table public.video_jobs enable row level security;",
    ),
    "it is off for the timeline": Fault(
        plant="alter table public.video_job_events disable row level security",
        check="supabase.rls",
        says="off for video_job_events",
        fix="alter table public.video_job_events enable row level security;",
    ),
    "a policy is missing": Fault(
        plant='drop policy "people read their own jobs" on public.video_jobs',
        check="supabase.rls",
        says="The policy “people read their own jobs” of video_jobs is missing",
        fix=AGAIN,
    ),
    "a policy is for everybody": Fault(
        plant='alter policy "people read their own jobs" on public.video_jobs to public',
        check="supabase.rls",
        says="missing or changed",
        fix=AGAIN,
    ),
    "there is a policy that is not ours": Fault(
        plant='create policy "all see all" on public.video_jobs for select using (true)',
        check="supabase.rls",
        says="policies that the migrations did not create: all see all",
        fix="they show no user another user's jobs",
        level="warn",
        undo='drop policy "all see all" on public.video_jobs',
    ),
    "a guard is missing": Fault(
        plant="drop trigger video_jobs_before_update on public.video_jobs",
        check="supabase.triggers",
        says="Missing or disabled on video_jobs: video_jobs_before_update",
        fix=AGAIN,
    ),
    "a guard is disabled": Fault(
        plant="alter table public.video_jobs disable trigger video_jobs_before_insert",
        check="supabase.triggers",
        says="Missing or disabled on video_jobs: video_jobs_before_insert",
        fix=AGAIN,
    ),
    "the table is not published": Fault(
        plant="alter publication supabase_realtime drop table public.video_jobs",
        check="supabase.publication",
        says="supabase_realtime does not contain video_jobs",
        fix="alter publication supabase_realtime add table public.video_jobs;",
    ),
    "updates are not published": Fault(
        plant="alter publication supabase_realtime set (publish = 'insert')",
        check="supabase.publication",
        says="does not publish delete and update",
        fix="set (publish = 'insert, update, delete, truncate');",
    ),
    "events carry the row twice": Fault(
        plant="alter table public.video_jobs replica identity full",
        check="supabase.replica_identity",
        says="It is FULL",
        fix="alter table public.video_jobs replica identity default;",
        level="warn",
    ),
    "no update is possible": Fault(
        plant="alter table public.video_jobs replica identity nothing",
        check="supabase.replica_identity",
        says="It is NOTHING: Postgres refuses every update",
        fix="alter table public.video_jobs replica identity default;",
    ),
    "a table is missing": Fault(
        plant="drop table public.video_job_events",
        check="supabase.tables",
        says="The table video_job_events is missing",
        fix=AGAIN,
    ),
    "a column is missing": Fault(
        plant="alter table public.video_jobs drop column eta_at",
        check="supabase.tables",
        says="video_jobs.eta_at (timestamp with time zone)",
        fix="alter table public.video_jobs add column eta_at timestamp with time zone;",
        undo="alter table public.video_jobs add column if not exists eta_at timestamptz",
    ),
    "a column has another type": Fault(
        plant="alter table public.video_job_attempts alter column delay_ms type integer",
        check="supabase.tables",
        says="video_job_attempts.delay_ms (bigint)",
        fix="alter table public.video_job_attempts alter column delay_ms type bigint;",
        undo="alter table public.video_job_attempts alter column delay_ms type bigint",
    ),
    "a default is gone": Fault(
        plant="alter table public.video_jobs alter column status drop default",
        check="supabase.tables",
        says="Another default or NOT NULL: video_jobs.status",
        fix="alter column status set default 'queued'::text;",
    ),
    "a column may be null": Fault(
        plant="alter table public.video_jobs alter column status drop not null",
        check="supabase.tables",
        says="Another default or NOT NULL: video_jobs.status",
        fix="alter column status set not null;",
    ),
    "a constraint is missing": Fault(
        plant="alter table public.video_jobs drop constraint steps_must_be_4_5_or_6",
        check="supabase.constraints",
        says="Missing: steps_must_be_4_5_or_6",
        fix="add constraint steps_must_be_4_5_or_6 CHECK",
    ),
    "a constraint is weaker": Fault(
        plant="alter table public.video_jobs drop constraint steps_must_be_4_5_or_6, "
        "add constraint steps_must_be_4_5_or_6 check (steps between 1 and 60)",
        check="supabase.constraints",
        says="Changed: steps_must_be_4_5_or_6",
        fix="drop constraint steps_must_be_4_5_or_6, add constraint steps_must_be_4_5_or_6 CHECK",
    ),
    "a key is no longer unique": Fault(
        plant="alter table public.video_jobs drop constraint one_row_per_idempotency_key",
        check="supabase.constraints",
        says="Missing: one_row_per_idempotency_key",
        fix="add constraint one_row_per_idempotency_key UNIQUE NULLS NOT DISTINCT",
    ),
    "an index is missing": Fault(
        plant="drop index public.video_jobs_user",
        check="supabase.constraints",
        says="Missing or changed on video_jobs: the index video_jobs_user",
        fix=AGAIN,
    ),
    "a function was changed by hand": Fault(
        plant="create or replace function public.video_jobs_before_insert() returns trigger "
        "language plpgsql as $$ begin return new; end $$",
        check="supabase.functions",
        says="Changed since the migrations created it: video_jobs_before_insert()",
        fix=AGAIN,
    ),
    "a function runs with its caller's rights": Fault(
        plant="alter function public.retry_video_job_v1(uuid) security invoker; "
        "alter function public.video_jobs_after_change() security invoker",
        check="supabase.functions",
        says="Changed since the migrations created it: ",
        fix=AGAIN,
    ),
    "a policy shows everybody's jobs": Fault(
        plant='alter policy "people read their own jobs" on public.video_jobs using (true)',
        check="supabase.rls",
        says="The policy “people read their own jobs” of video_jobs is missing or changed",
        fix=AGAIN,
    ),
    "a guard does nothing": Fault(
        plant="create function public.nothing() returns trigger language plpgsql as "
        "$$ begin return new; end $$; "
        "drop trigger video_jobs_before_update on public.video_jobs; "
        "create trigger video_jobs_before_update before update on public.video_jobs "
        "for each row execute function public.nothing()",
        check="supabase.triggers",
        says="Changed on video_jobs: video_jobs_before_update",
        fix=AGAIN,
        undo="drop function public.nothing() cascade",
    ),
    "browsers may not upload": Fault(
        plant="drop policy video_job_uploads_insert on storage.objects",
        check="storage.policies",
        says="Missing: video_job_uploads_insert. A browser's upload then fails",
        fix=AGAIN,
    ),
    "browsers may upload anywhere": Fault(
        plant="alter policy video_job_uploads_insert on storage.objects with check (true)",
        check="storage.policies",
        says="Changed since the migrations created it: video_job_uploads_insert",
        fix="drop policy if exists",
        undo="drop policy video_job_uploads_insert on storage.objects",
    ),
    "everybody may read every upload": Fault(
        plant="alter table storage.objects disable row level security",
        check="storage.policies",
        says="Row level security is off for storage.objects",
        fix="alter table storage.objects enable row level security;",
    ),
    "a migration was made by another file": Fault(
        plant="update public.video_job_migrations set hash = 'other' where name = '0002_guards'",
        check="supabase.migrations",
        says="made by other migration files than those of this version (its 0002_guards differs)",
        fix="drop table",
        undo="update public.video_job_migrations set hash = null",
    ),
    "a migration is missing": Fault(
        plant="delete from public.video_job_migrations where name = '0005_realtime'",
        check="supabase.migrations",
        says="Not applied: 0005_realtime",
        fix="python -m worker migrate",
    ),
    "the database is newer than the worker": Fault(
        plant="insert into public.video_job_migrations (name) values ('9999_later')",
        check="supabase.migrations",
        says="newer than this worker: it has 9999_later",
        fix="Deploy the worker version",
        level="warn",
        undo="delete from public.video_job_migrations where name = '9999_later'",
    ),
    "a column list hides columns from browsers": Fault(
        plant="alter publication supabase_realtime drop table public.video_jobs; alter publication "
        "supabase_realtime add table public.video_jobs (id, status, user_id)",
        check="supabase.publication",
        says="leaves out attempt, audio_duration, audio_url and ",
        fix="alter publication supabase_realtime add table public.video_jobs;",
    ),
    "a row filter hides rows from browsers": Fault(
        plant="alter publication supabase_realtime set (publish = 'insert'); alter publication "
        "supabase_realtime set table public.video_jobs where (user_id is not null); "
        "alter publication supabase_realtime set (publish = 'insert, update, delete, truncate')",
        check="supabase.publication",
        says="has a row filter for video_jobs: (user_id IS NOT NULL)",
        fix="alter publication supabase_realtime add table public.video_jobs;",
        undo="alter publication supabase_realtime set table public.video_jobs",
    ),
    "people may not use the schema": Fault(
        plant="revoke usage on schema public from public, authenticated",
        check="supabase.grants",
        says="authenticated may not use the schema public",
        fix="grant usage on schema public to authenticated;",
        undo="grant usage on schema public to public, authenticated",
    ),
    "the worker may not use the schema": Fault(
        plant="revoke usage on schema public from public, service_role",
        check="supabase.reachable",
        says="permission denied for schema public",
        fix="grant usage on schema public to anon, authenticated, service_role;",
        undo="grant usage on schema public to public, service_role",
    ),
    "a function has two sets of parameters": Fault(
        plant="create function public.retry_video_job_v1(id text) returns void "
        "language sql as 'select 1'",
        check="supabase.functions",
        says="another function of the same name: retry_video_job_v1(text)",
        fix="drop function public.retry_video_job_v1(text);",
        undo="drop function if exists public.retry_video_job_v1(text)",
    ),
    "an added constraint refuses updates": Fault(
        plant="alter table public.video_jobs add constraint odd check (false) not valid",
        check="supabase.additions",
        says="Not from the migrations: the constraint odd on video_jobs.",
        fix="otherwise drop it",
        level="warn",
        undo="alter table public.video_jobs drop constraint odd",
    ),
    "an added index refuses second jobs": Fault(
        plant="create unique index odd on public.video_jobs (user_id); "
        "create index harmless on public.video_jobs (user_id)",
        check="supabase.additions",
        says="Not from the migrations: the unique index odd on video_jobs.",
        fix="otherwise drop it",
        level="warn",
        undo="drop index public.odd; drop index public.harmless",
    ),
    "an added trigger drops updates": Fault(
        plant="create function public.odd() returns trigger language plpgsql as "
        "$$ begin return null; end $$; create trigger odd before update on "
        "public.video_job_attempts for each row execute function public.odd()",
        check="supabase.additions",
        says="Not from the migrations: the trigger odd on video_job_attempts.",
        fix="otherwise drop it",
        level="warn",
        undo="drop function public.odd() cascade",
    ),
    "an added rule drops updates": Fault(
        plant="create rule odd as on update to public.video_jobs do instead nothing",
        check="supabase.additions",
        says="Not from the migrations: the rule odd on video_jobs.",
        fix="otherwise drop it",
        level="warn",
        undo="drop rule odd on public.video_jobs",
    ),
    "an added column must be given": Fault(
        plant="alter table public.video_job_attempts add column odd integer not null",
        check="supabase.tables",
        says="Another default or NOT NULL: video_job_attempts.odd",
        fix="alter column odd drop not null;",
        undo="alter table public.video_job_attempts drop column odd",
    ),
    "a policy opens our bucket": Fault(
        plant="create policy odd on storage.objects for select to anon "
        "using (bucket_id = 'inputs')",
        check="storage.policies",
        says="odd: policies that the migrations did not create",
        fix="read or replace another user's files",
        level="warn",
        undo="drop policy odd on storage.objects",
    ),
    "a policy opens all buckets": Fault(
        plant="create policy odd on storage.objects for insert to anon with check (true)",
        check="storage.policies",
        says="odd: policies that the migrations did not create",
        fix="read or replace another user's files",
        level="warn",
        undo="drop policy odd on storage.objects",
    ),
    "nothing can be inspected": Fault(
        plant="drop function public.inspect_video_jobs_v1()",
        check="supabase.reachable",
        says="The migrations were not applied, or are older than this worker",
        fix="python -m worker migrate",
    ),
    "the inspection is not permitted": Fault(
        plant="revoke execute on function public.inspect_video_jobs_v1() from service_role",
        check="supabase.reachable",
        says="permission denied for function inspect_video_jobs_v1",
        fix=AGAIN,
    ),
    "no migration has ever run": Fault(
        plant="drop table public.video_job_migrations",
        check="supabase.reachable",
        says="The migrations were not applied",
        fix="python -m worker migrate",
    ),
}
CATALOGS = (
    "supabase.r", "supabase.m", "supabase.tables", "supabase.f", "supabase.g", "supabase.triggers",
    "supabase.p", "supabase.c", "supabase.additions", "storage.policies",
)  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
async def test_the_fault_is_found_and_its_advice_repairs_it(backend: Backend, name: str) -> None:
    fault = FAULTS[name]
    only = [prefix for prefix in CATALOGS if not prefix.startswith("supabase.r")]
    only += ["supabase.reachable", "supabase.rls", "supabase.replica_identity"]
    backend.sql(fault.plant)
    try:
        found = await backend.examine(*only)
        result = found[fault.check]
        assert result.level == fault.level
        assert fault.says in result.message
        assert fault.fix in result.fix
        # If the advice contains SQL, that SQL is enough; otherwise `migrate --again` is.
        statements = re.findall(r"(?:in the SQL editor|and run): (.*;)", result.fix)
        if statements and "revoke execute" not in result.fix:
            backend.sql(statements[0])
            assert fault.check not in levels(await backend.examine(*only))
    finally:
        if fault.undo:
            backend.sql(fault.undo)
        apply(backend.env["DATABASE_URL"], again=True)
    assert levels(await backend.examine(*only)) == {}


@pytest.mark.parametrize(
    ("plant", "undo"),
    [
        (
            "alter table public.video_jobs add column title text, "
            "add column stars integer not null default 0, "
            "add column place bigint generated always as identity",
            "alter table public.video_jobs drop column title, drop column stars, drop column place",
        ),
        (
            "create policy mine on storage.objects for all to authenticated "
            "using (bucket_id = 'avatars')",
            "drop policy mine on storage.objects",
        ),
    ],
)
async def test_an_apps_own_columns_and_policies_are_no_problem(
    backend: Backend, plant: str, undo: str
) -> None:
    backend.sql(plant)
    try:
        found = await backend.examine("supabase.tables", "supabase.add", "storage.policies")
    finally:
        backend.sql(undo)
    assert levels(found) == {}


async def test_an_insert_that_is_not_published_is_reported(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.doctor.realtime.HEARD_SECONDS", 1.0)
    backend.sql("alter publication supabase_realtime set (publish = 'update')")
    try:
        result = (await backend.examine("supabase.realtime"))["supabase.realtime"]
    finally:
        backend.sql(
            "alter publication supabase_realtime set (publish = 'insert, update, delete, truncate')"
        )
    assert result.level == "fail"
    assert "no event of an insert arrived" in result.message
    assert "Fix supabase.publication" in result.fix
    assert (await backend.examine("supabase.realtime"))["supabase.realtime"].level == "ok"


async def test_a_refused_insert_is_reported_with_the_databases_message(backend: Backend) -> None:
    backend.sql("alter table public.video_jobs add constraint odd check (priority > 0) not valid")
    try:
        result = (await backend.examine("supabase.realtime"))["supabase.realtime"]
    finally:
        backend.sql("alter table public.video_jobs drop constraint odd")
    assert result.level == "fail"
    assert 'violates check constraint "odd"' in result.message


async def test_the_test_row_is_never_rendered_and_does_not_stay(backend: Backend) -> None:
    assert (await backend.examine("supabase.realtime"))["supabase.realtime"].level == "ok"
    assert backend.sql("select id from public.video_jobs") == []
    events = backend.sql(
        "select event, status from public.video_job_events order by id desc limit 2"
    )
    assert [(event["event"], event["status"]) for event in reversed(events)] == [
        ("inserted", "cancelled"),
        ("deleted", "cancelled"),
    ]


async def test_checks_that_need_the_catalogs_point_at_the_same_cause(backend: Backend) -> None:
    backend.sql("drop function public.inspect_video_jobs_v1()")
    try:
        found = await backend.examine(*CATALOGS)
    finally:
        apply(backend.env["DATABASE_URL"], again=True)
    others = {name: result for name, result in found.items() if name.startswith("supabase.")}
    del others["supabase.reachable"]
    assert {(result.level, result.fix) for result in others.values()} == {
        ("warn", "Fix supabase.reachable first.")
    }
