-- Who is served next. Rows are claimed by priority, then by turn, then by age. A row is given its turn when it is
-- inserted (start-time fair queueing): one after its user's last turn, but not before what has been served already.
-- So each user's first job goes before anyone's second, and the order of waiting rows never has to be worked out anew:
-- a claim reads the users that may be served in order of their first row, however many wait.

begin;
do $$
begin
  perform pg_advisory_xact_lock(6030272911);
  if not exists (select from public.video_job_migrations m where m.name = '0003_worker_functions') then
    raise exception 'Apply 0003_worker_functions.sql first.';
  end if;
end $$;
set local lock_timeout = '4s';
set local statement_timeout = '60s';

-- The turn of a new row; its user's row stays locked until the end of the transaction.
create or replace function public.video_job_next_turn_v1(p_user_id uuid, p_priority integer) returns bigint
language plpgsql security definer set search_path = '' as $$
declare
  served constant bigint := coalesce((select t.turn from public.video_job_turns t where t.priority = p_priority), 0);
  given bigint := served + 1;
begin
  if p_user_id is not null then
    insert into public.video_job_users as u (user_id, turn) values (p_user_id, given)
      on conflict (user_id) do update set turn = greatest(served - u.shift, u.turn) + 1 returning u.turn into given;
  end if;
  return given;
end $$;

-- Whether a browser's user may insert or try again now: how many of its jobs wait, and how many it has started today.
-- Cancelled jobs and retries count, deleted ones too.
create or replace function public.video_job_check_user_v1(p_user_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
  most constant integer := (select l.max_rows_per_user_per_day from public.video_job_limits l);
  made integer;
  oldest timestamptz;
begin
  -- Two inserts at once could each see the last one that is left.
  insert into public.video_job_users (user_id) values (p_user_id) on conflict do nothing;
  perform from public.video_job_users u where u.user_id = p_user_id for update;
  -- With anonymous sign-in anybody may insert; a line that long is no use to its owner.
  if (select count(*) from (select from public.video_jobs j where j.user_id = p_user_id and j.status = 'queued' limit 200) w) >= 200 then
    raise exception 'You have 200 jobs waiting. Wait until some of them are done, then start more.'
      using hint = 'too_many_waiting_jobs';
  end if;
  select count(*), min(e.at) into made, oldest from (
    select x.at from public.video_job_events x
    where x.user_id = p_user_id and x.event in ('inserted', 'retried') and x.at > now() - interval '24 hours'
    order by x.at desc limit most) e;
  -- The rows that this very statement has inserted: their events are written at its end.
  made := made + (select count(*) from (
    select from public.video_jobs j where j.user_id = p_user_id and j.created_at = now() and not exists (
      select from public.video_job_events x where x.job_id = j.id and x.event = 'inserted') limit most) n);
  if made >= most then
    raise exception 'You have started % jobs within 24 hours, which is the limit. You can start another after % UTC.',
      most, to_char((coalesce(oldest, now()) + interval '24 hours') at time zone 'UTC', 'YYYY-MM-DD HH24:MI')
      using hint = 'too_many_jobs_today';
  end if;
end $$;

-- What a user has in work and has used of its limits. A claim whose lease is over counts until it is recovered: its
-- run may be live. One with a submission is counted by that, which stays when the row is deleted meanwhile.
-- `*_until`: when the oldest that counts stops counting.
create or replace function public.video_job_usage_v1(
  p_user_id uuid, out preparing integer, out in_flight integer, out submissions integer, out submissions_until timestamptz,
  out failures integer, out failures_until timestamptz)
language sql stable set search_path = '' as $$
  select p.rows, p.rows + o.runs, s.used + p.rows, s.until, f.used, f.until
  from (select count(*)::integer as rows from public.video_jobs j
        where j.status = 'preparing' and j.user_id = p_user_id and j.lease_expires_at is not null
          and not public.video_job_has_open_submission_v1(j.id)) p,
    (select count(*)::integer as runs from public.video_job_attempts a
     where a.user_id = p_user_id and a.state in ('submitting', 'unknown', 'queued', 'running')) o,
    (select count(*)::integer as used, min(x.created_at) + interval '24 hours' as until from (
       select a.created_at from public.video_job_attempts a
       where a.user_id = p_user_id and a.created_at > now() - interval '24 hours' and a.state <> 'refused'
       order by a.created_at desc
       limit (select l.max_submissions_per_user_per_day from public.video_job_limits l)) x) s,
    (select count(*)::integer as used, min(x.at) + interval '1 hour' as until from (
       select e.at from public.video_job_events e
       where e.user_id = p_user_id and e.event = 'preparation_failed' and e.at > now() - interval '1 hour'
       order by e.at desc
       limit (select l.max_failed_preparations_per_user_per_hour from public.video_job_limits l)) x) f
$$;

-- Counts one user anew, whose row is locked first, so that what others have just committed is seen. A row that
-- somebody holds is left to the next claim: nobody waits here, so two who hold a user of each other cannot wait for ever.
create or replace function public.video_job_recount_user_v1(p_user_id uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
  known public.video_job_users;
  limits public.video_job_limits;
  used record;
  head record;
  free integer;
  reason text;
  until timestamptz;
  behind bigint;
begin
  select * into known from public.video_job_users u where u.user_id = p_user_id for update skip locked;
  if not found and not exists (select from public.video_job_users u where u.user_id = p_user_id) then
    begin
      insert into public.video_job_users (user_id) values (p_user_id) on conflict do nothing;
    exception when lock_not_available then null;
    end;
    select * into known from public.video_job_users u where u.user_id = p_user_id for update skip locked;
  end if;
  if known.user_id is null then
    insert into public.video_job_stale_users (user_id) values (p_user_id);
    return;
  end if;
  select * into limits from public.video_job_limits;
  select * into used from public.video_job_usage_v1(p_user_id);
  if used.failures >= limits.max_failed_preparations_per_user_per_hour then
    reason := 'preparations'; until := used.failures_until;
  elsif used.submissions >= limits.max_submissions_per_user_per_day then
    -- Without an instant while claims count: their end is noticed.
    reason := 'submissions';
    until := case when used.submissions - used.preparing >= limits.max_submissions_per_user_per_day then used.submissions_until end;
  elsif used.in_flight >= limits.max_in_flight_per_user then
    reason := 'in_flight';
  end if;
  free := case when reason is null then least(
    limits.max_in_flight_per_user - used.in_flight, limits.max_submissions_per_user_per_day - used.submissions) else 0 end;
  select j.priority, j.turn, j.created_at, j.id into head from public.video_jobs j
    where j.user_id = p_user_id and j.status = 'queued' and not j.delayed
    order by j.priority desc, j.turn, j.created_at, j.id limit 1;
  behind := case
    when head.id is null then 0
    -- The turns that it could not use are not saved up: it would go before everybody until they are used.
    when known.held in ('preparations', 'submissions') and coalesce(reason, 'in_flight') = 'in_flight' then
      greatest(known.shift, 1 - head.turn + coalesce((select t.turn from public.video_job_turns t where t.priority = head.priority), 0))
    else known.shift end;
  head.turn := head.turn + behind;
  update public.video_job_users u
    set preparing = used.preparing, in_flight = used.in_flight, head_priority = head.priority, head_turn = head.turn,
        shift = behind,
        head_created_at = head.created_at, head_id = head.id, room = free, held = reason, held_until = until,
        limits_version = limits.version, refreshed_at = clock_timestamp(),
        -- Another row is among the first now.
        told = case when reason is not null and head.id is distinct from known.head_id then '' else u.told end
    where u.user_id = p_user_id
      and (known.preparing, known.in_flight, known.head_priority, known.head_turn, known.head_created_at, known.head_id,
           known.room, known.held, known.held_until, known.limits_version, known.shift)
          is distinct from (used.preparing, used.in_flight, head.priority, head.turn, head.created_at, head.id, free, reason,
                            until, limits.version, behind);
end $$;

-- Counts users anew, each once.
create or replace function public.video_job_recount_users_v1(p_user_ids uuid[]) returns void
language plpgsql security definer set search_path = '' as $$
begin
  perform public.video_job_recount_user_v1(p.id)
    from (select distinct u.id from unnest(p_user_ids) u (id) where u.id is not null order by u.id) p;
end $$;

-- Locks a user's row for a claim, and returns how many rows may be claimed: none while somebody else holds it, for then
-- its counts may be about to change. One that was left uncounted, or counted by other limits, is counted first.
create or replace function public.video_job_hold_user_v1(p_user_id uuid) returns integer
language plpgsql set search_path = '' as $$
declare
  known public.video_job_users;
begin
  select * into known from public.video_job_users u where u.user_id = p_user_id for update skip locked;
  if not found then
    return 0;
  end if;
  if known.limits_version <> (select l.version from public.video_job_limits l)
     or exists (select from public.video_job_stale_users s where s.user_id = p_user_id) then
    perform public.video_job_recount_user_v1(p_user_id);
    select * into known from public.video_job_users u where u.user_id = p_user_id;
  end if;
  return case when known.held is null then known.room else 0 end;
end $$;

-- A new row may be the first of its user; of a user who is held it has still to be told why.
create or replace function public.video_job_queued_v1(p_row public.video_jobs) returns void
language sql security definer set search_path = '' as $$
  update public.video_job_users u
    set (head_priority, head_turn, head_created_at, head_id) = (
          select f.priority, f.turn, f.created_at, f.id from (values
            (u.head_priority, u.head_turn, u.head_created_at, u.head_id),
            (p_row.priority, p_row.turn + u.shift, p_row.created_at, p_row.id)) f (priority, turn, created_at, id)
          where f.id is not null order by f.priority desc, f.turn, f.created_at, f.id limit 1),
        told = case when u.held is null then u.told else '' end
    where u.user_id = p_row.user_id and p_row.status = 'queued'
      and (u.held is not null or u.head_id is null
           or (-u.head_priority, u.head_turn, u.head_created_at, u.head_id)
              > (-p_row.priority, p_row.turn + u.shift, p_row.created_at, p_row.id))
$$;

-- Runs that are open, and those of them that wait at this endpoint. An unknown submission does not count.
create or replace function public.video_job_room_v1(p_endpoint_id text, out open_runs bigint, out queued_runs bigint)
language sql stable set search_path = '' as $$
  select count(*), count(*) filter (where a.state <> 'running' and a.endpoint_id = p_endpoint_id)
  from public.video_job_attempts a where a.state in ('submitting', 'queued', 'running')
$$;

-- Ends the waits that are over: of rows, of users whose limit has passed, and of users that could not be counted.
create or replace function public.video_job_end_waits_v1() returns void
language plpgsql set search_path = '' as $$
declare
  users uuid[];
begin
  with due as (
    select j.id from public.video_jobs j where j.status = 'queued' and j.delayed and j.available_at <= now()
    order by j.available_at limit 200 for update skip locked
  ), woken as (
    -- The trigger works out `delayed`.
    update public.video_jobs j set available_at = j.available_at from due where j.id = due.id returning j.user_id
  ), stale as (
    delete from public.video_job_stale_users s where s.id in (
      select x.id from public.video_job_stale_users x order by x.id limit 200 for update skip locked) returning s.user_id
  ), passed as (
    select u.user_id from public.video_job_users u where u.held_until <= now() order by u.held_until limit 200
      for update skip locked
  )
  select array_agg(x.user_id) into users from (
    select w.user_id from woken w union select s.user_id from stale s union select p.user_id from passed p) x;
  perform public.video_job_recount_users_v1(users);
end $$;

-- The rows that may be claimed now, in the order in which they are, at most p_want: of each user that may be served as
-- many as its limit allows. While others wait, a user has one row at a time in preparation (one_each).
create or replace function public.video_job_line_v1(p_want integer, p_one_each boolean)
returns table (id uuid, user_id uuid, suspect boolean, place bigint)
language sql stable set search_path = '' as $$
  with ready as (
    select u.user_id, u.preparing, u.shift, case when u.limits_version = l.version then u.room else p_want end as room,
           row_number() over (order by u.head_priority desc, u.head_turn, u.head_created_at, u.head_id) as nth
    from public.video_job_users u cross join public.video_job_limits l where u.held is null and u.head_id is not null
    order by u.head_priority desc, u.head_turn, u.head_created_at, u.head_id limit p_want
  ), waiting as (
    select r.id, u.user_id, r.suspect, r.priority, r.turn + u.shift as turn, r.created_at,
           p_one_each and u.preparing + row_number() over (
             partition by u.user_id order by r.priority desc, r.turn, r.created_at, r.id) > 1 as later
    from ready u cross join lateral (
      select j.id, j.crashes > 0 as suspect, j.priority, j.turn, j.created_at from public.video_jobs j
      where j.user_id = u.user_id and j.status = 'queued' and not j.delayed
      order by j.priority desc, j.turn, j.created_at, j.id
      limit case when p_one_each
        then least(p_want, u.room)
        -- a row has at least its user's heads before it
        else p_want - u.nth + 1 end) r
    union all (
      select j.id, null, j.crashes > 0, j.priority, j.turn, j.created_at, false from public.video_jobs j
      where j.status = 'queued' and not j.delayed and j.user_id is null
      order by j.priority desc, j.turn, j.created_at, j.id limit p_want)
  )
  select w.id, w.user_id, w.suspect, row_number() over (order by w.priority desc, w.later, w.turn, w.created_at, w.id)
  from waiting w order by 4 limit p_want
$$;

-- Takes rows for a while: as many as there is room for, in the order of the line. Preparation has places of its own
-- (p_max_preparing). A new row also reserves a place at RunPod for itself, but only for 1 s (RESERVED_SECONDS in
-- worker/dispatch/dispatcher.py): what takes longer, or comes back from a host that did not deliver, holds up nobody.
-- p_holding: the rows this owner works on. Others in its name were claimed with an answer that never arrived:
-- they are handed out again, under the same attempt. Null: the owner does not say.
create or replace function public.claim_video_jobs_v1(
  p_owner uuid, p_want integer, p_lease_seconds double precision, p_endpoint_id text, p_max_in_flight integer,
  p_max_queued_runs integer, p_max_preparing integer, p_holding uuid[] default null)
returns setof jsonb
language plpgsql set search_path = '' as $$
declare
  again uuid[] := '{}';
  in_preparation integer;
  soon integer;
  mine integer;
  alone boolean;
  slots integer;
  candidate record;
  picked uuid[] := '{}';
  users uuid[] := '{}';
  rooms jsonb := '{}';
  lost uuid[];
  counted uuid[] := '{}';
  reach integer;
begin
  perform set_config('video_jobs.writer', 'worker', true), set_config('video_jobs.recount', 'later', true);
  if p_holding is not null then
    with unanswered as (
      select q.id from public.video_jobs q
      where q.status = 'preparing' and q.lease_owner = p_owner and q.lease_expires_at >= now() and q.id <> all (p_holding)
        and not public.video_job_has_open_submission_v1(q.id)
      order by q.id limit p_want for update skip locked
    ), renewed as (
      update public.video_jobs j set lease_expires_at = now() + make_interval(secs => p_lease_seconds)
        from unanswered u where j.id = u.id returning j.id
    )
    select coalesce(array_agg(r.id), '{}') into again from renewed r;
    return query select public.video_job_case_v1(c.id) || jsonb_build_object('job_id', c.id) from unnest(again) c (id);
    p_want := p_want - cardinality(again);
  end if;
  -- The limits are counts over many rows: two claims at once could each see the last free slot.
  perform pg_advisory_xact_lock(hashtextextended('video_jobs.claim', 0));
  perform public.video_job_end_waits_v1();
  if p_want <= 0 or not (
      exists (select from public.video_job_users u where u.held is null and u.head_id is not null)
      or exists (select from public.video_jobs j where j.status = 'queued' and not j.delayed and j.user_id is null)) then
    return;
  end if;

  select count(*) filter (where not p.sending), count(*) filter (where not p.sending and p.input_tries = 0 and p.claimed_at > now() - interval '1 second'),
         count(*) filter (where p.lease_owner = p_owner),
         coalesce(bool_or(p.claimed_alone) filter (where p.lease_owner = p_owner), false)
    into in_preparation, soon, mine, alone
    from (select j.*, public.video_job_has_open_submission_v1(j.id) as sending from public.video_jobs j
          where j.status = 'preparing' and j.lease_expires_at >= now()) p;
  if alone then
    return;
  end if;
  select least(p_want, p_max_preparing - in_preparation, p_max_in_flight - soon - r.open_runs, p_max_queued_runs - soon - r.queued_runs)
    into slots from public.video_job_room_v1(p_endpoint_id) r;
  if slots <= 0 then
    return;
  end if;

  reach := slots + in_preparation + 24;
  -- A user whose first row is none any more (it was removed with triggers off) would stand in the way of the others.
  while cardinality(counted) < 500 loop
    lost := array(
      select u.user_id from (
        select x.user_id, x.head_id from public.video_job_users x where x.held is null and x.head_id is not null
        order by x.head_priority desc, x.head_turn, x.head_created_at, x.head_id limit reach) u
      where u.user_id <> all (counted) and not exists (
        select from public.video_jobs j
        where j.id = u.head_id and j.user_id = u.user_id and j.status = 'queued' and not j.delayed));
    exit when lost = '{}';
    perform public.video_job_recount_users_v1(lost);
    counted := counted || lost;
  end loop;

  -- Locked one by one in that order: a row that somebody holds, or that still has a run, must not take a place, nor may
  -- all that are looked at: then more are.
  <<looking>>
  loop
    for candidate in select * from public.video_job_line_v1(reach, true) l order by l.place loop
      -- A row whose last claim crashed is claimed alone, so that one hostile file takes no neighbours down.
      continue when picked <> '{}' and candidate.suspect;
      if candidate.user_id is not null and not rooms ? candidate.user_id::text then
        rooms := rooms || jsonb_build_object(candidate.user_id, public.video_job_hold_user_v1(candidate.user_id));
      end if;
      continue when (rooms ->> candidate.user_id::text)::integer <= 0;
      perform from public.video_jobs j
        where j.id = candidate.id and j.user_id is not distinct from candidate.user_id and j.status = 'queued' and not j.delayed
          and not public.video_job_has_open_submission_v1(j.id)
        for update skip locked;
      continue when not found;
      exit looking when candidate.suspect and mine > 0;
      picked := picked || candidate.id;
      if candidate.user_id is not null then
        users := users || candidate.user_id;
        rooms := rooms || jsonb_build_object(candidate.user_id, (rooms ->> candidate.user_id::text)::integer - 1);
      end if;
      exit looking when candidate.suspect or cardinality(picked) >= slots;
    end loop;
    exit when picked <> '{}' or reach > 1000;
    reach := reach * 8;
  end loop;

  update public.video_jobs j
    set status = 'preparing', phase = 'checking_media', phase_detail = null, attempt = j.attempt + 1, claimed_at = now(),
        lease_owner = p_owner, lease_expires_at = now() + make_interval(secs => p_lease_seconds),
        claimed_alone = j.crashes > 0
    where j.id = any (picked);
  insert into public.video_job_turns as t (priority, turn)
    select j.priority, max(j.turn + coalesce(u.shift, 0)) - 1
    from public.video_jobs j left join public.video_job_users u on u.user_id = j.user_id
    where j.id = any (picked) group by j.priority
    on conflict (priority) do update set turn = greatest(t.turn, excluded.turn);
  perform public.video_job_recount_users_v1(users);
  return query select public.video_job_case_v1(c.id) || jsonb_build_object('job_id', c.id) from unnest(picked) c (id);
end $$;

-- The first places of the line, and what the first five rows of a user say of the limit that holds them: for people.
-- Only what changed is written. p_sentences: {"in_line": …, and for each limit a sentence}.
create or replace function public.refresh_video_job_queue_v1(p_places integer, p_sentences jsonb) returns integer
language plpgsql set search_path = '' as $$
declare
  changed integer;
  sentences integer;
  person record;
begin
  perform set_config('video_jobs.writer', 'worker', true), set_config('video_jobs.recount', 'later', true);
  with line as (
    select l.id, l.place::integer as place from public.video_job_line_v1(p_places, false) l
  ), wanted as (
    select l.id, l.place from line l
    union all
    select j.id, null from public.video_jobs j
    where j.status = 'queued' and j.queue_position is not null and j.id not in (select l.id from line l)
  )
  update public.video_jobs j set queue_position = moved.place
    from (select q.id, w.place from wanted w join public.video_jobs q on q.id = w.id
          where q.status = 'queued' and q.queue_position is distinct from w.place for update of q skip locked) moved
    where j.id = moved.id;
  get diagnostics changed = row_count;
  for person in
    select u.user_id, p_sentences ->> coalesce(u.held, 'in_line') as sentence from public.video_job_users u
    where u.held is distinct from u.told limit 50 for update skip locked
  loop
    update public.video_jobs j set phase_detail = person.sentence
      where j.id = any (array(
        select q.id from public.video_jobs q where q.user_id = person.user_id and q.status = 'queued' and not q.delayed
        order by q.priority desc, q.turn, q.created_at, q.id limit 5 for update skip locked))
        and j.phase_detail is distinct from person.sentence;
    get diagnostics sentences = row_count;
    changed := changed + sentences;
    update public.video_job_users u set told = u.held where u.user_id = person.user_id;
  end loop;
  return changed;
end $$;

-- The users whose first waiting row is not the one that is stored, among p_want of those who wait, from somewhere on.
create or replace function public.video_job_misplaced_users_v1(p_want integer) returns setof uuid
language plpgsql set search_path = '' as $$
declare
  beginning uuid;
begin
  foreach beginning in array array[gen_random_uuid(), '00000000-0000-0000-0000-000000000000'] loop
    return query
    -- From user to user through the index: one may have a million rows.
    with recursive walk as (
      select (select j.user_id from public.video_jobs j where j.user_id >= beginning and j.status = 'queued' and not j.delayed
              order by j.user_id limit 1) as person, 1 as nth
      union all
      select (select j.user_id from public.video_jobs j where j.user_id > w.person and j.status = 'queued' and not j.delayed
              order by j.user_id limit 1), w.nth + 1
      from walk w where w.person is not null and w.nth < p_want
    )
    select w.person from walk w left join public.video_job_users u on u.user_id = w.person
    where w.person is not null and u.head_id is distinct from (
      select j.id from public.video_jobs j where j.user_id = w.person and j.status = 'queued' and not j.delayed
      order by j.priority desc, j.turn, j.created_at, j.id limit 1);
  end loop;
end $$;

-- Counts users anew whose counts may be old: those with something in work or a limit, the oldest count first, and
-- those whose first row is not what it should be.
create or replace function public.recount_video_job_users_v1(p_want integer) returns integer
language plpgsql set search_path = '' as $$
declare
  users uuid[];
begin
  perform set_config('video_jobs.recount', 'later', true);
  with old as (
    select u.user_id from public.video_job_users u where u.in_flight > 0 or u.held is not null
    order by u.refreshed_at limit p_want for update skip locked
  ), seen as (
    update public.video_job_users u set refreshed_at = now() from old where u.user_id = old.user_id returning u.user_id
  )
  select array_agg(s.user_id) into users from seen s;
  users := users || array(select m from public.video_job_misplaced_users_v1(p_want) m);
  perform public.video_job_recount_users_v1(users);
  return coalesce(cardinality(users), 0);
end $$;

-- Writes the limits that the database holds, when a worker starts; returns those that another worker had written if
-- they differ. Users whose counts do not fit their rows are counted by the next claims.
create or replace function public.set_video_job_limits_v1(p_limits jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  before jsonb;
begin
  select to_jsonb(l) - 'only_row' - 'version' - 'updated_at' into before from public.video_job_limits l for update;
  if p_limits <> before then
    update public.video_job_limits l
      set (max_in_flight_per_user, max_submissions_per_user_per_day, max_failed_preparations_per_user_per_hour,
           max_rows_per_user_per_day, version, updated_at)
        = (select v.max_in_flight_per_user, v.max_submissions_per_user_per_day, v.max_failed_preparations_per_user_per_hour,
                  v.max_rows_per_user_per_day, l.version + 1, now() from jsonb_populate_record(l, p_limits) v);
    insert into public.video_job_stale_users (user_id)
      select u.user_id from public.video_job_users u where u.in_flight > 0 or u.held is not null;
  end if;
  insert into public.video_job_stale_users (user_id)
    select j.user_id from public.video_jobs j where j.status = 'queued' and not j.delayed and j.user_id is not null
      and not exists (select from public.video_job_users u where u.user_id = j.user_id and u.head_id is not null)
    group by j.user_id;
  return case when p_limits <> before then before end;
end $$;

-- The limits as they are, for a worker that compares them with its own.
create or replace function public.get_video_job_limits_v1() returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(l) - 'only_row' - 'version' - 'updated_at' from public.video_job_limits l
$$;

do $$
declare
  f text;
begin
  foreach f in array array['video_job_next_turn_v1(uuid, integer)', 'video_job_check_user_v1(uuid)',
    'video_job_usage_v1(uuid)', 'video_job_recount_user_v1(uuid)', 'video_job_recount_users_v1(uuid[])',
    'video_job_hold_user_v1(uuid)', 'video_job_misplaced_users_v1(integer)', 'video_job_queued_v1(public.video_jobs)', 'video_job_room_v1(text)', 'video_job_end_waits_v1()',
    'video_job_line_v1(integer, boolean)',
    'claim_video_jobs_v1(uuid, integer, double precision, text, integer, integer, integer, uuid[])',
    'refresh_video_job_queue_v1(integer, jsonb)', 'recount_video_job_users_v1(integer)',
    'set_video_job_limits_v1(jsonb)', 'get_video_job_limits_v1()']
  loop
    execute format('revoke execute on function public.%s from public, anon, authenticated', f);
    execute format('grant execute on function public.%s to service_role', f);
  end loop;
end $$;

insert into public.video_job_migrations (name) values ('0007_line') on conflict do nothing;
commit;
