"""Who may do what: keys, tokens, grants and row security, enforced by Postgres itself."""

import time

import pytest
from supabase import PostgrestAPIError

COLUMNS = "id,user_id,body,kind"


async def refused(work) -> PostgrestAPIError:
    with pytest.raises(PostgrestAPIError) as error:
        await work
    return error.value


@pytest.fixture
async def other(client_of, gateway):
    client = await client_of(gateway.keys.publishable)
    await client.auth.sign_in_anonymously()
    return client


async def insert(client, **row) -> dict:
    return (await client.table("notes").insert(row, returning="minimal").execute()).data


async def bodies(client) -> list[str]:
    rows = (await client.table("notes").select(COLUMNS).order("id").execute()).data
    return [row["body"] for row in rows]


async def test_a_user_sees_only_own_rows_and_the_service_sees_all(user, other, service):
    await insert(user, body="mine")
    await insert(other, body="theirs")
    assert await bodies(user) == ["mine"]
    assert await bodies(other) == ["theirs"]
    assert await bodies(service) == ["mine", "theirs"]


async def test_a_user_cannot_write_rows_of_another_user(user, other):
    theirs = (await other.auth.get_user()).user.id
    error = await refused(insert(user, body="forged", user_id=theirs))
    assert error.code == "42501"
    assert "row-level security" in (error.message or "")


async def test_rows_hidden_by_a_policy_are_not_touched_and_that_is_no_error(user, other, service):
    await insert(other, body="theirs")
    changed = (
        await user.table("notes").update({"body": "x"}, returning="minimal").gt("id", 0).execute()
    )
    assert changed.data == []
    assert await bodies(service) == ["theirs"]


async def test_column_grants_hold(user):
    await insert(user, body="mine")
    assert (await refused(user.table("notes").select("*").execute())).code == "42501"
    assert (await refused(user.table("notes").select("secret").execute())).code == "42501"
    assert (await refused(insert(user, secret="x"))).code == "42501"
    assert (await refused(user.table("notes").insert({"body": "x"}).execute())).code == "42501"


async def test_new_tables_are_granted_to_no_role_not_even_the_service(service, gateway, http):
    assert (await refused(service.table("hidden").select("*").execute())).code == "42501"
    answer = await http.get(
        f"{gateway.url}/rest/v1/hidden", headers={"apikey": gateway.keys.service_role}
    )
    assert answer.status_code == 403
    answer = await http.get(f"{gateway.url}/rest/v1/hidden", headers={"apikey": gateway.keys.anon})
    assert (answer.status_code, answer.json()["message"]) == (
        401,
        "permission denied for table hidden",
    )


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        ("anon", "anon"),
        ("publishable", "anon"),
        ("service_role", "service_role"),
        ("secret", "service_role"),
    ],
)
async def test_each_key_has_its_role(gateway, client_of, kind, role):
    client = await client_of(getattr(gateway.keys, kind))
    assert (await client.rpc("who", {}).execute()).data["user"] == role


async def test_without_a_known_key_nothing_is_answered(gateway, http):
    address = f"{gateway.url}/rest/v1/video_jobs"
    missing = await http.get(address)
    assert (missing.status_code, missing.json()["message"]) == (401, "No API key found in request")
    unknown = await http.get(address, headers={"apikey": "sb_secret_of_another_project"})
    assert (unknown.status_code, unknown.json()["message"]) == (401, "Invalid API key")


async def test_a_user_token_wins_over_a_secret_key(gateway, http, user):
    token = (await user.auth.get_session()).access_token
    answer = await http.post(
        f"{gateway.url}/rest/v1/rpc/who",
        json={},
        headers={"apikey": gateway.keys.secret, "authorization": f"Bearer {token}"},
    )
    assert answer.json()["user"] == "authenticated"


async def test_bad_and_expired_tokens_are_401(gateway, http):
    claims = {"role": "service_role", "exp": int(time.time()) - 5}
    for token, code in (("garbage", "PGRST301"), (gateway.keys.sign(claims), "PGRST303")):
        answer = await http.get(
            f"{gateway.url}/rest/v1/video_jobs",
            headers={"apikey": gateway.keys.anon, "authorization": f"Bearer {token}"},
        )
        assert (answer.status_code, answer.json()["code"]) == (401, code)


async def test_a_token_cannot_name_a_role_outside_the_three(gateway, http):
    token = gateway.keys.sign({"role": "postgres", "exp": int(time.time()) + 60})
    answer = await http.get(
        f"{gateway.url}/rest/v1/video_jobs",
        headers={"apikey": gateway.keys.anon, "authorization": f"Bearer {token}"},
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")


async def test_browsers_may_ask_from_anywhere(gateway, http):
    wanted = "authorization,apikey,content-type,x-client-info,prefer,accept-profile,x-retry-count"
    answer = await http.options(
        f"{gateway.url}/rest/v1/video_jobs",
        headers={
            "Origin": "http://localhost:3000",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": wanted,
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    allowed = answer.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    assert set(wanted.split(",")) <= set(allowed)
    real = await http.get(
        f"{gateway.url}/rest/v1/video_jobs",
        headers={"Origin": "http://localhost:3000", "apikey": gateway.keys.service_role},
    )
    assert "content-range" in real.headers["access-control-expose-headers"].lower()
