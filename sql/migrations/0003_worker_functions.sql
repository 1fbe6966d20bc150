-- What the worker calls (worker/supabase/store.py), each in one round trip, executable by service_role alone.
-- Python sends durations, Postgres owns instants. Every write here is fenced: it names what it
-- expects to find and tells whether it took.

begin;
do $$
begin
  perform pg_advisory_xact_lock(6030272911);
  if not exists (select from public.video_job_migrations m where m.name = '0001_video_jobs') then
    raise exception 'Apply 0001_video_jobs.sql first.';
  end if;
end $$;
set local lock_timeout = '4s';
set local statement_timeout = '60s';

-- A job, its submissions of the present try and its open older ones, with ages in seconds:
-- all that core/lifecycle.py needs to decide. job is null when the row was deleted.
create or replace function public.video_job_case_v1(p_job_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'job', (select to_jsonb(j) || jsonb_build_object('lease_left', extract(epoch from j.lease_expires_at - now()))
            from public.video_jobs j where j.id = p_job_id),
    'submissions', coalesce((
      select jsonb_agg(to_jsonb(a) || jsonb_build_object(
          'age', extract(epoch from now() - a.created_at),
          'queued_for', extract(epoch from now() - coalesce(a.submitted_at, a.created_at)),
          'ttl_left', extract(epoch from a.expires_at - now()),
          'missing_for', extract(epoch from now() - a.missing_since),
          'incomplete_for', extract(epoch from now() - a.incomplete_since),
          'cancel_asked_ago', extract(epoch from now() - a.cancel_asked_at),
          'endpoint_started_ago', (select extract(epoch from now() - max(o.started_at)) from public.video_job_attempts o
                                   where o.endpoint_id = a.endpoint_id)) order by a.attempt)
      from public.video_job_attempts a
      where a.job_id = p_job_id
        and (a.state in ('submitting', 'unknown', 'queued', 'running')
             or a.try_number = (select j.try_number from public.video_jobs j where j.id = p_job_id))), '[]'::jsonb))
$$;

-- One case, for a webhook or after a write that did not take. None when neither job nor submissions exist.
create or replace function public.get_video_job_case_v1(p_job_id uuid) returns setof jsonb
language sql stable set search_path = '' as $$
  select c from public.video_job_case_v1(p_job_id) c
  where c ->> 'job' is not null or jsonb_array_length(c -> 'submissions') > 0
$$;

-- An expired lease makes the row claimable again and executes nothing. With a POST under way its outcome is unknown.
create or replace function public.recover_video_jobs_v1() returns setof public.video_jobs
language plpgsql set search_path = '' as $$
declare
  job public.video_jobs;
begin
  perform set_config('video_jobs.writer', 'worker', true);
  for job in
    select * from public.video_jobs j
    where j.status = 'preparing' and j.lease_expires_at < now()
    order by j.id for update skip locked
  loop
    update public.video_job_attempts a
      set state = 'unknown', raw_error = 'the worker vanished while POST /run was under way', next_poll_at = now()
      where a.job_id = job.id and a.attempt = job.attempt and a.state in ('submitting', 'unknown');
    if found then
      return query update public.video_jobs j
        set phase = case when j.cancel_requested then 'cancelling' else 'confirming_submission' end,
            lease_owner = null, lease_expires_at = null
        where j.id = job.id returning j.*;
    elsif job.cancel_requested then
      return query update public.video_jobs j
        set status = 'cancelled', phase = 'done', lease_owner = null, lease_expires_at = null, completed_at = now()
        where j.id = job.id returning j.*;
    elsif job.claimed_alone and job.crashes_alone >= 4 then
      return query update public.video_jobs j
        set status = 'failed', phase = 'done', lease_owner = null, lease_expires_at = null, completed_at = now(),
            crashes = j.crashes + 1, crashes_alone = j.crashes_alone + 1, error_code = 'too_many_crashes',
            error_message = 'The worker stopped five times while it prepared this job alone. Use another image or '
              'audio file; the operator finds the cause in the worker''s log.'
        where j.id = job.id returning j.*;
    else
      return query update public.video_jobs j
        set status = 'queued', phase = 'in_line', phase_detail = null, lease_owner = null, lease_expires_at = null,
            crashes = j.crashes + 1, crashes_alone = j.crashes_alone + j.claimed_alone::integer
        where j.id = job.id returning j.*;
    end if;
  end loop;
  -- The row was deleted, or lost its lease to another run's news, while its POST was under way, and the sender
  -- vanished as well.
  update public.video_job_attempts a
    set state = 'unknown', raw_error = 'the worker vanished while POST /run was under way', next_poll_at = now()
    from (select x.job_id, x.attempt from public.video_job_attempts x
          where x.state = 'submitting' and x.next_poll_at < now()
            and not exists (select 1 from public.video_jobs j where j.id = x.job_id and j.status = 'preparing'
                            and j.attempt = x.attempt and j.lease_expires_at is not null)
          for update skip locked) left_over
    where a.job_id = left_over.job_id and a.attempt = left_over.attempt;
  -- A row that says it runs, without any open submission (somebody emptied the other table), would wait for ever.
  return query update public.video_jobs j
    set status = case when j.cancel_requested then 'cancelled' else 'failed' end,
        phase = 'done', phase_detail = null, completed_at = now(),
        error_code = case when not j.cancel_requested then 'run_lost' end,
        error_message = case when not j.cancel_requested then
          'The record of this job''s run is gone. Try the job again; the operator should not delete '
          'rows of video_job_attempts by hand.' end
    from (select x.id from public.video_jobs x
          where (x.status in ('submitted', 'running') or (x.status = 'preparing' and x.lease_expires_at is null))
            and x.updated_at < now() - interval '60 seconds'
            and not public.video_job_has_open_submission_v1(x.id)
          for update skip locked) forgotten
    where j.id = forgotten.id
    returning j.*;
end $$;

-- Takes rows for a while: as many as all limits allow, in fair order (each user's first job before anyone's second).
-- p_holding: the rows this owner works on. Others in its name came with an answer that never reached it: they
-- go back at once, and not as a crash. Null: the owner does not say.
create or replace function public.claim_video_jobs_v1(
  p_owner uuid, p_want integer, p_lease_seconds double precision, p_endpoint_id text, p_max_in_flight integer,
  p_max_queued_runs integer, p_max_in_flight_per_user integer, p_max_submissions_per_user_per_day integer,
  p_holding uuid[] default null)
returns setof public.video_jobs
language plpgsql set search_path = '' as $$
declare
  preparing integer;
  mine integer;
  alone boolean;
  slots integer;
  candidates uuid[];
  suspects boolean[];
  picked uuid[] := '{}';
begin
  perform set_config('video_jobs.writer', 'worker', true);
  if p_holding is not null then
    update public.video_jobs j
      set status = case when j.cancel_requested then 'cancelled' else 'queued' end,
          phase = case when j.cancel_requested then 'done' else 'in_line' end,
          completed_at = case when j.cancel_requested then now() end,
          phase_detail = null, lease_owner = null, lease_expires_at = null
      from (select q.id from public.video_jobs q
            where q.status = 'preparing' and q.lease_owner = p_owner and q.id <> all (p_holding)
              and not public.video_job_has_open_submission_v1(q.id) for update skip locked) unknown_to_it
      where j.id = unknown_to_it.id;
  end if;
  if not exists (select 1 from public.video_jobs j where j.status = 'queued' and j.available_at <= now()) then
    return;
  end if;
  -- The limits are counts over many rows: two claims at once could each see the last free slot.
  perform pg_advisory_xact_lock(hashtextextended('video_jobs.claim', 0));

  select count(*), count(*) filter (where j.lease_owner = p_owner),
         coalesce(bool_or(j.claimed_alone) filter (where j.lease_owner = p_owner), false)
    into preparing, mine, alone
    from public.video_jobs j where j.status = 'preparing' and j.lease_expires_at >= now();
  if alone then
    return;
  end if;
  select least(p_want,
      p_max_in_flight - preparing - count(*),
      p_max_queued_runs - preparing - count(*) filter (where a.state = 'queued' and a.endpoint_id = p_endpoint_id))
    into slots from public.video_job_attempts a where a.state in ('queued', 'running');
  if slots <= 0 then
    return;
  end if;

  -- Whole-table counts instead of one look-up for each user: 100,000 users may wait, but few are in work.
  -- A lease that has run out counts until it is recovered: its run may be live.
  with held_slots as (
    select u.user_id, count(*) as in_flight from (
      select a.user_id from public.video_job_attempts a where a.state in ('unknown', 'queued', 'running')
      union all
      select p.user_id from public.video_jobs p where p.status = 'preparing' and p.lease_expires_at is not null) u
    group by u.user_id
  ), spent as (
    select u.user_id, count(*) as today from (
      select a.user_id from public.video_job_attempts a
        where a.created_at > now() - interval '24 hours' and a.state not in ('refused', 'submitting')
      union all
      select p.user_id from public.video_jobs p where p.status = 'preparing' and p.lease_expires_at is not null) u
    group by u.user_id
  ), waiting as (
    select * from (
      select j.id, j.user_id, j.priority, j.created_at, j.crashes > 0 as suspect,
             row_number() over (partition by j.user_id order by j.priority desc, j.created_at, j.id) as nth
      from public.video_jobs j where j.status = 'queued' and j.available_at <= now()) w
    where w.nth <= 50  -- more of one user can neither be claimed now nor need a word
  ), line as (
    select w.id, w.suspect,
      row_number() over (order by w.priority desc, w.nth + coalesce(h.in_flight, 0), w.created_at, w.id) as place,
      case when w.user_id is null then null
           when coalesce(s.today, 0) + w.nth > p_max_submissions_per_user_per_day
             then 'Waiting: the limit of ' || p_max_submissions_per_user_per_day || ' submissions in 24 hours is reached.'
           when coalesce(h.in_flight, 0) + w.nth > p_max_in_flight_per_user
             then 'Waiting for another of your jobs to finish (' || p_max_in_flight_per_user || ' at a time).' end as held
    from waiting w
    left join held_slots h on h.user_id = w.user_id
    left join spent s on s.user_id = w.user_id
  ), told as (
    update public.video_jobs j set phase_detail = t.held
      from (select q.id, h.held
            from (select l.id, l.held from line l where l.held is not null order by l.place limit 50) h
            join public.video_jobs q on q.id = h.id
            where q.status = 'queued' and q.phase_detail is distinct from h.held for update of q skip locked) t
      where j.id = t.id
  ), free as (
    select l.id, l.suspect, l.place from line l where l.held is null order by l.place limit 200
  )
  select array_agg(f.id order by f.place), array_agg(f.suspect order by f.place) into candidates, suspects from free f;

  -- Locked one by one in that order: a row that somebody holds, or that still has a run, must not take a place.
  for n in 1 .. coalesce(array_length(candidates, 1), 0) loop
    -- A row whose last claim crashed is claimed alone, so that one hostile file takes no neighbours down.
    continue when picked <> '{}' and suspects[n];
    perform from public.video_jobs j
      where j.id = candidates[n] and j.status = 'queued' and not public.video_job_has_open_submission_v1(j.id)
      for update skip locked;
    continue when not found;
    if suspects[n] and mine > 0 then
      return;
    end if;
    picked := picked || candidates[n];
    exit when suspects[n] or cardinality(picked) >= slots;
  end loop;

  return query
  update public.video_jobs j
    set status = 'preparing', phase = 'checking_media', phase_detail = null, attempt = j.attempt + 1,
        lease_owner = p_owner, lease_expires_at = now() + make_interval(secs => p_lease_seconds),
        claimed_alone = j.crashes > 0
    where j.id = any (picked)
    returning j.*;
end $$;

-- Renews what is still held; what is missing from the answer is lost, what asks to be cancelled says so.
create or replace function public.renew_video_job_leases_v1(p_owner uuid, p_job_ids uuid[], p_lease_seconds double precision)
returns setof public.video_jobs
language plpgsql set search_path = '' as $$
begin
  perform set_config('video_jobs.writer', 'worker', true);
  return query
  update public.video_jobs j set lease_expires_at = now() + make_interval(secs => p_lease_seconds)
    where j.id = any (p_job_ids) and j.status = 'preparing' and j.lease_owner = p_owner and j.lease_expires_at >= now()
    returning j.*;
end $$;

-- Committed before POST /run: from here on a crash means "outcome unknown", never "not sent".
create or replace function public.begin_video_job_submission_v1(
  p_job_id uuid, p_attempt integer, p_owner uuid, p_lease_seconds double precision, p_max_submissions integer,
  p_endpoint_id text, p_ttl_seconds double precision, p_template_hash text, p_plan jsonb, p_columns jsonb,
  p_input_objects text[])
returns setof public.video_jobs
language plpgsql set search_path = '' as $$
declare
  job public.video_jobs;
  planned public.video_jobs;
begin
  perform set_config('video_jobs.writer', 'worker', true);
  select * into job from public.video_jobs j where j.id = p_job_id for update;
  if job.id is null or job.status <> 'preparing' or job.attempt <> p_attempt or job.lease_owner is distinct from p_owner
     or job.lease_expires_at < now() or job.cancel_requested or job.submissions >= p_max_submissions
     or public.video_job_has_open_submission_v1(p_job_id) then
    return;
  end if;
  insert into public.video_job_attempts
    (job_id, attempt, try_number, user_id, endpoint_id, plan, template_hash, input_objects, expires_at, next_poll_at)
  values (p_job_id, p_attempt, job.try_number, job.user_id, p_endpoint_id, p_plan, p_template_hash, p_input_objects,
    now() + make_interval(secs => p_ttl_seconds),
    -- when nobody answers for it any more, even if its row is deleted meanwhile
    now() + make_interval(secs => 2 * p_lease_seconds));
  planned := jsonb_populate_record(job, p_columns);
  return query
  update public.video_jobs j
    set frames = planned.frames, windows = planned.windows, sampled_windows = planned.sampled_windows,
        render_width = planned.render_width, render_height = planned.render_height,
        audio_duration = planned.audio_duration, video_duration = planned.video_duration,
        seed_used = planned.seed_used, warnings = planned.warnings, estimated_cost_usd = planned.estimated_cost_usd,
        submissions = j.submissions + 1, crashes = 0, crashes_alone = 0,
        lease_expires_at = now() + make_interval(secs => p_lease_seconds)
    where j.id = p_job_id returning j.*;
end $$;

-- Records the id that RunPod gave, or that a webhook brought. "wanted" is false when nobody waits for this
-- run any more: the caller cancels it at once, and the submission stays open until it has ended.
create or replace function public.record_video_job_submission_v1(p_job_id uuid, p_attempt integer, p_runpod_job_id text)
returns table (wanted boolean, "case" jsonb)
language plpgsql set search_path = '' as $$
declare
  job public.video_jobs;
  sub public.video_job_attempts;
begin
  perform set_config('video_jobs.writer', 'worker', true);
  select * into job from public.video_jobs j where j.id = p_job_id for update;
  select * into sub from public.video_job_attempts a where a.job_id = p_job_id and a.attempt = p_attempt for update;
  if sub.job_id is null or (sub.runpod_job_id is not null and sub.runpod_job_id <> p_runpod_job_id) then
    return;
  end if;
  if sub.runpod_job_id is null then
    if exists (select 1 from public.video_job_attempts o
               where o.endpoint_id = sub.endpoint_id and o.runpod_job_id = p_runpod_job_id) then
      return;  -- that run belongs to another submission
    end if;
    update public.video_job_attempts a
      set runpod_job_id = p_runpod_job_id, state = 'queued', submitted_at = now(), raw_error = null, ended_at = null,
          next_poll_at = now()
      where a.job_id = p_job_id and a.attempt = p_attempt;
    -- Also the run of an earlier attempt, given up too early: whatever claim is in hand now ends with it.
    if job.status in ('queued', 'preparing') and job.try_number = sub.try_number then
      update public.video_jobs j
        set status = 'submitted', phase = case when j.cancel_requested then 'cancelling' else 'waiting_gpu' end,
            phase_detail = null, runpod_job_id = p_runpod_job_id, lease_owner = null, lease_expires_at = null
        where j.id = p_job_id returning j.* into job;
    end if;
  end if;
  wanted := coalesce(job.status in ('submitted', 'running') and job.try_number = sub.try_number
    and job.runpod_job_id = p_runpod_job_id and not job.cancel_requested and job.ending_code is null, false);
  if not wanted then
    -- So that its end counts as our own doing and not as a failure of the job.
    update public.video_job_attempts a set cancel_asked_at = now() where a.job_id = p_job_id and a.attempt = p_attempt;
  end if;
  "case" := public.video_job_case_v1(p_job_id);
  return next;
end $$;

-- Ends a claim without a run: given back, failed, cancelled, or waiting for an unknown POST's outcome.
-- p_submission: null (none begun), 'refused' (proved not accepted: it does not count) or 'unknown'.
create or replace function public.end_video_job_claim_v1(
  p_job_id uuid, p_attempt integer, p_owner uuid, p_status text, p_phase text, p_phase_detail text,
  p_retry_seconds double precision, p_submission text, p_raw_error text, p_error_code text, p_error_message text,
  p_columns jsonb)
returns setof public.video_jobs
language plpgsql set search_path = '' as $$
declare
  job public.video_jobs;
  planned public.video_jobs;
begin
  perform set_config('video_jobs.writer', 'worker', true);
  select * into job from public.video_jobs j where j.id = p_job_id for update;
  if p_submission is not null then
    -- What the sender knows of its own POST is true even if it lost the lease or the row meanwhile.
    update public.video_job_attempts a
      set state = p_submission, raw_error = p_raw_error, next_poll_at = now(),
          ended_at = case when p_submission = 'refused' then now() end
      where a.job_id = p_job_id and a.attempt = p_attempt and a.state in ('submitting', 'unknown');
    if not found then
      return;
    end if;
  elsif job.lease_owner is distinct from p_owner or exists (
      -- Its POST has begun after all: only what became of that may end the claim.
      select 1 from public.video_job_attempts a
      where a.job_id = p_job_id and a.attempt = p_attempt and a.state in ('submitting', 'unknown', 'queued', 'running')) then
    return;
  end if;
  if job.id is null or job.status <> 'preparing' or job.attempt <> p_attempt then
    if p_submission = 'refused' then
      update public.video_jobs j set submissions = j.submissions - 1
        from public.video_job_attempts a
        where j.id = p_job_id and a.job_id = p_job_id and a.attempt = p_attempt and a.try_number = j.try_number;
    end if;
    return;
  end if;
  if job.cancel_requested and p_submission is distinct from 'unknown' then
    p_status := 'cancelled';
    p_error_code := null;
    p_error_message := null;
  end if;
  planned := jsonb_populate_record(job, p_columns);
  return query
  update public.video_jobs j
    set status = p_status,
        phase = case when p_status in ('failed', 'cancelled') then 'done'
                     when j.cancel_requested then 'cancelling' else p_phase end,
        phase_detail = p_phase_detail, lease_owner = null, lease_expires_at = null,
        available_at = now() + make_interval(secs => coalesce(p_retry_seconds, 0)),
        submissions = j.submissions - (p_submission = 'refused' and p_submission is not null)::integer,
        crashes = case when p_submission is null and p_status = 'queued' then j.crashes else 0 end,
        error_code = p_error_code, error_message = p_error_message,
        frames = planned.frames, windows = planned.windows, sampled_windows = planned.sampled_windows,
        render_width = planned.render_width, render_height = planned.render_height,
        audio_duration = planned.audio_duration, video_duration = planned.video_duration, warnings = planned.warnings,
        completed_at = case when p_status in ('failed', 'cancelled') then now() end
    where j.id = p_job_id returning j.*;
end $$;

-- Open submissions whose next look is due (or all, at start-up), as cases, shared out between workers.
-- If the taker dies, the next look is only as late as its poll interval.
create or replace function public.take_due_video_job_submissions_v1(
  p_want integer, p_poll_seconds double precision, p_all boolean, p_after uuid)
returns setof jsonb
language plpgsql set search_path = '' as $$
begin
  return query
  with due as (
    select a.job_id, a.attempt from public.video_job_attempts a
    where a.state in ('unknown', 'queued', 'running')
      and case when p_all then p_after is null or a.job_id > p_after else a.next_poll_at <= now() end
    order by case when p_all then a.job_id end, a.next_poll_at
    limit p_want for update skip locked
  ), taken as (
    update public.video_job_attempts a set next_poll_at = now() + make_interval(secs => p_poll_seconds)
    from due where a.job_id = due.job_id and a.attempt = due.attempt
    returning a.job_id
  ), jobs as (
    select distinct t.job_id from taken t
  )
  select public.video_job_case_v1(jobs.job_id) || jsonb_build_object('job_id', jobs.job_id) from jobs order by jobs.job_id;
end $$;

-- Writes what core/lifecycle.py decided, many jobs in one call. A change takes only while job and open
-- submissions are still what it was decided on; otherwise the present case comes back, to decide again.
-- p_changes: [{job_id, revision|null, states: {"<attempt>": state, …}, job: {column: value, …}|null,
--   completed, retry_seconds, eta_seconds,
--   submissions: [{attempt, set: {column: value, …}, started, ended, missing, incomplete, cancel_asked, poll_seconds}]}]
create or replace function public.write_video_job_changes_v1(p_changes jsonb)
returns table (job_id uuid, took boolean, "case" jsonb)
language plpgsql set search_path = '' as $$
declare
  change jsonb;
  part jsonb;
  job public.video_jobs;
  sub public.video_job_attempts;
  states jsonb;
begin
  perform set_config('video_jobs.writer', 'worker', true);
  for change in select c from jsonb_array_elements(p_changes) c order by c ->> 'job_id' loop
    job_id := (change ->> 'job_id')::uuid;
    job := null;
    select * into job from public.video_jobs j where j.id = write_video_job_changes_v1.job_id for update;
    select coalesce(jsonb_object_agg(a.attempt::text, a.state), '{}') into states
      from (select x.attempt, x.state from public.video_job_attempts x
            where x.job_id = write_video_job_changes_v1.job_id
              and x.state in ('submitting', 'unknown', 'queued', 'running') order by x.attempt for update) a;
    took := job.revision is not distinct from (change ->> 'revision')::bigint and states = change -> 'states';
    if took then
      for part in select p from jsonb_array_elements(change -> 'submissions') p loop
        select * into sub from public.video_job_attempts a
          where a.job_id = write_video_job_changes_v1.job_id and a.attempt = (part ->> 'attempt')::integer for update;
        sub := jsonb_populate_record(sub, part -> 'set');
        update public.video_job_attempts a
          set state = sub.state, video_url = sub.video_url, delay_ms = sub.delay_ms, execution_ms = sub.execution_ms,
              cost_usd = sub.cost_usd, error_code = sub.error_code, raw_error = sub.raw_error,
              started_at = case when (part ->> 'started')::boolean then coalesce(a.started_at, now()) else a.started_at end,
              ended_at = case when (part ->> 'ended')::boolean then now() else a.ended_at end,
              -- true counts, false starts anew, null leaves it as it is
              missing_since = case (part ->> 'missing')::boolean
                when true then coalesce(a.missing_since, now()) when false then null else a.missing_since end,
              missing_looks = case (part ->> 'missing')::boolean
                when true then a.missing_looks + 1 when false then 0 else a.missing_looks end,
              incomplete_since = case (part ->> 'incomplete')::boolean
                when true then coalesce(a.incomplete_since, now()) when false then null else a.incomplete_since end,
              cancel_asked_at = case when (part ->> 'cancel_asked')::boolean then now() else a.cancel_asked_at end,
              seen_at = case when (part ->> 'seen')::boolean then now() else a.seen_at end,
              next_poll_at = now() + make_interval(secs => coalesce((part ->> 'poll_seconds')::double precision, 30))
          where a.job_id = sub.job_id and a.attempt = sub.attempt;
      end loop;
      if jsonb_typeof(change -> 'job') = 'object' and job.id is not null then
        job := jsonb_populate_record(job, change -> 'job');
        update public.video_jobs j
          set status = job.status, phase = job.phase, phase_detail = job.phase_detail, progress = job.progress,
              progress_source = job.progress_source, runpod_job_id = job.runpod_job_id, video_url = job.video_url,
              error_code = job.error_code, error_message = job.error_message, cost_usd = job.cost_usd,
              ending_code = job.ending_code, ending_message = job.ending_message, warnings = job.warnings,
              started_at = case when (change ->> 'started')::boolean then coalesce(j.started_at, now()) else j.started_at end,
              lease_owner = null, lease_expires_at = null,
              eta_at = case when change ? 'eta_seconds'
                then now() + make_interval(secs => (change ->> 'eta_seconds')::double precision) else j.eta_at end,
              available_at = case when change ? 'retry_seconds'
                then now() + make_interval(secs => (change ->> 'retry_seconds')::double precision) else j.available_at end,
              completed_at = case when (change ->> 'completed')::boolean then now() end
          where j.id = job.id;
      end if;
    end if;
    "case" := public.video_job_case_v1(write_video_job_changes_v1.job_id);
    return next;
  end loop;
end $$;

-- The first places of the line, for people; only what changed is written.
create or replace function public.refresh_video_job_queue_v1(p_places integer) returns integer
language plpgsql set search_path = '' as $$
declare
  changed integer;
begin
  perform set_config('video_jobs.writer', 'worker', true);
  with line as (
    select j.id, row_number() over (order by j.priority desc, j.created_at, j.id) as place
    from public.video_jobs j where j.status = 'queued' order by j.priority desc, j.created_at, j.id limit p_places
  )
  update public.video_jobs j set queue_position = moved.place
    from (select q.id, line.place from line join public.video_jobs q on q.id = line.id
          where q.status = 'queued' and q.queue_position is distinct from line.place::integer
          for update of q skip locked) moved
    where j.id = moved.id;
  get diagnostics changed = row_count;
  return changed;
end $$;

-- Forgets old timeline entries and ended submissions. Submissions of the last 48 hours count for the daily
-- limit, those of a job that still exists tell what happened to it; both stay. At most 20,000 of each in one call.
create or replace function public.prune_video_job_history_v1(p_keep_days integer)
returns table (events bigint, attempts bigint)
language plpgsql set search_path = '' as $$
begin
  delete from public.video_job_events e where e.id in (
    select x.id from public.video_job_events x
    where x.at < now() - make_interval(days => greatest(p_keep_days, 2)) order by x.at limit 20000);
  get diagnostics events = row_count;
  delete from public.video_job_attempts a where (a.job_id, a.attempt) in (
    select x.job_id, x.attempt from public.video_job_attempts x
    where x.state not in ('submitting', 'unknown', 'queued', 'running')
      and x.created_at < now() - make_interval(days => greatest(p_keep_days, 2))
      and not exists (select 1 from public.video_jobs j where j.id = x.job_id)
    order by x.created_at limit 20000 for update skip locked);
  get diagnostics attempts = row_count;
  return next;
end $$;

do $$
declare
  f text;
begin
  foreach f in array array[
    'video_job_case_v1(uuid)', 'get_video_job_case_v1(uuid)', 'recover_video_jobs_v1()',
    'claim_video_jobs_v1(uuid, integer, double precision, text, integer, integer, integer, integer, uuid[])',
    'renew_video_job_leases_v1(uuid, uuid[], double precision)',
    'begin_video_job_submission_v1(uuid, integer, uuid, double precision, integer, text, double precision, text, jsonb, jsonb, text[])',
    'record_video_job_submission_v1(uuid, integer, text)',
    'end_video_job_claim_v1(uuid, integer, uuid, text, text, text, double precision, text, text, text, text, jsonb)',
    'take_due_video_job_submissions_v1(integer, double precision, boolean, uuid)',
    'write_video_job_changes_v1(jsonb)', 'refresh_video_job_queue_v1(integer)', 'prune_video_job_history_v1(integer)']
  loop
    execute format('revoke execute on function public.%s from public, anon, authenticated', f);
    execute format('grant execute on function public.%s to service_role', f);
  end loop;
end $$;

insert into public.video_job_migrations (name) values ('0003_worker_functions') on conflict do nothing;
commit;
