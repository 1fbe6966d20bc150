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
-- all that worker/jobs/lifecycle.py needs to decide. job is null when the row was deleted.
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
          'reported_ago', extract(epoch from now() - a.reported_at),
          'cancel_asked_ago', extract(epoch from now() - a.cancel_asked_at),
          'next_poll_in', extract(epoch from a.next_poll_at - now()),
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

-- Cases that no poll will bring up: an expired lease, a POST whose sender is gone, and a row that says it runs
-- without any open submission (somebody emptied the other table). In pages by job id.
create or replace function public.stranded_video_jobs_v1(p_want integer, p_after uuid) returns setof jsonb
language sql stable set search_path = '' as $$
  select public.video_job_case_v1(s.id) || jsonb_build_object('job_id', s.id)
  from (
    select j.id from public.video_jobs j where j.status = 'preparing' and j.lease_expires_at < now()
    union
    select a.job_id from public.video_job_attempts a where a.state = 'submitting' and a.next_poll_at < now()
    union
    select j.id from public.video_jobs j
    where j.status = 'preparing' and j.lease_expires_at is null and j.updated_at < now() - interval '60 seconds'
      and not public.video_job_has_open_submission_v1(j.id)
    union
    -- Two small indexes against each other: thousands may run, and none of them is stranded.
    select j.id from (
      select x.id from public.video_jobs x where x.status in ('submitted', 'running')
      except
      select a.job_id from public.video_job_attempts a where a.state in ('submitting', 'unknown', 'queued', 'running')) alone
    join public.video_jobs j on j.id = alone.id
    where j.status in ('submitted', 'running') and j.updated_at < now() - interval '60 seconds'
  ) s
  where p_after is null or s.id > p_after
  order by s.id limit p_want
$$;

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

-- Writes values into one row of video_jobs, or of video_job_attempts where an attempt is given; p_instants holds
-- seconds from now. Only columns of the named groups: a key that is in none of them is refused, so that a misspelt or forgotten column cannot be lost in silence.
create or replace function public.video_job_set_v1(
  p_job_id uuid, p_attempt integer, p_groups text[], p_values jsonb, p_instants jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  permitted text[] := array(select c from unnest(p_groups) g cross join unnest(public.video_job_columns_v1(g)) c);
  given jsonb := coalesce(nullif(p_values, 'null'), '{}') || coalesce((
    select jsonb_object_agg(i.key, to_jsonb(now() + make_interval(secs => (i.value #>> '{}')::double precision)))
    from jsonb_each(nullif(p_instants, 'null')) i), '{}');
  unknown text[] := array(select k from jsonb_object_keys(given) k where k <> all (permitted) order by k);
begin
  if unknown <> '{}' then
    raise exception 'The worker may not write %. video_job_columns_v1 lists the columns and who writes them.',
      array_to_string(unknown, ', ');
  end if;
  if given = '{}' then
    return;
  end if;
  execute (
    select format('update public.%I t set (%s) = (select %s from jsonb_populate_record(t, $1) v) where %s',
      case when p_attempt is null then 'video_jobs' else 'video_job_attempts' end,
      string_agg(quote_ident(k), ', '), string_agg('v.' || quote_ident(k), ', '),
      case when p_attempt is null then 't.id = $2' else 't.job_id = $2 and t.attempt = $3' end)
    from jsonb_object_keys(given) k) using given, p_job_id, p_attempt;
end $$;

-- Committed before POST /run: from here on a crash means "outcome unknown", never "not sent". Returns the case.
-- Submissions of this try that may have been paid count against p_max_submissions. Answers no row when the claim is lost,
-- and {room: false} when p_max_in_flight runs are open or p_max_queued_runs wait at the endpoint.
create or replace function public.begin_video_job_submission_v1(
  p_job_id uuid, p_attempt integer, p_owner uuid, p_lease_seconds double precision, p_max_submissions integer,
  p_endpoint_id text, p_max_in_flight integer, p_max_queued_runs integer, p_ttl_seconds double precision,
  p_template_hash text, p_plan jsonb, p_columns jsonb, p_input_objects text[])
returns setof jsonb
language plpgsql set search_path = '' as $$
declare
  job public.video_jobs;
begin
  perform set_config('video_jobs.writer', 'worker', true), set_config('video_jobs.recount', 'later', true);
  if p_columns - public.video_job_columns_v1('plan') <> '{}' then
    raise exception 'A plan may not write %.', p_columns - public.video_job_columns_v1('plan');
  end if;
  -- Whoever holds the row keeps only this call waiting, not those that wait for the next lock.
  select * into job from public.video_jobs j where j.id = p_job_id for update;
  -- Counts over many rows: two at once could each see the last place.
  perform pg_advisory_xact_lock(hashtextextended('video_jobs.claim', 0));
  if job.id is null or job.status <> 'preparing' or job.attempt <> p_attempt or job.lease_owner is distinct from p_owner
     or job.lease_expires_at < now() or job.cancel_requested
     or public.video_job_has_open_submission_v1(p_job_id)
     or (select count(*) from public.video_job_attempts a where a.job_id = p_job_id and a.try_number = job.try_number
           and a.state <> 'refused') >= p_max_submissions then
    return;
  end if;
  if exists (select 1 from public.video_job_room_v1(p_endpoint_id) r
             where r.open_runs >= p_max_in_flight or r.queued_runs >= p_max_queued_runs) then
    return query select jsonb_build_object('job_id', p_job_id, 'room', false);
    return;
  end if;
  insert into public.video_job_attempts
    (job_id, attempt, try_number, user_id, endpoint_id, plan, template_hash, input_objects, expires_at, next_poll_at)
  values (p_job_id, p_attempt, job.try_number, job.user_id, p_endpoint_id, p_plan, p_template_hash, p_input_objects,
    now() + make_interval(secs => p_ttl_seconds),
    -- when nobody answers for it any more, even if its row is deleted meanwhile
    now() + make_interval(secs => 2 * p_lease_seconds));
  perform public.video_job_set_v1(p_job_id, null, array['plan', 'progress'],
    p_columns || '{"crashes": 0, "crashes_alone": 0, "input_tries": 0, "input_seconds": 0}', jsonb_build_object('lease_expires_at', p_lease_seconds));
  perform public.video_job_recount_users_v1(array[job.user_id]);
  return query select public.video_job_case_v1(p_job_id) || jsonb_build_object('job_id', p_job_id);
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

-- Writes what decide() in worker/jobs/lifecycle.py said, many jobs in one call: the one write for everything but claim
-- and begin. A change takes only while the row and its open submissions are still what it was decided on; otherwise
-- the present case comes back, to decide again. A row that somebody holds locked is left (locked: true).
-- p_changes: [{job_id, revision|null, states: {"<attempt>": state, …}, job: {column: value, …}, job_instants:
--   {column: seconds from now|null, …}, submissions: [{attempt, set: {…}, instants: {…}}, …]}]
create or replace function public.write_video_job_changes_v1(p_changes jsonb)
returns table (job_id uuid, took boolean, locked boolean, "case" jsonb)
language plpgsql set search_path = '' as $$
declare
  change jsonb;
  part jsonb;
  revision bigint;
  status text;
  states jsonb;
  moved uuid[] := '{}';
begin
  perform set_config('video_jobs.writer', 'worker', true), set_config('video_jobs.recount', 'later', true);
  perform set_config('lock_timeout', '250ms', true);
  for change in select c from jsonb_array_elements(p_changes) c order by c ->> 'job_id' loop
    job_id := (change ->> 'job_id')::uuid;
    took := false;
    locked := false;
    begin
      select j.revision, j.status into revision, status from public.video_jobs j
        where j.id = write_video_job_changes_v1.job_id for update;
      select coalesce(jsonb_object_agg(a.attempt::text, a.state) filter (where a.open), '{}') into states
        from (select x.attempt, x.state, x.state in ('submitting', 'unknown', 'queued', 'running') as open
              from public.video_job_attempts x
              where x.job_id = write_video_job_changes_v1.job_id
                and (x.state in ('submitting', 'unknown', 'queued', 'running')
                     or x.attempt in (select (p ->> 'attempt')::integer
                                      from jsonb_array_elements(change -> 'submissions') p))
              order by x.attempt for update of x) a;
      took := revision is not distinct from (change ->> 'revision')::bigint and states = change -> 'states';
    exception when lock_not_available then
      locked := true;
      -- Somebody holds many rows at once, perhaps: the rest of this call does not wait for each of them.
      perform set_config('lock_timeout', '10ms', true);
    end;
    if took then
      for part in select p from jsonb_array_elements(change -> 'submissions') p loop
        perform public.video_job_set_v1(job_id, (part ->> 'attempt')::integer, array['submission'], part -> 'set',
          part -> 'instants');
      end loop;
      perform public.video_job_set_v1(job_id, null, array['plan', 'progress', 'history'], change -> 'job',
        change -> 'job_instants');
      if coalesce(change -> 'job' ->> 'status' <> status, false) or exists (
          select 1 from jsonb_array_elements(change -> 'submissions') p
          where p -> 'set' ->> 'state' <> coalesce(states ->> (p ->> 'attempt'), '')) then
        moved := moved || job_id;
      end if;
    end if;
    "case" := public.video_job_case_v1(write_video_job_changes_v1.job_id);
    return next;
  end loop;
  perform public.video_job_recount_users_v1(array(
    select j.user_id from public.video_jobs j where j.id = any (moved)
    union select a.user_id from public.video_job_attempts a where a.job_id = any (moved)));
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
    'video_job_columns_v1(text)', 'video_job_set_v1(uuid, integer, text[], jsonb, jsonb)', 'video_job_case_v1(uuid)', 'get_video_job_case_v1(uuid)', 'stranded_video_jobs_v1(integer, uuid)',
    'renew_video_job_leases_v1(uuid, uuid[], double precision)',
    'begin_video_job_submission_v1(uuid, integer, uuid, double precision, integer, text, integer, integer, double precision, text, jsonb, jsonb, text[])',
    'take_due_video_job_submissions_v1(integer, double precision, boolean, uuid)',
    'write_video_job_changes_v1(jsonb)', 'prune_video_job_history_v1(integer)']
  loop
    execute format('revoke execute on function public.%s from public, anon, authenticated', f);
    execute format('grant execute on function public.%s to service_role', f);
  end loop;
end $$;

insert into public.video_job_migrations (name) values ('0003_worker_functions') on conflict do nothing;
commit;
