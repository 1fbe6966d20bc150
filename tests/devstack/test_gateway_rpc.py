"""Function calls through the gateway: what each kind of function answers with."""

import pytest
from supabase import PostgrestAPIError


async def call(client, name, **arguments):
    return (await client.rpc(name, arguments).execute()).data


async def refused(client, name, **arguments) -> PostgrestAPIError:
    with pytest.raises(PostgrestAPIError) as error:
        await call(client, name, **arguments)
    return error.value


async def test_scalars_sets_rows_tables_and_nothing(service):
    assert await call(service, "add", a=1, b=2) == 3
    assert await call(service, "add", a=1) == 11
    assert await call(service, "nothing") == []
    assert await call(service, "numbers", until=3) == [1, 2, 3]
    assert await call(service, "pairs") == [{"n": 1, "word": "one"}, {"n": 2, "word": "two"}]
    echo = await call(service, "echo", data={"a": [1, None]}, words=["x", "y,z"])
    assert echo == {"data": {"a": [1, None]}, "words": ["x", "y,z"]}


async def test_nothing_is_http_204(gateway, http):
    answer = await http.post(
        f"{gateway.url}/rest/v1/rpc/nothing", json={}, headers={"apikey": gateway.keys.anon}
    )
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_row_that_is_null_becomes_an_object_of_nulls_but_a_set_is_empty(service):
    one = await call(service, "one_note", wanted=77)
    assert set(one.values()) == {None}
    assert await call(service, "notes_of", wanted="a") == []


async def test_sets_of_rows_take_filters_and_single(service):
    users = ["11111111-1111-1111-1111-11111111111" + str(n) for n in range(3)]
    rows = [{"user_id": u, "kind": "a", "body": f"note {n}"} for n, u in enumerate(users)]
    await service.table("notes").insert(rows).execute()
    query = service.rpc("notes_of", {"wanted": "a"}).select("body").neq("body", "note 1")
    assert (await query.order("body", desc=True).execute()).data == [
        {"body": "note 2"},
        {"body": "note 0"},
    ]
    one = await service.rpc("notes_of", {"wanted": "a"}).eq("body", "note 1").single().execute()
    assert one.data["body"] == "note 1"


async def test_calls_by_get(service, gateway, http):
    assert (await service.rpc("add", {"a": 4, "b": 5}, get=True).execute()).data == 9
    answer = await http.get(
        f"{gateway.url}/rest/v1/rpc/notes_of?wanted=a&body=eq.x",
        headers={"apikey": gateway.keys.service_role},
    )
    assert (answer.status_code, answer.json()) == (200, [])


async def test_a_function_is_found_by_its_argument_names_only(service):
    error = await refused(service, "add", a=1, c=2)
    assert error.code == "PGRST202"
    assert error.message == "Could not find the function public.add(a, c) in the schema cache"
    assert (await refused(service, "add")).code == "PGRST202"
    assert (await refused(service, "missing")).code == "PGRST202"


async def test_overloads_with_the_same_names_are_ambiguous(service, sql):
    sql("create function public.twice(x int) returns int language sql as 'select 2 * x'")
    sql("create function public.twice(x text) returns text language sql as 'select x || x'")
    assert (await refused(service, "twice", x=1)).code == "PGRST203"


@pytest.mark.parametrize(
    ("code", "status"),
    [("P0001", 400), ("PT409", 409), ("42501", 403), ("23505", 409), ("22023", 400)],
)
async def test_errors_keep_their_parts_and_get_a_status(gateway, http, code, status):
    answer = await http.post(
        f"{gateway.url}/rest/v1/rpc/refuse",
        json={"code": code},
        headers={"apikey": gateway.keys.service_role},
    )
    assert answer.status_code == status
    assert answer.json() == {
        "code": code,
        "message": "refused",
        "details": "why",
        "hint": "what to do",
    }


async def test_a_stable_function_cannot_write(gateway, http):
    answer = await http.post(
        f"{gateway.url}/rest/v1/rpc/sleep_in_stable",
        json={},
        headers={"apikey": gateway.keys.service_role},
    )
    assert answer.status_code in (400, 405)


async def test_the_function_sees_who_calls(service, anon, user):
    assert await call(anon, "who") == {
        "user": "anon",
        "role": "anon",
        "uid": None,
        "method": "POST",
    }
    assert (await call(service, "who"))["user"] == "service_role"
    me = await call(user, "who")
    assert (me["user"], me["role"]) == ("authenticated", "authenticated")
    assert me["uid"] == (await user.auth.get_user()).user.id
