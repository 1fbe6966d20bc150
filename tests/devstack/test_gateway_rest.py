"""The REST part, judged by the unmodified supabase-py client."""

import asyncio

import httpx
import pytest
from supabase import PostgrestAPIError


async def refused(work) -> PostgrestAPIError:
    with pytest.raises(PostgrestAPIError) as error:
        await work
    return error.value


def as_service(gateway) -> dict[str, str]:
    return {"apikey": gateway.keys.service_role}


async def test_a_row_is_returned_as_postgres_formats_it(service):
    row = {"status": "x", "big": 9007199254740993, "tags": ["a", "b c"], "params": {"n": None}}
    answer = await service.table("video_jobs").insert(row).execute()
    (made,) = answer.data
    assert {key: made[key] for key in row} == row
    assert made["created_at"].endswith("+00:00")
    assert "T" in made["created_at"]


async def test_filters_order_and_limit(service):
    rows = [{"status": s, "frames": f} for s, f in (("a", 1), ("b,c", 2), ("d", 3), ("e", None))]
    await service.table("video_jobs").insert(rows).execute()
    table = service.table("video_jobs")

    async def found(query) -> list[str]:
        return [row["status"] for row in (await query.order("frames").execute()).data]

    assert await found(table.select("status").eq("status", "a")) == ["a"]
    assert await found(table.select("status").neq("frames", 1)) == ["b,c", "d"]
    assert await found(table.select("status").gt("frames", 1).lte("frames", 2)) == ["b,c"]
    assert await found(table.select("status").gte("frames", 2).lt("frames", 3)) == ["b,c"]
    assert await found(table.select("status").in_("status", ["a", "b,c"])) == ["a", "b,c"]
    assert await found(table.select("status").is_("frames", "null")) == ["e"]
    assert await found(table.select("status").not_.is_("frames", "null")) == ["a", "b,c", "d"]
    assert await found(table.select("status").like("status", "%,%")) == ["b,c"]
    assert await found(table.select("status").ilike("status", "A")) == ["a"]
    assert await found(table.select("status").or_("frames.eq.1,and(frames.gt.2,status.eq.d)")) == [
        "a",
        "d",
    ]
    assert await found(table.select("status").limit(1)) == ["a"]
    descending = await table.select("status").order("frames", desc=True, nullsfirst=True).execute()
    assert [row["status"] for row in descending.data] == ["e", "d", "b,c", "a"]


async def test_a_window_and_a_count(service, gateway, http):
    await service.table("video_jobs").insert([{"frames": n} for n in range(5)]).execute()
    page = (
        await service.table("video_jobs")
        .select("frames", count="exact")
        .order("frames")
        .range(1, 2)
        .execute()
    )
    assert [row["frames"] for row in page.data] == [1, 2]
    assert page.count == 5
    raw = await http.get(
        f"{gateway.url}/rest/v1/video_jobs?select=id",
        headers=as_service(gateway) | {"Range": "0-1", "Prefer": "count=exact"},
    )
    assert (raw.status_code, raw.headers["content-range"]) == (206, "0-1/5")
    beyond = await http.get(
        f"{gateway.url}/rest/v1/video_jobs?offset=9",
        headers=as_service(gateway) | {"Prefer": "count=exact"},
    )
    assert (beyond.status_code, beyond.json()["code"]) == (416, "PGRST103")
    head = await http.head(f"{gateway.url}/rest/v1/video_jobs", headers=as_service(gateway))
    assert (head.status_code, head.content, head.headers["content-range"]) == (200, b"", "0-4/*")


async def test_json_paths_casts_and_aliases(service):
    await service.table("video_jobs").insert({"params": {"a": {"b": 3}}, "frames": 7}).execute()
    query = service.table("video_jobs").select("deep:params->a->>b,params->a,frames::text,n:frames")
    answer = await query.eq("params->a->>b", "3").execute()
    assert answer.data == [{"deep": "3", "a": {"b": 3}, "frames": "7", "n": 7}]


async def test_odd_names_are_quoted_and_values_never_become_sql(service):
    text = "'; drop table public.notes; --"
    user = "11111111-1111-1111-1111-111111111111"
    await service.table("notes").insert({"user_id": user, "odd name": text}).execute()
    answer = await service.table("notes").select('"odd name"').eq("odd name", text).execute()
    assert answer.data == [{"odd name": text}]
    error = await refused(service.table("notes").select('id"; select 1; --').execute())
    assert error.code in ("42703", "PGRST100")


async def test_update_and_delete_answer_with_the_rows_they_changed(service):
    made = (await service.table("video_jobs").insert({"status": "queued"}).execute()).data[0]
    mine = service.table("video_jobs").update({"status": "taken"}).eq("id", made["id"])
    assert [row["status"] for row in (await mine.eq("status", "queued").execute()).data] == [
        "taken"
    ]
    assert (await mine.eq("status", "queued").execute()).data == []
    gone = await service.table("video_jobs").delete().eq("id", made["id"]).execute()
    assert [row["id"] for row in gone.data] == [made["id"]]


async def test_writes_may_answer_with_nothing(gateway, http):
    address, headers = f"{gateway.url}/rest/v1/video_jobs", as_service(gateway)
    made = await http.post(address, json={}, headers=headers)
    assert (made.status_code, made.content) == (201, b"")
    changed = await http.patch(f"{address}?status=eq.pending", json={"frames": 1}, headers=headers)
    assert (changed.status_code, changed.content) == (204, b"")
    removed = await http.delete(f"{address}?status=eq.pending", headers=headers)
    assert (removed.status_code, removed.content) == (204, b"")


async def test_missing_keys_take_the_default_only_when_asked(gateway, http, service):
    rows = [{"status": "x", "error": "e"}, {"error": "f"}]
    address = f"{gateway.url}/rest/v1/video_jobs?columns=status,error&select=status"
    headers = as_service(gateway) | {"Prefer": "return=representation,missing=default"}
    answer = await http.post(address, json=rows, headers=headers)
    assert answer.json() == [{"status": "x"}, {"status": "pending"}]
    plain = await http.post(address, json=rows, headers=as_service(gateway))
    assert (plain.status_code, plain.json()["code"]) == (400, "23502")
    uneven = await http.post(
        f"{gateway.url}/rest/v1/video_jobs", json=rows, headers=as_service(gateway)
    )
    assert (uneven.status_code, uneven.json()["code"]) == (400, "PGRST102")


async def test_upsert_merges_or_ignores(service):
    user = "11111111-1111-1111-1111-111111111111"
    table = service.table("notes")
    row = {"user_id": user, "kind": "a", "body": "one"}
    await table.insert(row).execute()
    await table.upsert(row | {"body": "two"}, on_conflict="user_id,kind").execute()
    ignored = await table.upsert(
        row | {"body": "three"}, on_conflict="user_id,kind", ignore_duplicates=True
    ).execute()
    assert ignored.data == []
    assert [r["body"] for r in (await table.select("body").execute()).data] == ["two"]
    error = await refused(table.insert(row).execute())
    assert error.code == "23505"


async def test_single_wants_exactly_one_row_and_undoes_a_write_to_others(service, gateway, http):
    await service.table("video_jobs").insert([{"frames": 1}, {"frames": 1}]).execute()
    error = await refused(
        service.table("video_jobs").select("*").eq("frames", 1).single().execute()
    )
    assert (error.code, error.details) == ("PGRST116", "The result contains 2 rows")
    assert (
        await service.table("video_jobs").select("*").eq("frames", 9).maybe_single().execute()
        is None
    )
    headers = as_service(gateway) | {
        "Accept": "application/vnd.pgrst.object+json",
        "Prefer": "return=representation",
    }
    address = f"{gateway.url}/rest/v1/video_jobs?frames=eq.1"
    assert (await http.patch(address, json={"frames": 2}, headers=headers)).status_code == 406
    assert len((await service.table("video_jobs").select("id").eq("frames", 1).execute()).data) == 2


async def test_a_write_to_too_many_rows_is_refused(service):
    await service.table("video_jobs").insert([{"frames": 1}, {"frames": 1}]).execute()
    error = await refused(
        service.table("video_jobs").update({"frames": 2}).eq("frames", 1).max_affected(1).execute()
    )
    assert error.code == "PGRST124"
    assert len((await service.table("video_jobs").select("id").eq("frames", 1).execute()).data) == 2


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_write_without_a_filter_is_refused(gateway, http, method):
    answer = await http.request(
        method, f"{gateway.url}/rest/v1/video_jobs", json={"frames": 1}, headers=as_service(gateway)
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "21000")


async def test_what_does_not_exist_has_postgrests_codes(service):
    table = service.table
    assert (await refused(table("nothing").select("*").execute())).code == "PGRST205"
    assert (await refused(table("video_jobs").insert({"nope": 1}).execute())).code == "PGRST204"
    assert (await refused(table("video_jobs").select("nope").execute())).code == "42703"
    assert (
        await refused(table("video_jobs").select("*").eq("frames", "x").execute())
    ).code == "22P02"
    other = service.postgrest.schema("auth").from_("users").select("*")
    assert (await refused(other.execute())).code == "PGRST106"
    bad = await refused(table("notes").select("*, users(*)").execute())
    assert bad.code == "PGRST100"


async def test_a_column_added_meanwhile_is_found(service, sql):
    await service.table("video_jobs").insert({"status": "x"}).execute()
    sql("alter table public.video_jobs add column late text")
    made = await service.table("video_jobs").insert({"late": "yes"}).execute()
    assert made.data[0]["late"] == "yes"


async def test_at_most_a_thousand_rows_are_read(service, sql):
    sql("insert into public.video_jobs (frames) select generate_series(1, 1005)")
    answer = await service.table("video_jobs").select("frames", count="exact").execute()
    assert (len(answer.data), answer.count) == (1000, 1005)


async def test_statements_end_at_the_roles_time_limit(gateway, http):
    answer = await http.post(
        f"{gateway.url}/rest/v1/rpc/wait",
        json={"seconds": 5},
        headers={"apikey": gateway.keys.anon},
    )
    assert (answer.status_code, answer.json()["code"]) == (500, "57014")
    assert answer.elapsed.total_seconds() < 4.5


async def test_requests_at_once_do_not_mix_their_identities(gateway, http, user, anon):
    async def who(client) -> str:
        return (await client.rpc("who", {}).execute()).data["user"]

    clients = [user, anon] * 15
    names = await asyncio.gather(*map(who, clients))
    assert names == ["authenticated", "anon"] * 15


async def test_an_abandoned_request_does_not_spoil_the_session(gateway, http, service):
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            await http.post(
                f"{gateway.url}/rest/v1/rpc/wait",
                json={"seconds": 0.5},
                headers=as_service(gateway),
                timeout=0.1,
            )
    assert (await service.rpc("add", {"a": 1}).execute()).data == 11


async def test_it_works_after_a_restart_of_postgres(server, service):
    await service.table("video_jobs").insert({"status": "before"}).execute()
    await asyncio.to_thread(server.stop)
    answer = await refused(service.rpc("add", {"a": 1}).execute())
    assert answer.code == "PGRST001"
    server.start()
    rows = await service.table("video_jobs").select("status").execute()
    assert rows.data == [{"status": "before"}]
