-- The tables: video_jobs (the queue and what the browser sees), its submissions and its timeline.
-- Safe to run again. Plain SQL for psql, `supabase db push` and `python -m worker migrate`: each file is
-- one transaction of its own, so that psql, which goes on after an error, cannot apply half of it.


begin;
-- One at a time, whichever tool runs it; then give up early rather than hold up the application.
do $$ begin perform pg_advisory_xact_lock(6030272911); end $$;
set local lock_timeout = '4s';
set local statement_timeout = '60s';

-- A table of this name that is not ours must never be altered by accident.
do $$
declare
  ours text;
begin
  foreach ours in array array['video_jobs', 'video_job_attempts', 'video_job_events', 'video_job_migrations',
      'video_job_users', 'video_job_stale_users', 'video_job_turns', 'video_job_limits'] loop
    if to_regclass('public.' || ours) is not null
       and coalesce(obj_description(to_regclass('public.' || ours), 'pg_class'), '') not like 'talking-head-worker:%' then
      raise exception 'public.% exists already and is not from this project. '
        'Rename or drop that table, then run the migrations again.', ours;
    end if;
  end loop;
  -- 0.1 counted submissions in a column; its tables are not carried over.
  if exists (select 1 from pg_attribute a where a.attrelid = to_regclass('public.video_jobs')
             and a.attname = 'submissions' and not a.attisdropped) then
    raise exception 'This database was made by a version before 0.2, whose tables cannot be migrated. Export what you '
      'need, run "drop table public.video_jobs, public.video_job_attempts, public.video_job_events, '
      'public.video_job_migrations cascade", then run the migrations again.';
  end if;
end $$;

create table if not exists public.video_job_migrations (
  name text primary key,
  applied_at timestamptz not null default now()
);
-- Of the file as `migrate` applied it; null where another tool did: then nothing is known of its content.
alter table public.video_job_migrations add column if not exists hash text;
comment on table public.video_job_migrations is 'talking-head-worker: which sql/migrations files have run here.';

create table if not exists public.video_jobs (
  id uuid primary key default gen_random_uuid(),
  user_id uuid default auth.uid(),
  -- written by the app
  image_url text,
  audio_url text,
  width integer,
  height integer,
  quality text not null default 'hd',
  prompt text,
  negative_prompt text,
  seed integer,
  steps integer,
  idempotency_key text not null default gen_random_uuid()::text,
  metadata jsonb not null default '{}'::jsonb,
  cancel_requested boolean not null default false,
  -- written by the worker or a service key
  priority integer not null default 0,
  status text not null default 'queued',
  phase text not null default 'in_line',
  phase_detail text,
  progress smallint not null default 0,
  progress_source text,
  eta_at timestamptz,
  queue_position integer,
  frames integer,
  windows integer,
  sampled_windows integer,
  render_width integer,
  render_height integer,
  audio_duration numeric,
  video_duration numeric,
  seed_used integer,
  warnings jsonb not null default '[]'::jsonb,
  error_code text,
  error_message text,
  video_url text,
  runpod_job_id text,
  estimated_cost_usd numeric,
  cost_usd numeric,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  started_at timestamptz,
  completed_at timestamptz,
  -- the claim: attempt is only a fence; try_number counts retries by people
  attempt integer not null default 0,
  try_number integer not null default 1,
  available_at timestamptz not null default now(),
  -- its place among all users' rows (the lower the earlier); delayed: available_at is still to come
  turn bigint not null default 0,
  delayed boolean not null default false,
  inserted_by text not null default 'service',
  claimed_at timestamptz,
  lease_owner uuid,
  lease_expires_at timestamptz,
  claimed_alone boolean not null default false,
  crashes integer not null default 0,
  crashes_alone integer not null default 0,
  -- how often, and for how many seconds in all, a host did not deliver the inputs
  input_tries integer not null default 0,
  input_seconds integer not null default 0,
  ending_code text,
  ending_message text,
  revision bigint not null default 0,

  constraint width_must_be_even_and_between_480_and_1920
    check (width is null or (width between 480 and 1920 and width % 2 = 0)),
  constraint height_must_be_even_and_between_480_and_1920
    check (height is null or (height between 480 and 1920 and height % 2 = 0)),
  constraint give_both_width_and_height_or_neither check ((width is null) = (height is null)),
  constraint quality_must_be_sd_hd_or_fullhd check (quality in ('sd', 'hd', 'fullhd')),
  constraint seed_must_be_between_0_and_999999 check (seed is null or seed between 0 and 999999),
  constraint steps_must_be_4_5_or_6 check (steps is null or steps between 4 and 6),
  constraint image_url_is_longer_than_2048_characters check (length(image_url) <= 2048),
  constraint audio_url_is_longer_than_2048_characters check (length(audio_url) <= 2048),
  constraint prompt_is_longer_than_1000_characters check (length(prompt) <= 1000),
  constraint negative_prompt_is_longer_than_1000_characters check (length(negative_prompt) <= 1000),
  constraint idempotency_key_must_have_1_to_200_characters check (length(idempotency_key) between 1 and 200),
  constraint metadata_must_be_a_json_object check (jsonb_typeof(metadata) = 'object'),
  constraint metadata_is_longer_than_1000_bytes check (octet_length(metadata::text) <= 1000),
  -- A row must fit into one page of 8 kB (its fixed columns need 500 bytes): Realtime leaves columns that
  -- are kept outside the row out of its events.
  constraint urls_prompts_and_metadata_together_exceed_4000_bytes check (
    octet_length(coalesce(image_url, '')) + octet_length(coalesce(audio_url, ''))
    + octet_length(coalesce(prompt, '')) + octet_length(coalesce(negative_prompt, ''))
    + octet_length(idempotency_key) + octet_length(metadata::text) <= 4000),
  constraint status_is_not_one_of_ours check (status in
    ('queued', 'preparing', 'submitted', 'running', 'completed', 'failed', 'cancelled')),
  constraint phase_is_not_one_of_ours check (phase in
    ('in_line', 'checking_media', 'confirming_submission', 'waiting_gpu', 'loading_models',
     'generating', 'saving', 'cancelling', 'paused_budget', 'done')),
  constraint progress_must_be_between_0_and_100 check (progress between 0 and 100),
  constraint progress_source_is_not_one_of_ours check (progress_source in ('reported', 'estimated')),
  constraint inserted_by_is_not_one_of_ours check (inserted_by in ('user', 'service')),
  constraint completed_needs_a_video_url check (status <> 'completed' or video_url is not null),
  constraint failed_needs_an_error_code check (status <> 'failed' or error_code is not null),
  constraint worker_texts_are_too_long check (
    octet_length(phase_detail) <= 600 and octet_length(error_message) <= 1500
    and octet_length(ending_message) <= 1500 and octet_length(video_url) <= 2048
    and octet_length(warnings::text) <= 1600),
  constraint one_row_per_idempotency_key unique nulls not distinct (user_id, idempotency_key)
);
comment on table public.video_jobs is
  'talking-head-worker: one row is one video. The app writes inputs and cancel_requested, the worker everything else.';

-- In a row of more than 2 kB Postgres moves even short texts outside, unless their storage is "main".
do $$
declare
  name text;
begin
  for name in select a.attname from pg_attribute a
              where a.attrelid = 'public.video_jobs'::regclass and a.attnum > 0 and not a.attisdropped
                and a.attstorage in ('x', 'e') loop
    execute format('alter table public.video_jobs alter column %I set storage main', name);
  end loop;
end $$;

-- Rows in work are few, so their indexes hold only the id: with an instant that every update moves, no
-- update could stay on its page (HOT), and each would write all the indexes.
create index if not exists video_jobs_line_of_user on public.video_jobs (user_id, priority desc, turn, created_at, id)
  where status = 'queued' and not delayed;
create index if not exists video_jobs_line_of_nobody on public.video_jobs (priority desc, turn, created_at, id)
  where status = 'queued' and not delayed and user_id is null;
create index if not exists video_jobs_delayed on public.video_jobs (available_at) where status = 'queued' and delayed;
create index if not exists video_jobs_queued on public.video_jobs (created_at) where status = 'queued';
create index if not exists video_jobs_placed on public.video_jobs (id) where status = 'queued' and queue_position is not null;
create index if not exists video_jobs_preparing on public.video_jobs (user_id, id) where status = 'preparing';
create index if not exists video_jobs_active on public.video_jobs (id) where status in ('submitted', 'running');
create index if not exists video_jobs_user on public.video_jobs (user_id, created_at desc);
alter table public.video_jobs set (fillfactor = 80);

-- Who writes which column of video_jobs: the one list that grants, guards, retry and the worker's write read.
-- A column that is in no group is closed: nobody can write it, and a retry clears it.
create or replace function public.video_job_columns_v1(p_group text) returns text[]
language sql immutable set search_path = '' as $$
  select case p_group
    -- by the app, fixed once the worker has taken the job
    when 'input' then array['image_url', 'audio_url', 'width', 'height', 'quality', 'prompt', 'negative_prompt', 'seed', 'steps']
    when 'owner' then array['user_id', 'idempotency_key']
    -- by people at any time; priority by a service key only (it has no grant)
    when 'people' then array['cancel_requested', 'metadata', 'priority']
    -- by the worker
    when 'plan' then array['frames', 'windows', 'sampled_windows', 'render_width', 'render_height', 'audio_duration',
      'video_duration', 'seed_used', 'warnings', 'estimated_cost_usd']
    when 'progress' then array['status', 'phase', 'phase_detail', 'progress', 'progress_source', 'eta_at', 'queue_position',
      'error_code', 'error_message', 'video_url', 'runpod_job_id', 'started_at', 'completed_at', 'available_at',
      'ending_code', 'ending_message', 'crashes', 'crashes_alone', 'claimed_alone', 'input_tries', 'input_seconds', 'lease_owner', 'lease_expires_at']
    -- by the worker, kept by a retry
    when 'history' then array['cost_usd']
    -- by triggers and the claim alone
    when 'record' then array['id', 'created_at', 'updated_at', 'revision', 'try_number', 'attempt', 'turn', 'delayed', 'inserted_by',
      'claimed_at']
    -- the worker's columns of video_job_attempts
    when 'submission' then array['state', 'runpod_job_id', 'video_url', 'delay_ms', 'execution_ms', 'cost_usd', 'error_code',
      'error_message', 'resend', 'raw_error', 'reported', 'missing_looks', 'reported_at', 'submitted_at', 'started_at', 'ended_at', 'seen_at',
      'missing_since', 'incomplete_since', 'cancel_asked_at', 'next_poll_at']
  end
$$;
revoke execute on function public.video_job_columns_v1(text) from public, anon, authenticated;

-- These keys of an object, and no others.
create or replace function public.video_job_pick_v1(p_object jsonb, p_keys text[]) returns jsonb
language sql immutable set search_path = '' as $$
  select coalesce(jsonb_object_agg(e.key, e.value), '{}') from jsonb_each(p_object) e where e.key = any (p_keys)
$$;
revoke execute on function public.video_job_pick_v1(jsonb, text[]) from public, anon, authenticated;

create table if not exists public.video_job_attempts (
  job_id uuid not null,
  attempt integer not null,
  try_number integer not null,
  user_id uuid,
  endpoint_id text not null,
  runpod_job_id text,
  -- submitting: committed before POST /run; unknown: the POST's outcome is not known;
  -- queued, running: live at RunPod; refused: proved not accepted; expired: unknown and given up
  state text not null default 'submitting',
  plan jsonb not null default '{}'::jsonb,
  template_hash text,
  input_objects text[] not null default '{}',
  video_url text,
  delay_ms bigint,
  execution_ms bigint,
  cost_usd numeric,
  -- error_message: for people; resend: whether another submission may help though nobody changed anything
  error_code text,
  error_message text,
  resend boolean not null default false,
  raw_error text,
  -- what a signed webhook said of the run's end while RunPod could not be asked
  reported jsonb,
  reported_at timestamptz,
  created_at timestamptz not null default now(),
  submitted_at timestamptz,
  started_at timestamptz,
  ended_at timestamptz,
  expires_at timestamptz not null,
  seen_at timestamptz,
  missing_since timestamptz,
  missing_looks integer not null default 0,
  incomplete_since timestamptz,
  cancel_asked_at timestamptz,
  next_poll_at timestamptz not null default now(),
  primary key (job_id, attempt),
  constraint one_row_per_run unique (endpoint_id, runpod_job_id),
  constraint submission_state_is_not_one_of_ours check (state in
    ('submitting', 'unknown', 'refused', 'queued', 'running', 'completed', 'failed', 'cancelled', 'lost', 'expired'))
);
comment on table public.video_job_attempts is
  'talking-head-worker: one row per submission to RunPod. No foreign key: it outlives its job, so that an orphaned run can still be cancelled.';

create index if not exists video_job_attempts_open on public.video_job_attempts (job_id)
  where state in ('submitting', 'unknown', 'queued', 'running');
create index if not exists video_job_attempts_open_of_user on public.video_job_attempts (user_id)
  where state in ('submitting', 'unknown', 'queued', 'running');
create index if not exists video_job_attempts_live on public.video_job_attempts (endpoint_id, state)
  where state in ('submitting', 'queued', 'running');
create index if not exists video_job_attempts_of_user on public.video_job_attempts (user_id, created_at desc);
create index if not exists video_job_attempts_created on public.video_job_attempts (created_at);
create index if not exists video_job_attempts_started on public.video_job_attempts (endpoint_id, started_at desc);
alter table public.video_job_attempts set (fillfactor = 80);

create table if not exists public.video_job_events (
  id bigint generated always as identity primary key,
  job_id uuid not null,
  user_id uuid,
  try_number integer,
  attempt integer,
  at timestamptz not null default clock_timestamp(),
  event text not null,
  status text,
  phase text,
  detail jsonb
);
comment on table public.video_job_events is
  'talking-head-worker: what happened to each job, when and why. Written by triggers, append-only.';
create index if not exists video_job_events_job on public.video_job_events (job_id, id);
create index if not exists video_job_events_at on public.video_job_events (at);
-- What the limits of a user count.
create index if not exists video_job_events_tries on public.video_job_events (user_id, at desc)
  where event in ('inserted', 'retried');
create index if not exists video_job_events_unprepared on public.video_job_events (user_id, at desc)
  where event = 'preparation_failed';

-- One row per user who has inserted a job: who is served next, and what that depends on. Every value but `turn` can be
-- counted anew from the other tables (video_job_recount_user_v1); rows without a user are each a user of their own.
create table if not exists public.video_job_users (
  user_id uuid primary key,
  -- the last turn that a row of this user was given
  turn bigint not null default 0,
  -- to be added to the turns of its rows: it was held by a limit for hours, and others have been served meanwhile
  shift bigint not null default 0,
  preparing integer not null default 0,
  -- rows in preparation, and open runs
  in_flight integer not null default 0,
  -- the first of the waiting rows that need not wait for an instant; head_turn is its turn and shift
  head_priority integer,
  head_turn bigint,
  head_created_at timestamptz,
  head_id uuid,
  -- how many of them may be claimed now, by the limits of which version (0: not counted yet); if none, for which
  -- limit, and when it passes if nothing else happens
  room integer not null default 0,
  limits_version bigint not null default 0,
  held text,
  held_until timestamptz,
  -- what the first rows say of that; empty: to be written anew
  told text,
  refreshed_at timestamptz not null default now()
);
comment on table public.video_job_users is
  'talking-head-worker: one row per user, with the first waiting job and what limits it. Kept by triggers.';
create index if not exists video_job_users_ready on public.video_job_users (head_priority desc, head_turn, head_created_at, head_id)
  where held is null and head_id is not null;
create index if not exists video_job_users_held on public.video_job_users (held_until) where held_until is not null;
create index if not exists video_job_users_busy on public.video_job_users (user_id) where in_flight > 0 or held is not null;
create index if not exists video_job_users_untold on public.video_job_users (user_id) where held is distinct from told;

-- Users whose row was locked when it should have been counted anew; the next claim does it. Not unique: nobody waits
-- for somebody else who notes the same user.
create table if not exists public.video_job_stale_users (
  id bigint generated always as identity primary key,
  user_id uuid not null
);
create index if not exists video_job_stale_users_user on public.video_job_stale_users (user_id);
comment on table public.video_job_stale_users is 'talking-head-worker: users whose counts are to be made anew.';

-- How far each priority has been served: new rows of users without waiting rows are given their turn from here.
create table if not exists public.video_job_turns (
  priority integer primary key,
  turn bigint not null
);
comment on table public.video_job_turns is 'talking-head-worker: how far the rows of each priority have been served.';

-- The limits that the database holds: one row, written by the worker from its settings when it starts.
create table if not exists public.video_job_limits (
  only_row boolean primary key default true check (only_row),
  max_in_flight_per_user integer not null default 2,
  max_submissions_per_user_per_day integer not null default 50,
  max_failed_preparations_per_user_per_hour integer not null default 10,
  max_rows_per_user_per_day integer not null default 200,
  -- rises with every change, and says which limits a user was counted by: clocks may jump
  version bigint not null default 1,
  updated_at timestamptz not null default now()
);
comment on table public.video_job_limits is 'talking-head-worker: one row; what a user may have. From the settings of the worker.';
insert into public.video_job_limits default values on conflict do nothing;

-- Rights. New tables get none on Supabase (since October 2026), so each is named; on older
-- projects the defaults granted too much, so each is revoked first.
alter table public.video_jobs enable row level security;
alter table public.video_job_attempts enable row level security;
alter table public.video_job_events enable row level security;
alter table public.video_job_migrations enable row level security;
alter table public.video_job_users enable row level security;
alter table public.video_job_stale_users enable row level security;
alter table public.video_job_turns enable row level security;
alter table public.video_job_limits enable row level security;

revoke all on public.video_jobs, public.video_job_attempts, public.video_job_events, public.video_job_migrations,
  public.video_job_users, public.video_job_stale_users, public.video_job_turns, public.video_job_limits
  from public, anon, authenticated, service_role;
grant usage on schema public to authenticated, service_role;
grant select, insert, update, delete on public.video_jobs, public.video_job_attempts to service_role;
grant select, insert, delete on public.video_job_events to service_role;
grant select on public.video_job_migrations to service_role;
grant select, insert, update, delete on public.video_job_users, public.video_job_stale_users, public.video_job_turns,
  public.video_job_limits to service_role;

grant select on public.video_jobs to authenticated;
do $$ begin
  execute format('grant insert (id, metadata, cancel_requested, %s) on public.video_jobs to authenticated',
    array_to_string(public.video_job_columns_v1('input') || public.video_job_columns_v1('owner'), ', '));
end $$;
grant update (cancel_requested) on public.video_jobs to authenticated;

drop policy if exists "people read their own jobs" on public.video_jobs;
create policy "people read their own jobs" on public.video_jobs
  for select to authenticated using ((select auth.uid()) = user_id);
drop policy if exists "people insert their own jobs" on public.video_jobs;
create policy "people insert their own jobs" on public.video_jobs
  for insert to authenticated with check ((select auth.uid()) = user_id);
drop policy if exists "people cancel their own jobs" on public.video_jobs;
create policy "people cancel their own jobs" on public.video_jobs
  for update to authenticated using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);

insert into public.video_job_migrations (name) values ('0001_video_jobs') on conflict do nothing;
commit;
