// The gateway, judged by the unmodified supabase-js client. Run by tests/devstack/test_gateway_js.py,
// which starts the stack and passes its address and keys in the environment.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const { SUPABASE_URL, SUPABASE_ANON_KEY, SUPABASE_PUBLISHABLE_KEY, SUPABASE_SERVICE_ROLE_KEY } = process.env;
const made = [];

function client(key) {
  const one = createClient(SUPABASE_URL, key, {
    auth: { persistSession: false, autoRefreshToken: false },
    realtime: { transport: WebSocket },
  });
  made.push(one);
  return one;
}

async function signedIn(key = SUPABASE_PUBLISHABLE_KEY) {
  const one = client(key);
  const { data, error } = await one.auth.signInAnonymously();
  assert.ifError(error);
  return { client: one, id: data.user.id };
}

function within(milliseconds, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not happen`)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Joins a channel and waits until changes flow. */
function listening(one, filter, onEvent) {
  return within(10000, new Promise((resolve, reject) => {
    const channel = one
      .channel(`js-${Math.random()}`)
      .on("postgres_changes", { event: "*", schema: "public", ...filter }, onEvent)
      .on("system", {}, (payload) => (payload.status === "ok" ? resolve(channel) : reject(new Error(payload.message))))
      .subscribe((status, error) => error && reject(error));
  }), "system ok");
}

after(async () => {
  for (const one of made) await one.removeAllChannels();
});

test("a service key inserts, selects, updates, counts and deletes", async () => {
  const table = () => client(SUPABASE_SERVICE_ROLE_KEY).from("video_jobs");
  const inserted = await table().insert([{ status: "js", frames: 1 }, { status: "js", frames: 2 }]).select();
  assert.ifError(inserted.error);
  assert.equal(inserted.status, 201);
  assert.equal(inserted.data.length, 2);
  const page = await table().select("frames", { count: "exact" }).eq("status", "js").order("frames").range(1, 1);
  assert.deepEqual([page.count, page.data], [2, [{ frames: 2 }]]);
  const one = await table().update({ error: "e" }).eq("status", "js").eq("frames", 1).select("error").single();
  assert.deepEqual(one.data, { error: "e" });
  const none = await table().select("*").eq("status", "nothing").maybeSingle();
  assert.deepEqual([none.data, none.error], [null, null]);
  const gone = await table().delete().eq("status", "js");
  assert.deepEqual([gone.status, gone.error], [204, null]);
});

test("errors arrive with code, message and status", async () => {
  const hidden = await client(SUPABASE_ANON_KEY).from("hidden").select("*");
  assert.deepEqual([hidden.status, hidden.error.code], [401, "42501"]);
  const missing = await client(SUPABASE_ANON_KEY).rpc("missing", { a: 1 });
  assert.deepEqual([missing.status, missing.error.code], [404, "PGRST202"]);
  const unknown = await client("sb_publishable_unknown").from("video_jobs").select("*");
  assert.equal(unknown.status, 401);
});

test("functions are called by name", async () => {
  const { data } = await client(SUPABASE_ANON_KEY).rpc("add", { a: 2, b: 3 });
  assert.equal(data, 5);
});

test("a browser's user sees own rows only", async () => {
  const [mine, theirs] = [await signedIn(), await signedIn(SUPABASE_ANON_KEY)];
  assert.ifError((await mine.client.from("notes").insert({ body: "mine" })).error);
  assert.equal((await mine.client.from("notes").select("body")).data.length, 1);
  assert.equal((await theirs.client.from("notes").select("body")).data.length, 0);
  const forged = await mine.client.from("notes").insert({ body: "x", user_id: theirs.id });
  assert.equal(forged.error.code, "42501");
});

test("a password user signs up, in and out, and stays by refreshing", async () => {
  const one = client(SUPABASE_PUBLISHABLE_KEY);
  const credentials = { email: `${Date.now()}@example.com`, password: "correct horse" };
  assert.ifError((await one.auth.signUp(credentials)).error);
  await one.auth.signOut();
  const wrong = await one.auth.signInWithPassword({ ...credentials, password: "wrong horse" });
  assert.equal(wrong.error.code, "invalid_credentials");
  assert.ifError((await one.auth.signInWithPassword(credentials)).error);
  const { data, error } = await one.auth.refreshSession();
  assert.ifError(error);
  assert.equal((await one.auth.getUser()).data.user.id, data.user.id);
  const weak = await one.auth.signUp({ email: "weak@example.com", password: "1" });
  assert.equal(weak.error.code, "weak_password");
});

test("a row reaches its owner, with the row's own values, and not another user", async () => {
  const [mine, theirs] = [await signedIn(), await signedIn()];
  const heard = [];
  let arrived;
  const first = new Promise((resolve) => { arrived = resolve; });
  await listening(theirs.client, { table: "notes" }, (event) => heard.push(event));
  await listening(mine.client, { table: "notes", filter: `user_id=eq.${mine.id}` }, arrived);
  assert.ifError((await mine.client.from("notes").insert({ body: "for me" })).error);
  const event = await within(10000, first, "the event");
  assert.deepEqual([event.eventType, event.new.body, event.errors], ["INSERT", "for me", null]);
  assert.equal(heard.length, 0);
});

test("an sb_ key listens too", async () => {
  let arrived;
  const first = new Promise((resolve) => { arrived = resolve; });
  await listening(client(SUPABASE_PUBLISHABLE_KEY), { table: "video_jobs" }, arrived);
  await client(SUPABASE_SERVICE_ROLE_KEY).from("video_jobs").insert({ status: "sb" });
  const event = await within(10000, first, "the event");
  assert.equal(event.new.status, "sb");
});

test("broadcasts come back when asked to", async () => {
  const one = client(SUPABASE_ANON_KEY);
  let arrived;
  const first = new Promise((resolve) => { arrived = resolve; });
  const channel = one.channel("room", { config: { broadcast: { self: true, ack: true } } });
  channel.on("broadcast", { event: "hello" }, arrived);
  await within(10000, new Promise((resolve) => channel.subscribe((state) => state === "SUBSCRIBED" && resolve())), "join");
  assert.equal(await channel.send({ type: "broadcast", event: "hello", payload: { n: 1 } }), "ok");
  assert.deepEqual((await within(10000, first, "the echo")).payload, { n: 1 });
});

test("files go up, come down, are signed, listed and removed", async () => {
  const bucket = client(SUPABASE_SERVICE_ROLE_KEY).storage.from("inputs");
  const bytes = new Uint8Array([1, 2, 3, 0, 255]);
  const name = "js folder/ü.bin";
  const up = await bucket.upload(name, new Blob([bytes], { type: "application/x-js" }));
  assert.ifError(up.error);
  assert.equal(up.data.fullPath, `inputs/${name}`);
  assert.equal((await bucket.upload(name, bytes)).error.statusCode, "409");
  assert.ifError((await bucket.upload(name, bytes, { upsert: true, contentType: "application/x-js" })).error);
  const down = await bucket.download(name);
  assert.deepEqual(new Uint8Array(await down.data.arrayBuffer()), bytes);
  const { data: link } = await bucket.createSignedUrl(name, 60);
  const answer = await fetch(link.signedUrl);
  assert.deepEqual([answer.status, answer.headers.get("content-type")], [200, "application/x-js"]);
  assert.deepEqual((await bucket.list("js folder")).data.map((entry) => entry.name), ["ü.bin"]);
  assert.equal((await bucket.remove([name])).data.length, 1);
  assert.ok((await bucket.download(name)).error);
  const shared = client(SUPABASE_SERVICE_ROLE_KEY).storage.from("results");
  assert.ifError((await shared.upload("v.bin", bytes)).error);
  assert.equal((await fetch(shared.getPublicUrl("v.bin").data.publicUrl)).status, 200);
});
