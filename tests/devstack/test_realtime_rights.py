"""Who hears of which row: policies, grants and roles, asked of Postgres at each change."""

import time

import pytest

from tests.devstack.realtime_wire import JOBS, NOTES, recorded, shape

INSERT = "insert into public.notes (user_id, body) values (%s, %s)"


@pytest.fixture
async def someone(gateway, client_of):
    """Makes signed-in users: their ids and tokens."""

    async def make() -> tuple[str, str]:
        client = await client_of(gateway.keys.publishable)
        session = (await client.auth.sign_in_anonymously()).session
        return session.user.id, session.access_token

    return make


async def test_rows_reach_their_owner_and_the_service_only(connect_wire, gateway, someone, sql):
    (owner_id, owner_token), (_, other_token) = await someone(), await someone()
    owner, other, service = (
        await connect_wire(gateway.keys.anon),
        await connect_wire(gateway.keys.anon),
        await connect_wire(),
    )
    await owner.joined(NOTES, access_token=owner_token)
    await other.joined(NOTES, access_token=other_token)
    await service.joined(NOTES)
    sql(INSERT, owner_id, "mine")
    assert (await owner.data())["record"]["body"] == "mine"
    assert (await service.data())["record"]["body"] == "mine"
    await other.silence()
    sql("update public.notes set body = 'changed'")
    assert (await owner.data())["record"]["body"] == "changed"
    assert (await service.data())["type"] == "UPDATE"
    await other.silence()


async def test_columns_without_a_grant_are_left_out(connect_wire, gateway, someone, sql):
    owner_id, token = await someone()
    owner = await connect_wire(gateway.keys.anon)
    await owner.joined(NOTES, access_token=token)
    sql("insert into public.notes (user_id, secret) values (%s, 'x')", owner_id)
    data = await owner.data()
    assert "secret" not in data["record"]
    assert "secret" not in [column["name"] for column in data["columns"]]
    assert "odd name" in data["record"]


async def test_a_delete_reaches_everyone_with_the_key_only(connect_wire, gateway, someone, sql):
    owner_id, _ = await someone()
    _, other_token = await someone()
    sql("alter table public.notes replica identity full")
    sql(INSERT, owner_id, "mine")
    other = await connect_wire(gateway.keys.anon)
    await other.joined(NOTES | {"event": "DELETE"}, access_token=other_token)
    sql("delete from public.notes")
    data = await other.data()
    assert set(data["old_record"]) == {"id"}
    assert "record" not in data


async def test_a_full_identity_shows_the_old_row_of_tables_without_policies(connect_wire, sql):
    sql("alter table public.video_jobs replica identity full")
    sql("insert into public.video_jobs (status) values ('old')")
    wire = await connect_wire()
    await wire.joined(JOBS)
    sql("update public.video_jobs set status = 'new'")
    assert (await wire.data())["old_record"]["status"] == "old"
    sql("delete from public.video_jobs")
    assert (await wire.data())["old_record"]["status"] == "new"


@pytest.mark.parametrize("kind", ["service_role", "secret"])
async def test_a_role_that_may_not_read_the_key_gets_error_401(connect_wire, gateway, sql, kind):
    sql("revoke select on public.video_jobs from service_role")
    wire = await connect_wire(getattr(gateway.keys, kind))
    await wire.joined(JOBS)
    sql("insert into public.video_jobs default values")
    data = await wire.data()
    real = recorded("no_select_grant")[-1]["payload"]["data"]
    assert data["errors"] == ["Error 401: Unauthorized"]
    assert shape(data) == shape(real)
    assert data == real
    sql("grant select on public.video_jobs to service_role")
    sql("insert into public.video_jobs default values")
    assert (await wire.data())["errors"] is None


async def test_a_table_without_a_key_gets_error_400(connect_wire, sql):
    wire = await connect_wire()
    await wire.joined({"event": "*", "schema": "public", "table": "keyless"})
    sql("insert into public.keyless values ('x')")
    assert (await wire.data())["errors"] == ["Error 400: Bad Request, no primary key"]


async def test_a_filter_on_a_column_without_a_grant_is_refused(connect_wire, gateway, someone):
    _, token = await someone()
    wire = await connect_wire(gateway.keys.anon)
    await wire.join(NOTES | {"filter": "secret=eq.x"}, access_token=token)
    await wire.frame()
    assert "invalid column for filter secret" in (await wire.frame())["payload"]["message"]


async def test_a_binding_may_choose_columns(connect_wire, sql):
    wire = await connect_wire()
    await wire.joined(JOBS | {"select": ["id", "status"]})
    sql("insert into public.video_jobs default values")
    data = await wire.data()
    assert set(data["record"]) == {"id", "status"}
    assert [column["name"] for column in data["columns"]] == ["id", "status"]


async def test_a_table_published_later_can_be_joined_then(connect_wire, sql):
    wire = await connect_wire()
    hidden = {"event": "*", "schema": "public", "table": "hidden"}
    await wire.join(hidden)
    await wire.frame()
    assert (await wire.frame())["payload"]["status"] == "error"
    sql("grant select on public.hidden to service_role")
    sql("alter publication supabase_realtime add table public.hidden")
    await wire.joined(hidden, topic="realtime:later")
    sql("insert into public.hidden values (1)")
    assert (await wire.data())["record"] == {"id": 1}


async def test_changed_columns_are_seen_with_their_new_definition(connect_wire, sql):
    wire = await connect_wire()
    await wire.joined(JOBS)
    sql("insert into public.video_jobs default values")
    await wire.data()
    sql("alter table public.video_jobs add column late int default 5, drop column error")
    sql("insert into public.video_jobs default values")
    data = await wire.data()
    assert data["record"]["late"] == 5
    assert "error" not in data["record"]


async def test_a_token_of_an_unknown_role_gets_an_error_and_affects_no_other_client(
    connect_wire, gateway, sql
):
    wire, other = await connect_wire(), await connect_wire()
    await other.joined(JOBS)
    token = gateway.keys.sign({"role": "nobody_here", "exp": int(time.time()) + 60})
    await wire.join(JOBS, access_token=token)
    assert (await wire.frame())["payload"]["status"] == "ok"
    assert "nobody_here" in (await wire.frame())["payload"]["message"]
    sql("insert into public.video_jobs default values")
    assert (await other.data())["type"] == "INSERT"
    await wire.silence()
