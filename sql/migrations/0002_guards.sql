-- The guards: which moves a row may make, for every writer, and the timeline that records them.
-- Worker functions (0003) announce themselves by a transaction-local setting; all other writers
-- (dashboard, SQL, service key, browser) may insert, correct inputs, cancel, retry and delete.

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

-- Open: it may still cost money. Called by the guards and the worker functions.
create or replace function public.video_job_has_open_submission_v1(p_job_id uuid) returns boolean
language sql stable security definer set search_path = '' as $$
  select exists (select 1 from public.video_job_attempts a
                 where a.job_id = p_job_id and a.state in ('submitting', 'unknown', 'queued', 'running'))
$$;
revoke execute on function public.video_job_has_open_submission_v1(uuid) from public, anon, authenticated;
grant execute on function public.video_job_has_open_submission_v1(uuid) to service_role;

-- The beginning of a text, short enough for its column whatever its alphabet (4 bytes at most for a character).
create or replace function public.video_job_text_v1(p_text text, p_characters integer, p_bytes integer) returns text
language sql immutable set search_path = '' as $$
  select case when octet_length(left(p_text, p_characters)) <= p_bytes then left(p_text, p_characters)
              else left(p_text, p_bytes / 4) end
$$;
revoke execute on function public.video_job_text_v1(text, integer, integer) from public, anon, authenticated;

-- The defaults of columns that no group names: somebody added them by hand. Normally there are none.
create or replace function public.video_job_foreign_defaults_v1() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  ours constant text[] := array(
    select c from unnest(array['input', 'owner', 'people', 'plan', 'progress', 'history', 'record']) g
    cross join unnest(public.video_job_columns_v1(g)) c);
  expressions text := (
    select string_agg(format('%L, %s', a.attname, pg_catalog.pg_get_expr(d.adbin, d.adrelid)), ', ')
    from pg_catalog.pg_attribute a join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = 'public.video_jobs'::regclass and a.attgenerated = '' and not a.attisdropped
      and a.attname <> all (ours));
  defaults jsonb := '{}';
begin
  if expressions is not null then
    execute 'select jsonb_build_object(' || expressions || ')' into defaults;
  end if;
  return defaults;
end $$;
revoke execute on function public.video_job_foreign_defaults_v1() from public, anon, authenticated;

-- A row at the start of a try: what it keeps, and first values for everything else (null unless named here).
create or replace function public.video_job_fresh_v1(p_row public.video_jobs, p_keep text[]) returns public.video_jobs
language sql stable set search_path = '' as $$
  select r.* from jsonb_populate_record(null::public.video_jobs,
    public.video_job_foreign_defaults_v1() || jsonb_build_object('status', 'queued', 'phase', 'in_line', 'progress', 0, 'warnings', '[]'::jsonb, 'attempt', 0,
      'try_number', 1, 'crashes', 0, 'crashes_alone', 0, 'claimed_alone', false, 'input_tries', 0, 'input_seconds', 0, 'revision', 0,
      'phase_detail', 'Waiting in line.', 'turn', 0, 'delayed', false, 'inserted_by', 'service', 'cancel_requested', false, 'available_at', now(), 'created_at', now(), 'updated_at', now())
    || public.video_job_pick_v1(to_jsonb(p_row), p_keep)) r
$$;
revoke execute on function public.video_job_fresh_v1(public.video_jobs, text[]) from public, anon, authenticated;

create or replace function public.video_jobs_before_insert() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  cancelled constant boolean := new.cancel_requested;
begin
  if new.status <> 'queued' then
    raise exception 'A new job starts as queued, not as %. Leave status out.', new.status;
  end if;
  if auth.role() = 'authenticated' then
    perform public.video_job_check_user_v1(auth.uid());
  end if;
  -- Otherwise an old run's result could land in a new job.
  if exists (select 1 from public.video_job_attempts a where a.job_id = new.id) then
    raise exception 'The id % belonged to an earlier job. Use a new id.', new.id;
  end if;
  new := public.video_job_fresh_v1(new, array['id'] || public.video_job_columns_v1('input')
    || public.video_job_columns_v1('owner') || public.video_job_columns_v1('people'));
  new.inserted_by := case auth.role() when 'authenticated' then 'user' else 'service' end;
  if cancelled then
    new.status := 'cancelled'; new.phase := 'done'; new.phase_detail := null; new.completed_at := now();
  else
    new.turn := public.video_job_next_turn_v1(new.user_id, new.priority);
  end if;
  return new;
end $$;

-- The columns whose values differ, but for what every update sets.
create or replace function public.video_job_changed_v1(p_old public.video_jobs, p_new public.video_jobs) returns text[]
language sql stable set search_path = '' as $$
  select coalesce(array_agg(n.key order by n.key), '{}')
  from jsonb_each(to_jsonb(p_new)) n join jsonb_each(to_jsonb(p_old)) o on o.key = n.key
  where n.value <> o.value and n.key not in ('updated_at', 'revision')
    -- A generated column is computed after a BEFORE trigger, and differs until then.
    and not exists (select 1 from pg_catalog.pg_attribute a
                    where a.attrelid = 'public.video_jobs'::regclass and a.attname = n.key and a.attgenerated <> '')
$$;
revoke execute on function public.video_job_changed_v1(public.video_jobs, public.video_jobs) from public, anon, authenticated;

-- What people may change, as an allow-list: whatever else differs is refused by its name.
create or replace function public.video_job_check_people_v1(p_old public.video_jobs, p_new public.video_jobs) returns void
language plpgsql set search_path = '' as $$
declare
  correctable constant boolean := p_old.status in ('failed', 'cancelled') or (p_old.status = 'queued' and p_old.attempt = 0);
  inputs constant text[] := public.video_job_columns_v1('input') || public.video_job_columns_v1('owner');
  changed constant text[] := public.video_job_changed_v1(p_old, p_new);
  closed constant text[] := array(
    select c from unnest(changed) c
    where c <> all (inputs || array['status'] || public.video_job_columns_v1('people')));
begin
  if changed && inputs and not correctable then
    raise exception 'The inputs of a job are fixed once the worker has taken it (status %). '
      'Cancel it first, or insert a new row.', p_old.status;
  end if;
  if closed <> '{}' then
    raise exception 'These columns are written by the worker alone: %. People may change the inputs before the '
      'worker has taken the job, cancel_requested, priority and metadata, and set status to queued (retry).',
      array_to_string(closed, ', ');
  end if;
  if p_new.status <> p_old.status
     and not (p_new.status = 'cancelled' and p_old.status not in ('completed', 'failed'))
     and not (p_new.status = 'queued' and p_old.status in ('failed', 'cancelled')) then
    raise exception 'A job that is % cannot be set to % by hand. Set cancel_requested to stop it; '
      'a failed or cancelled one may be set to queued to try again.', p_old.status, p_new.status;
  end if;
end $$;
revoke execute on function public.video_job_check_people_v1(public.video_jobs, public.video_jobs)
  from public, anon, authenticated;

create or replace function public.video_jobs_before_update() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  by_worker constant boolean := coalesce(current_setting('video_jobs.writer', true), '') = 'worker';
  ended constant boolean := old.status in ('completed', 'failed', 'cancelled');
begin
  if new.id <> old.id or new.created_at <> old.created_at then
    raise exception 'id and created_at of a job never change.';
  end if;
  if not by_worker then
    perform public.video_job_check_people_v1(old, new);
    -- In the dashboard, setting the status is what "cancel" looks like.
    if new.status = 'cancelled' and not ended then
      new.cancel_requested := true;
      new.status := old.status;
    end if;
  end if;
  new.revision := old.revision + 1;
  new.updated_at := now();

  if ended and new.status <> old.status then
    if not (new.status = 'queued' and old.status in ('failed', 'cancelled')) then
      raise exception 'A job that is % stays so; only a failed or cancelled one can be tried again.', old.status;
    end if;
    if public.video_job_has_open_submission_v1(old.id) then
      raise exception 'A run of this job may still be live at RunPod. Try again when it has ended.';
    end if;
    if auth.role() = 'authenticated' then
      perform public.video_job_check_user_v1(auth.uid());
    end if;
    new := public.video_job_fresh_v1(new, array['metadata', 'priority']
      || public.video_job_columns_v1('record') || public.video_job_columns_v1('input')
      || public.video_job_columns_v1('owner') || public.video_job_columns_v1('history'));
    new.try_number := old.try_number + 1;
    new.turn := public.video_job_next_turn_v1(new.user_id, new.priority);
    new.delayed := false;
    return new;
  end if;

  if new.cancel_requested <> old.cancel_requested then
    if ended then
      new.cancel_requested := old.cancel_requested;  -- too late, and no harm: the result stands
    elsif not new.cancel_requested then
      raise exception 'A cancel cannot be undone. Wait until the job is cancelled, then try it again.';
    -- The one ending that is not decided in worker/jobs/lifecycle.py, which has the same rule: nobody works on it.
    -- A run of an earlier try is stopped by itself; nobody waits for it.
    elsif old.lease_owner is null and not exists (
        select 1 from public.video_job_attempts a where a.job_id = old.id and a.try_number = old.try_number
          and a.state in ('submitting', 'unknown', 'queued', 'running')) then
      new.status := 'cancelled'; new.phase := 'done'; new.phase_detail := null; new.completed_at := now();
    else
      new.phase := 'cancelling'; new.phase_detail := null;
    end if;
  end if;

  if new.status <> old.status and (old.status, new.status) not in (
      ('queued', 'preparing'), ('queued', 'cancelled'), ('queued', 'failed'),
      -- a late webhook may bring the run, or the video, of a submission that was thought lost
      ('queued', 'submitted'), ('queued', 'running'), ('queued', 'completed'),
      ('preparing', 'queued'), ('preparing', 'submitted'), ('preparing', 'running'), ('preparing', 'completed'),
      ('preparing', 'failed'), ('preparing', 'cancelled'),
      ('submitted', 'running'), ('submitted', 'completed'), ('submitted', 'failed'), ('submitted', 'cancelled'),
      ('submitted', 'queued'),
      ('running', 'completed'), ('running', 'failed'), ('running', 'cancelled'), ('running', 'queued')) then
    raise exception 'A job cannot go from % to %.', old.status, new.status;
  end if;
  -- Within a try, people never see progress fall: neither by a late message nor by a second submission.
  new.progress := greatest(new.progress, old.progress);
  if new.status <> 'queued' then
    new.queue_position := null;
  end if;
  if new.status in ('completed', 'failed', 'cancelled') then
    new.phase_detail := null; new.eta_at := null; new.ending_code := null; new.ending_message := null;
  end if;
  -- A result must never be refused because of a text that came with it.
  new.phase_detail := public.video_job_text_v1(new.phase_detail, 300, 600);
  new.error_message := public.video_job_text_v1(new.error_message, 1000, 1500);
  new.ending_message := public.video_job_text_v1(new.ending_message, 1000, 1500);
  new.delayed := new.status = 'queued' and new.available_at > now();
  -- An update that changes nothing writes nothing: neither a version of the row nor an event.
  if not by_worker and public.video_job_changed_v1(old, new) = '{}' then
    return null;
  end if;
  return new;
end $$;

create or replace function public.video_jobs_after_change() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  what text;
  detail jsonb := '{}';
begin
  if tg_op = 'DELETE' then
    insert into public.video_job_events (job_id, user_id, try_number, attempt, event, status, phase)
    values (old.id, old.user_id, old.try_number, old.attempt, 'deleted', old.status, old.phase);
  elsif tg_op = 'INSERT' then
    insert into public.video_job_events (job_id, user_id, try_number, attempt, event, status, phase)
    values (new.id, new.user_id, new.try_number, new.attempt, 'inserted', new.status, new.phase);
    perform public.video_job_queued_v1(new);
    return null;
  else
    what := case
      when new.try_number <> old.try_number then 'retried'
      when new.attempt <> old.attempt then 'claimed'
      when new.crashes > old.crashes then 'lease_expired'
      when old.status = 'preparing' and (new.status = 'failed' or new.input_tries > old.input_tries) then 'preparation_failed'
      when new.status = 'queued' and old.status <> 'queued' then 'released'
      when new.status <> old.status then new.status
      when new.cancel_requested and not old.cancel_requested then 'cancel_requested'
      when new.phase <> old.phase then new.phase
      when public.video_job_pick_v1(to_jsonb(new), public.video_job_columns_v1('input'))
           <> public.video_job_pick_v1(to_jsonb(old), public.video_job_columns_v1('input')) then 'inputs_changed' end;
    if what is null then
      return null;
    end if;
    detail := jsonb_strip_nulls(jsonb_build_object('detail', new.phase_detail, 'error_code', new.error_code,
      'error_message', new.error_message, 'runpod_job_id', new.runpod_job_id));
    insert into public.video_job_events (job_id, user_id, try_number, attempt, event, status, phase, detail)
    values (new.id, new.user_id, new.try_number, new.attempt, what, new.status, new.phase, nullif(detail, '{}'));
    if what = 'retried' then
      perform public.video_job_queued_v1(new);
    end if;
    if not (new.cancel_requested and not old.cancel_requested) then
      return null;
    end if;
  end if;
  -- A deleted or cancelled job's runs are looked at by the next sweep, not by their next poll.
  update public.video_job_attempts a set next_poll_at = now()
  where a.job_id = old.id and a.state in ('unknown', 'queued', 'running');
  return null;
end $$;

-- Counts the users of the rows that a statement has changed: each once, however many rows it was.
create or replace function public.video_jobs_count_users() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  users uuid[];
begin
  if tg_op = 'DELETE' then
    users := array(select o.user_id from before o);
  -- The worker's functions count the users of all their rows at their end.
  elsif coalesce(current_setting('video_jobs.recount', true), '') <> 'later' then
    users := array(
      select u.user_id from before o join after n on n.id = o.id cross join unnest(array[o.user_id, n.user_id]) u (user_id)
      where (n.status, n.delayed, n.priority, n.turn, n.user_id, n.lease_expires_at is null)
        is distinct from (o.status, o.delayed, o.priority, o.turn, o.user_id, o.lease_expires_at is null));
  end if;
  perform public.video_job_recount_users_v1(users);
  return null;
end $$;

-- Nobody waits in an emptied table, and nothing of it is in work.
create or replace function public.video_jobs_after_truncate() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform public.video_job_recount_users_v1(array(
    select u.user_id from public.video_job_users u where u.head_id is not null or u.in_flight > 0 or u.held is not null));
  return null;
end $$;

create or replace function public.video_job_attempts_after_change() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'DELETE' then
    -- What is pruned counts for nothing any more.
    if old.state in ('submitting', 'unknown', 'queued', 'running') or old.created_at > now() - interval '24 hours' then
      perform public.video_job_recount_users_v1(array[old.user_id]);
    end if;
    return null;
  end if;
  if coalesce(current_setting('video_jobs.recount', true), '') <> 'later' and (
      tg_op = 'INSERT' or (new.state, new.user_id, new.created_at) is distinct from (old.state, old.user_id, old.created_at)) then
    perform public.video_job_recount_users_v1(array[case when tg_op = 'UPDATE' then old.user_id end, new.user_id]);
  end if;
  if tg_op = 'INSERT' or new.state <> old.state then
    insert into public.video_job_events (job_id, user_id, try_number, attempt, event, detail)
    values (new.job_id, new.user_id, new.try_number, new.attempt, 'submission_' || new.state,
      nullif(jsonb_strip_nulls(jsonb_build_object('runpod_job_id', new.runpod_job_id, 'error_code', new.error_code,
        'raw_error', new.raw_error, 'execution_ms', new.execution_ms)), '{}'));
  end if;
  return null;
end $$;

create or replace trigger video_jobs_before_insert before insert on public.video_jobs
  for each row execute function public.video_jobs_before_insert();
create or replace trigger video_jobs_before_update before update on public.video_jobs
  for each row execute function public.video_jobs_before_update();
create or replace trigger video_jobs_after_change after insert or update or delete on public.video_jobs
  for each row execute function public.video_jobs_after_change();
create or replace trigger video_jobs_count_users_of_updated after update on public.video_jobs
  referencing old table as before new table as after
  for each statement execute function public.video_jobs_count_users();
create or replace trigger video_jobs_count_users_of_deleted after delete on public.video_jobs
  referencing old table as before
  for each statement execute function public.video_jobs_count_users();
create or replace trigger video_jobs_after_truncate after truncate on public.video_jobs
  for each statement execute function public.video_jobs_after_truncate();
create or replace trigger video_job_attempts_after_truncate after truncate on public.video_job_attempts
  for each statement execute function public.video_jobs_after_truncate();
create or replace trigger video_job_attempts_after_change after insert or update or delete on public.video_job_attempts
  for each row execute function public.video_job_attempts_after_change();

revoke execute on function public.video_jobs_before_insert(), public.video_jobs_before_update(),
  public.video_jobs_after_change(), public.video_jobs_count_users(), public.video_jobs_after_truncate(),
  public.video_job_attempts_after_change() from public, anon, authenticated;

-- For people: try a failed or cancelled job again. The row's owner may, a service key, and an operator in SQL
-- (who has no token at all; every caller through the API has one).
create or replace function public.retry_video_job_v1(id uuid) returns setof public.video_jobs
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  job public.video_jobs;
begin
  select j.* into job from public.video_jobs j where j.id = retry_video_job_v1.id for update;
  if job.id is null
     or not coalesce(auth.jwt() is null or auth.role() = 'service_role' or job.user_id = auth.uid(), false) then
    raise exception 'There is no such job, or it is not yours.';
  end if;
  if job.status not in ('failed', 'cancelled') then
    raise exception 'Only a failed or cancelled job can be tried again; this one is %.', job.status;
  end if;
  return query update public.video_jobs j set status = 'queued' where j.id = job.id returning j.*;
end $$;
revoke execute on function public.retry_video_job_v1(uuid) from public, anon;
grant execute on function public.retry_video_job_v1(uuid) to authenticated, service_role;

insert into public.video_job_migrations (name) values ('0002_guards') on conflict do nothing;
commit;
