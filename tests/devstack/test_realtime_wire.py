"""The Realtime part on the wire: frames compared with recorded traffic of the real server."""

import asyncio
import json
import time

import pytest
from websockets.exceptions import InvalidStatus

from tests.devstack.realtime_wire import JOBS, recorded, shape


async def test_the_frames_of_a_row_have_the_recorded_shape(wire, sql):
    await wire.join(JOBS, topic="realtime:video-jobs-worker")
    frames = [await wire.frame(), await wire.frame()]
    user = "11111111-1111-1111-1111-111111111111"
    sql(
        "insert into public.video_jobs (user_id, audio_url, params, progress, frames, big, tags)"
        " values (%s, 'https://x/a.wav', '{\"a\":1,\"n\":null}', 12.5, 81, 9007199254740993,"
        " '{a,\"b c\"}')",
        user,
    )
    sql("update public.video_jobs set status = 'running'")
    sql("delete from public.video_jobs")
    frames += [await wire.frame() for _ in range(3)]
    wanted = recorded("insert_update_delete")
    by_kind = {
        (frame["event"], frame["payload"].get("data", {}).get("type")): frame
        for frame in reversed(wanted)
    }
    assert len(frames) == 5
    for frame in frames:
        real = by_kind[frame["event"], frame["payload"].get("data", {}).get("type")]
        assert shape(frame) == shape(real)
    assert (
        frames[2]["payload"]["data"]["columns"]
        == by_kind["postgres_changes", "INSERT"]["payload"]["data"]["columns"]
    )
    assert list(frames[2]["payload"]["data"]["record"]) == list(
        by_kind["postgres_changes", "INSERT"]["payload"]["data"]["record"]
    )


async def test_values_are_encoded_as_to_jsonb_does(wire, sql):
    await wire.joined({"event": "*", "schema": "public", "table": "types_of_values"})
    sql(
        "insert into public.types_of_values (id, b, d, i, n, flags)"
        " values (9007199254740993, '\\x00ff', '2026-11-22', '1 day 2 hours', 12.50, '{t,null}')"
    )
    data = await wire.data()
    assert data["record"] == {
        "id": 9007199254740993,
        "b": "00ff",
        "d": "2026-11-22",
        "i": "1 day 02:00:00",
        "n": 12.5,
        "flags": [True, None],
        "big_text": None,
    }
    kinds = {column["name"]: column["type"] for column in data["columns"]}
    assert (kinds["flags"], kinds["n"]) == ("_bool", "numeric")


async def test_an_unchanged_out_of_line_value_is_absent_unless_the_identity_is_full(wire, sql):
    await wire.joined({"event": "UPDATE", "schema": "public", "table": "types_of_values"})
    sql("insert into public.types_of_values (id, big_text) values (1, repeat('x', 20000))")
    sql("update public.types_of_values set n = 1")
    data = await wire.data()
    assert "big_text" not in data["record"]
    assert data["old_record"] == {"id": 1}
    sql("alter table public.types_of_values replica identity full")
    sql("update public.types_of_values set n = 2")
    data = await wire.data()
    assert len(data["record"]["big_text"]) == 20000
    assert data["old_record"]["n"] == 1


async def test_a_new_key_is_seen_with_the_old_one(wire, sql):
    await wire.joined({"event": "UPDATE", "schema": "public", "table": "types_of_values"})
    sql("insert into public.types_of_values (id, n) values (1, 5)")
    sql("update public.types_of_values set id = 2")
    data = await wire.data()
    assert (data["record"]["id"], data["old_record"]) == (2, {"id": 1})


async def test_a_change_beyond_a_megabyte_has_its_small_values_only(wire, sql):
    await wire.joined({"event": "*", "schema": "public", "table": "types_of_values"})
    sql("insert into public.types_of_values (id, big_text, n) values (1, repeat('x', 1100000), 3)")
    data = await wire.data()
    assert data["errors"] == ["Error 413: Payload Too Large"]
    assert data["record"] == {"id": 1, "n": 3}


async def test_rows_of_one_transaction_arrive_one_by_one_in_order(wire, sql):
    await wire.joined(JOBS)
    sql("insert into public.video_jobs (frames) select generate_series(1, 200)")
    sql("truncate public.video_jobs")
    assert [(await wire.data())["record"]["frames"] for _ in range(200)] == list(range(1, 201))
    await wire.silence()


async def test_both_versions_hear_the_same(connect_wire, sql):
    old, new = await connect_wire(version="1.0.0"), await connect_wire(version="2.0.0")
    await old.joined(JOBS)
    await new.joined(JOBS)
    sql("insert into public.video_jobs (frames) values (7)")
    assert await old.data() == await new.data()


async def test_a_heartbeat_is_answered_with_its_own_ref(wire):
    await wire.push("phoenix", "heartbeat", {}, ref="h1")
    reply = await wire.frame()
    assert (reply["ref"], reply["payload"]) == ("h1", {"status": "ok", "response": {}})


async def test_a_leave_is_answered_then_the_channel_closes(wire, sql):
    await wire.joined(JOBS)
    ref = await wire.push("realtime:t", "phx_leave", {})
    reply, closed = await wire.frame(), await wire.frame()
    assert (reply["ref"], reply["payload"]["status"]) == (ref, "ok")
    assert (closed["event"], closed["ref"]) == ("phx_close", "1")
    sql("insert into public.video_jobs default values")
    await wire.silence()
    await wire.push("realtime:t", "access_token", {"access_token": "x"})
    assert (await wire.frame())["payload"]["response"] == {"reason": "unmatched topic"}


async def test_a_second_join_answers_first_and_then_closes_the_first(wire, sql):
    await wire.joined(JOBS)
    second = await wire.join(JOBS | {"event": "DELETE"})
    reply, closed, system = [await wire.frame() for _ in range(3)]
    assert (reply["event"], reply["ref"]) == ("phx_reply", second)
    assert (closed["event"], closed["ref"]) == ("phx_close", "1")
    assert system["payload"]["status"] == "ok"
    sql("insert into public.video_jobs default values")
    await wire.silence()


async def test_the_id_of_a_binding_is_stable_and_never_zero(wire):
    first = await wire.joined(JOBS, topic="realtime:a")
    second = await wire.joined(JOBS, topic="realtime:b")
    assert first == second != 0


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        (
            {"event": "*", "schema": "public", "table": "hidden"},
            "Unable to subscribe to changes with given parameters. Please check Realtime is enabled"
            " for the given connect parameters: [event: *, schema: public, table: hidden, filters:"
            " [], select: nil]",
        ),
        (JOBS | {"filter": "status=zz.1"}, 'Error parsing `filter` params: ["zz", "1"]'),
        (JOBS | {"filter": "garbage"}, 'Error parsing `filter` params: ["garbage"]'),
        (
            JOBS | {"event": "INSERT", "filter": "nope=eq.1"},
            "Unable to subscribe to changes with given parameters. An exception happened so please"
            " check your connect parameters: [event: INSERT, schema: public, table: video_jobs,"
            ' filters: [{"nope", "eq", "1", false}], select: nil]. Exception: ERROR P0001'
            " (raise_exception) invalid column for filter nope",
        ),
        (
            JOBS | {"event": "INSERT", "filter": "frames=eq.abc"},
            "Unable to subscribe to changes with given parameters. An exception happened so please"
            " check your connect parameters: [event: INSERT, schema: public, table: video_jobs,"
            ' filters: [{"frames", "eq", "abc", false}], select: nil]. Exception: ERROR 22P02'
            ' (invalid_text_representation) invalid input syntax for type integer: "abc"',
        ),
    ],
)
async def test_a_bad_binding_is_joined_and_then_silences_the_whole_channel(
    wire, sql, binding, message
):
    await wire.join(JOBS, binding)
    assert (await wire.frame())["payload"]["status"] == "ok"
    system = (await wire.frame())["payload"]
    assert system == {
        "channel": "t",
        "extension": "postgres_changes",
        "message": message,
        "status": "error",
    }
    sql("insert into public.video_jobs (frames) values (1)")
    await wire.silence()


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("status=eq.a", [1]),
        ("status=neq.a", [2, 3]),
        ("frames=gt.1", [2, 3]),
        ("frames=lte.2,status=not.eq.a", [2]),
        ('status=in.(a,"c,d")', [1, 3]),
        ("status=like.c%", [3]),
        ("frames=eq.2", [2]),
    ],
)
async def test_filters_are_decided_by_postgres(wire, sql, text, heard):
    await wire.joined(JOBS | {"event": "INSERT", "filter": text})
    sql("insert into public.video_jobs (status, frames) values ('a', 1), ('b', 2), ('c,d', 3)")
    assert [(await wire.data())["record"]["frames"] for _ in heard] == heard
    await wire.silence()


async def test_one_event_names_every_binding_that_it_meets(wire, sql):
    await wire.join(
        JOBS, JOBS | {"event": "INSERT", "filter": "frames=eq.1"}, JOBS | {"event": "DELETE"}
    )
    ids = [b["id"] for b in (await wire.frame())["payload"]["response"]["postgres_changes"]]
    await wire.frame()
    sql("insert into public.video_jobs (frames) values (1)")
    assert (await wire.frame())["payload"]["ids"] == sorted(ids[:2])


async def test_a_wrong_key_is_refused_at_the_upgrade(connect_wire, gateway):
    expired = gateway.keys.sign({"role": "anon", "exp": int(time.time()) - 60})
    for key in ("garbage", "", expired):
        with pytest.raises(InvalidStatus) as refused:
            await connect_wire(key)
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["error"]


@pytest.mark.parametrize("kind", ["anon", "service_role", "publishable", "secret"])
async def test_every_kind_of_key_connects_and_an_sb_key_is_no_token(connect_wire, gateway, kind):
    wire = await connect_wire(getattr(gateway.keys, kind))
    await wire.joined(JOBS, access_token="sb_secret_whatever")


async def test_bad_tokens_at_the_join_have_recorded_reasons(wire, gateway):
    late = gateway.keys.sign({"role": "anon", "exp": int(time.time()) - 55})
    forged = gateway.keys.anon[:-4] + "AAAA"
    roleless = gateway.keys.sign({"exp": int(time.time()) + 60})
    reasons = []
    for token in (forged, "garbage", roleless, late):
        await wire.join(JOBS, access_token=token)
        reply = (await wire.frame())["payload"]
        assert reply["status"] == "error"
        reasons.append(reply["response"]["reason"])
    assert reasons[:3] == [
        "JwtSignatureError: Failed to validate JWT signature",
        "MalformedJWT: The token provided is not a valid JWT",
        "InvalidJWTToken: Fields `role` and `exp` are required in JWT",
    ]
    assert reasons[3].startswith("InvalidJWTToken: Token has expired 5")


async def test_topics_without_a_name_are_refused(wire):
    await wire.join(JOBS, topic="realtime:")
    reason = "TopicNameRequired: You must provide a topic name"
    assert (await wire.frame())["payload"]["response"] == {"reason": reason}
    await wire.join(JOBS, topic="foo")
    assert (await wire.frame())["payload"]["response"] == {"reason": "unmatched topic"}


async def test_an_expired_token_ends_the_channel_and_not_the_socket(wire, gateway):
    token = gateway.keys.sign({"role": "service_role", "exp": int(time.time()) + 2})
    await wire.joined(JOBS, access_token=token)
    system, closed = await wire.frame(), await wire.frame()
    assert system["payload"]["extension"] == "system"
    assert system["payload"]["message"].startswith("Token has expired 0 seconds ago")
    assert (closed["event"], closed["ref"]) == ("phx_close", "1")
    await wire.silence()


async def test_a_fresh_token_keeps_changes_flowing(wire, gateway, sql):
    token = gateway.keys.sign({"role": "service_role", "exp": int(time.time()) + 2})
    await wire.joined(JOBS, access_token=token)
    await wire.push("realtime:t", "access_token", {"access_token": gateway.keys.service_role})
    assert (await wire.frame())["payload"]["message"] == "Subscribed to PostgreSQL"
    await wire.push("realtime:t", "access_token", {"access_token": gateway.keys.service_role})
    await wire.push("realtime:t", "access_token", {"access_token": "sb_secret_x"})
    await asyncio.sleep(2.1)
    sql("insert into public.video_jobs default values")
    assert (await wire.data())["type"] == "INSERT"


async def test_a_bad_fresh_token_ends_the_channel(wire):
    await wire.joined(JOBS)
    await wire.push("realtime:t", "access_token", {"access_token": "garbage"})
    system, closed = await wire.frame(), await wire.frame()
    assert system["payload"]["message"] == "The token provided is not a valid JWT"
    assert closed["event"] == "phx_close"


async def test_garbage_frames_change_nothing(wire, sql):
    await wire.joined(JOBS)
    await wire.send("not json")
    await wire.send(b"\x09")
    await wire.send("[]")
    await wire.silence()


async def test_broadcasts_reach_the_others_on_the_topic(connect_wire):
    first, second, deaf = (
        await connect_wire(),
        await connect_wire(version="2.0.0"),
        await connect_wire(),
    )
    loud = {"config": {"broadcast": {"self": True, "ack": True}}}
    for wire, topic, payload in (
        (first, "realtime:room", loud),
        (second, "realtime:room", {"config": {}}),
        (deaf, "realtime:other", {"config": {}}),
    ):
        await wire.push(topic, "phx_join", payload)
        await wire.frame()
    message = {"type": "broadcast", "event": "hello", "payload": {"n": 1}}
    ref = await first.push("realtime:room", "broadcast", message)
    echo, acknowledged = await first.frame(), await first.frame()
    assert echo["payload"] == message
    assert (acknowledged["ref"], acknowledged["payload"]["status"]) == (ref, "ok")
    assert (await second.frame())["payload"] == message
    await deaf.silence()


async def test_presence_is_refused_with_a_message(wire):
    await wire.joined(JOBS)
    await wire.push("realtime:t", "presence", {"event": "track"})
    assert "stand-in" in (await wire.frame())["payload"]["response"]["reason"]


async def test_a_silent_client_is_closed(gateway, connect_wire):
    gateway.gateway.realtime.apply({"idle_seconds": 0.2})
    wire = await connect_wire()
    assert await wire.ended() == 1000
