// A browser's way from a row to its video with the unmodified supabase-js client: signs in, listens,
// inserts, waits. Run by tests/e2e/test_inserts.py; prints the statuses it was told of and the last row.
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const { SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, IMAGE_URL, AUDIO_URL } = process.env;
const supabase = createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, {
  auth: { persistSession: false, autoRefreshToken: false },
  realtime: { transport: WebSocket },
});
const giveUp = setTimeout(() => { console.error("no end within 40 s"); process.exit(1); }, 40000);
const { data: signedIn, error: refused } = await supabase.auth.signInAnonymously();
if (refused) throw refused;

const heard = [];
let finish;
const finished = new Promise((resolve) => { finish = resolve; });
const flowing = new Promise((resolve) => {
  supabase
    .channel("my-jobs")
    .on(
      "postgres_changes",
      { event: "UPDATE", schema: "public", table: "video_jobs", filter: `user_id=eq.${signedIn.user.id}` },
      ({ new: row }) => {
        heard.push(row.status);
        if (["completed", "failed", "cancelled"].includes(row.status)) finish(row);
      },
    )
    .on("system", {}, (payload) => payload.status === "ok" && resolve())
    .subscribe();
});
await flowing;
const { data: job, error } = await supabase
  .from("video_jobs")
  .insert({ image_url: IMAGE_URL, audio_url: AUDIO_URL, width: 480, height: 832 })
  .select("id, status, user_id")
  .single();
if (error) throw error;
const row = await finished;
await supabase.removeAllChannels();
clearTimeout(giveUp);
console.log(JSON.stringify({ inserted: job, heard, row }));
process.exit(0); // the client keeps timers
