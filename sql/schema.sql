-- What the migrations add up to, for reading; written by `make schema`.

CREATE FUNCTION public.begin_video_job_submission_v1(p_job_id uuid, p_attempt integer, p_owner uuid, p_lease_seconds double precision, p_max_submissions integer, p_endpoint_id text, p_max_in_flight integer, p_max_queued_runs integer, p_ttl_seconds double precision, p_template_hash text, p_plan jsonb, p_columns jsonb, p_input_objects text[]) RETURNS SETOF jsonb
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.claim_video_jobs_v1(p_owner uuid, p_want integer, p_lease_seconds double precision, p_endpoint_id text, p_max_in_flight integer, p_max_queued_runs integer, p_max_preparing integer, p_holding uuid[] DEFAULT NULL::uuid[]) RETURNS SETOF jsonb
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.count_video_jobs_v1() RETURNS TABLE(status text, jobs bigint, oldest_seconds double precision)
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select 'queued', count(*), extract(epoch from now() - min(q.created_at))::double precision
    from (select j.created_at from public.video_jobs j where j.status = 'queued' order by j.created_at limit 10000) q
    having count(*) > 0
  union all
  select j.status, count(*), extract(epoch from now() - min(j.created_at))::double precision
    from public.video_jobs j where j.status = 'preparing' group by j.status
  union all
  select j.status, count(*), extract(epoch from now() - min(j.created_at))::double precision
    from public.video_jobs j where j.status in ('submitted', 'running') group by j.status
$$;

CREATE FUNCTION public.get_video_job_case_v1(p_job_id uuid) RETURNS SETOF jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select c from public.video_job_case_v1(p_job_id) c
  where c ->> 'job' is not null or jsonb_array_length(c -> 'submissions') > 0
$$;

CREATE FUNCTION public.get_video_job_limits_v1() RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select to_jsonb(l) - 'only_row' - 'version' - 'updated_at' from public.video_job_limits l
$$;

CREATE FUNCTION public.inspect_video_jobs_v1() RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  with roles as (
    select r.oid, r.rolname::text as name from pg_catalog.pg_roles r
    where r.rolname in ('anon', 'authenticated', 'service_role')
    union all select 0::oid, 'PUBLIC'
  ), ours as (
    select c.oid, c.relname::text as name, c.relrowsecurity, c.relreplident, c.relacl, c.relowner, c.relkind
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::pg_catalog.regnamespace and c.relkind in ('r', 'p')
      and c.relname in ('video_jobs', 'video_job_attempts', 'video_job_events', 'video_job_migrations',
        'video_job_users', 'video_job_stale_users', 'video_job_turns', 'video_job_limits',
        'video_job_buckets')
  ), grants as (
    select o.name, jsonb_object_agg(g.role, g.privileges) as value
    from ours o cross join lateral (
      select r.name as role, jsonb_agg(distinct a.privilege_type) as privileges
      from pg_catalog.aclexplode(coalesce(o.relacl, pg_catalog.acldefault('r', o.relowner))) a
      join roles r on r.oid = a.grantee group by r.name) g
    group by o.name
  ), column_grants as (
    select o.name, jsonb_object_agg(g.role, g.columns) as value
    from ours o cross join lateral (
      select r.name as role, jsonb_agg(lower(x.privilege_type) || ' ' || a.attname order by x.privilege_type, a.attname) as columns
      from pg_catalog.pg_attribute a cross join lateral pg_catalog.aclexplode(a.attacl) x
      join roles r on r.oid = x.grantee
      where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped group by r.name) g
    group by o.name
  ), tables as (
    select o.name, jsonb_build_object(
      'columns', (select jsonb_object_agg(a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod))
                  from pg_catalog.pg_attribute a where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped),
      'not_null', (select coalesce(jsonb_agg(a.attname order by a.attname), '[]') from pg_catalog.pg_attribute a
                   where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped and a.attnotnull),
      'identities', (select coalesce(jsonb_agg(a.attname order by a.attname), '[]') from pg_catalog.pg_attribute a
                     where a.attrelid = o.oid and a.attidentity <> '' and not a.attisdropped),
      'defaults', (select coalesce(jsonb_object_agg(a.attname, pg_catalog.pg_get_expr(d.adbin, d.adrelid)), '{}')
                   from pg_catalog.pg_attrdef d join pg_catalog.pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
                   where d.adrelid = o.oid and not a.attisdropped),
      'indexes', (select coalesce(jsonb_object_agg(i.relname, pg_catalog.pg_get_indexdef(x.indexrelid)), '{}')
                  from pg_catalog.pg_index x join pg_catalog.pg_class i on i.oid = x.indexrelid
                  where x.indrelid = o.oid and x.indisvalid),
      'partitioned', o.relkind = 'p',
      'rls', o.relrowsecurity,
      'replica_identity', case o.relreplident when 'd' then 'default' when 'f' then 'full' when 'n' then 'nothing' else 'index' end,
      'grants', coalesce((select g.value from grants g where g.name = o.name), '{}'),
      'column_grants', coalesce((select g.value from column_grants g where g.name = o.name), '{}'),
      'policies', (select coalesce(jsonb_object_agg(p.policyname,
                     concat_ws(' ', p.cmd, 'to', array_to_string(p.roles, ', '), p.qual, p.with_check)), '{}')
                   from pg_catalog.pg_policies p where p.schemaname = 'public' and p.tablename = o.name),
      'constraints', (select coalesce(jsonb_object_agg(c.conname, pg_catalog.pg_get_constraintdef(c.oid)), '{}')
                      from pg_catalog.pg_constraint c where c.conrelid = o.oid and c.contype in ('c', 'p', 'u', 'f', 'x')),
      'triggers', (select coalesce(jsonb_object_agg(t.tgname, pg_catalog.pg_get_triggerdef(t.oid)), '{}') from pg_catalog.pg_trigger t
                   where t.tgrelid = o.oid and not t.tgisinternal and t.tgenabled in ('O', 'A')),
      'rules', (select coalesce(jsonb_agg(w.rulename order by w.rulename), '[]') from pg_catalog.pg_rewrite w
                where w.ev_class = o.oid)) as value
    from ours o
  ), functions as (
    select p.proname || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')' as name,
      (select coalesce(jsonb_agg(r.name order by r.name), '[]') from roles r
       where r.oid <> 0 and pg_catalog.has_function_privilege(r.oid, p.oid, 'execute')) as value,
      -- The source as it was given (Postgres keeps it), without spaces and line ends, and what it runs as.
      left(encode(sha256(convert_to(concat_ws('|', regexp_replace(p.prosrc, '\s+', '', 'g'), l.lanname, p.prosecdef,
        p.provolatile, p.proisstrict, array_to_string(p.proconfig, ','), array_to_string(p.proargnames, ',')), 'UTF8')), 'hex'), 16) as body
    from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
    where p.pronamespace = 'public'::pg_catalog.regnamespace and p.proname ~ '(^|_)video_jobs?_'
  )
  select jsonb_build_object(
    'role', current_user,
    'server_time', extract(epoch from clock_timestamp()),
    'server_version', current_setting('server_version_num')::integer,
    'tables', (select coalesce(jsonb_object_agg(t.name, t.value), '{}') from tables t),
    'functions', (select coalesce(jsonb_object_agg(f.name, f.value), '{}') from functions f),
    'bodies', (select coalesce(jsonb_object_agg(f.name, f.body), '{}') from functions f),
    'schema_users', (select coalesce(jsonb_agg(r.name order by r.name), '[]') from roles r
                     where r.oid <> 0 and pg_catalog.has_schema_privilege(r.oid, 'public', 'usage')),
    -- All policies for objects of Storage: one that is not ours may open our buckets. Null where Storage is not installed.
    'storage', (select jsonb_build_object('rls', c.relrowsecurity, 'policies', (
                  select coalesce(jsonb_object_agg(p.policyname,
                    concat_ws(' ', p.cmd, 'to', array_to_string(p.roles, ', '), p.qual, p.with_check)), '{}')
                  from pg_catalog.pg_policies p where p.schemaname = 'storage' and p.tablename = 'objects'))
                from pg_catalog.pg_class c where c.oid = to_regclass('storage.objects')),
    'published', exists (select from pg_catalog.pg_publication_tables t
                         where t.pubname = 'supabase_realtime' and t.schemaname = 'public' and t.tablename = 'video_jobs'),
    -- What a column list or a row filter of the publication keeps from browsers.
    'unpublished', (select coalesce(jsonb_agg(a.attname order by a.attname), '[]')
                    from pg_catalog.pg_publication_tables t join pg_catalog.pg_attribute a
                      on a.attrelid = to_regclass('public.video_jobs') and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                    where t.pubname = 'supabase_realtime' and t.schemaname = 'public' and t.tablename = 'video_jobs'
                      and a.attname <> all (t.attnames)),
    'row_filter', (select t.rowfilter from pg_catalog.pg_publication_tables t
                   where t.pubname = 'supabase_realtime' and t.schemaname = 'public' and t.tablename = 'video_jobs'),
    'publishes', (select array_remove(array[case when p.pubinsert then 'insert' end, case when p.pubupdate then 'update' end,
                                            case when p.pubdelete then 'delete' end], null)
                  from pg_catalog.pg_publication p where p.pubname = 'supabase_realtime'),
    'migrations', (select coalesce(jsonb_object_agg(m.name, m.hash), '{}') from public.video_job_migrations m))
$$;

CREATE FUNCTION public.orphaned_video_job_uploads_v1(p_keep_days integer, p_after text, p_examine integer, p_want integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  keep constant interval := make_interval(days => greatest(p_keep_days, 1));
  bucket text;
  most integer;
  beyond text := '';
  paths text[];
  examined bigint;
  last text;
begin
  if to_regclass('storage.objects') is null then
    return '{"paths": []}';
  end if;
  select b.id, b.max_objects_per_user into bucket, most from public.video_job_buckets b
    where b.clean and b.id collate "C" >= split_part(coalesce(p_after, ''), '/', 1) order by b.id collate "C" limit 1;
  if bucket is null then
    return '{"paths": []}';
  end if;
  if bucket = split_part(p_after, '/', 1) then
    beyond := substr(p_after, length(bucket) + 2);
  end if;

  -- Each count stands for itself: as a join, Postgres could read all jobs instead of a few entries of an index.
  with page as materialized (
    select o.name, greatest(o.created_at, o.updated_at) as since from storage.objects o
    where o.bucket_id = bucket and o.name collate "C" > beyond order by o.name collate "C" limit p_examine
  ), orphans as (
    select p.name from page p
    where p.since < now() - interval '1 day'
      and (p.since < now() - keep or (
        select count(*) from (
          select from storage.objects f where f.bucket_id = bucket
            and f.name collate "C" > split_part(p.name, '/', 1) || '/' and f.name collate "C" < split_part(p.name, '/', 1) || '0'
          limit most + 1) folder) > most)
      and (select count(*) from (
          select from public.video_jobs j
          where public.video_job_object_v1(j.image_url) = bucket || '/' || p.name and j.status <> 'completed'
            and (j.status not in ('failed', 'cancelled') or coalesce(j.completed_at, j.updated_at) > now() - keep)
          limit 1) named) = 0
      and (select count(*) from (
          select from public.video_jobs j
          where public.video_job_object_v1(j.audio_url) = bucket || '/' || p.name and j.status <> 'completed'
            and (j.status not in ('failed', 'cancelled') or coalesce(j.completed_at, j.updated_at) > now() - keep)
          limit 1) named) = 0
    order by p.name collate "C" limit p_want
  )
  select (select coalesce(array_agg(o.name order by o.name collate "C"), '{}') from orphans o),
         (select count(*) from page), (select max(p.name collate "C") from page p)
    into paths, examined, last;
  return jsonb_build_object('bucket', bucket, 'paths', paths, 'after', case
    when cardinality(paths) = p_want then bucket || '/' || paths[p_want]
    when examined = p_examine then bucket || '/' || last
    else (select min(b.id collate "C") || '/' from public.video_job_buckets b
          where b.clean and b.id collate "C" > bucket) end);
end $$;

CREATE FUNCTION public.prune_video_job_history_v1(p_keep_days integer) RETURNS TABLE(events bigint, attempts bigint)
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.prune_video_jobs_v1(p_keep_days integer, p_want integer) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
declare
  deleted integer;
begin
  delete from public.video_jobs j where j.id in (
    select x.id from public.video_jobs x
    where x.completed_at < now() - make_interval(days => greatest(p_keep_days, 1))
      and x.status in ('completed', 'failed', 'cancelled') and not public.video_job_has_open_submission_v1(x.id)
    order by x.completed_at limit p_want for update skip locked);
  get diagnostics deleted = row_count;
  return deleted;
end $$;

CREATE FUNCTION public.recount_video_job_users_v1(p_want integer) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.refresh_video_job_queue_v1(p_places integer, p_sentences jsonb) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE TABLE public.video_jobs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id uuid DEFAULT auth.uid(),
    image_url text,
    audio_url text,
    width integer,
    height integer,
    quality text DEFAULT 'hd'::text NOT NULL,
    prompt text,
    negative_prompt text,
    seed integer,
    steps integer,
    idempotency_key text DEFAULT (gen_random_uuid())::text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    cancel_requested boolean DEFAULT false NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    phase text DEFAULT 'in_line'::text NOT NULL,
    phase_detail text,
    progress smallint DEFAULT 0 NOT NULL,
    progress_source text,
    eta_at timestamp with time zone,
    queue_position integer,
    frames integer,
    windows integer,
    sampled_windows integer,
    render_width integer,
    render_height integer,
    audio_duration numeric,
    video_duration numeric,
    seed_used integer,
    warnings jsonb DEFAULT '[]'::jsonb NOT NULL,
    error_code text,
    error_message text,
    video_url text,
    runpod_job_id text,
    estimated_cost_usd numeric,
    cost_usd numeric,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    attempt integer DEFAULT 0 NOT NULL,
    try_number integer DEFAULT 1 NOT NULL,
    available_at timestamp with time zone DEFAULT now() NOT NULL,
    turn bigint DEFAULT 0 NOT NULL,
    delayed boolean DEFAULT false NOT NULL,
    inserted_by text DEFAULT 'service'::text NOT NULL,
    claimed_at timestamp with time zone,
    lease_owner uuid,
    lease_expires_at timestamp with time zone,
    claimed_alone boolean DEFAULT false NOT NULL,
    crashes integer DEFAULT 0 NOT NULL,
    crashes_alone integer DEFAULT 0 NOT NULL,
    input_tries integer DEFAULT 0 NOT NULL,
    input_seconds integer DEFAULT 0 NOT NULL,
    ending_code text,
    ending_message text,
    revision bigint DEFAULT 0 NOT NULL,
    CONSTRAINT audio_url_is_longer_than_2048_characters CHECK ((length(audio_url) <= 2048)),
    CONSTRAINT completed_needs_a_video_url CHECK (((status <> 'completed'::text) OR (video_url IS NOT NULL))),
    CONSTRAINT failed_needs_an_error_code CHECK (((status <> 'failed'::text) OR (error_code IS NOT NULL))),
    CONSTRAINT give_both_width_and_height_or_neither CHECK (((width IS NULL) = (height IS NULL))),
    CONSTRAINT height_must_be_even_and_between_480_and_1920 CHECK (((height IS NULL) OR (((height >= 480) AND (height <= 1920)) AND ((height % 2) = 0)))),
    CONSTRAINT idempotency_key_must_have_1_to_200_characters CHECK (((length(idempotency_key) >= 1) AND (length(idempotency_key) <= 200))),
    CONSTRAINT image_url_is_longer_than_2048_characters CHECK ((length(image_url) <= 2048)),
    CONSTRAINT inserted_by_is_not_one_of_ours CHECK ((inserted_by = ANY (ARRAY['user'::text, 'service'::text]))),
    CONSTRAINT metadata_is_longer_than_1000_bytes CHECK ((octet_length((metadata)::text) <= 1000)),
    CONSTRAINT metadata_must_be_a_json_object CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT negative_prompt_is_longer_than_1000_characters CHECK ((length(negative_prompt) <= 1000)),
    CONSTRAINT phase_is_not_one_of_ours CHECK ((phase = ANY (ARRAY['in_line'::text, 'checking_media'::text, 'confirming_submission'::text, 'waiting_gpu'::text, 'loading_models'::text, 'generating'::text, 'saving'::text, 'cancelling'::text, 'paused_budget'::text, 'done'::text]))),
    CONSTRAINT progress_must_be_between_0_and_100 CHECK (((progress >= 0) AND (progress <= 100))),
    CONSTRAINT progress_source_is_not_one_of_ours CHECK ((progress_source = ANY (ARRAY['reported'::text, 'estimated'::text]))),
    CONSTRAINT prompt_is_longer_than_1000_characters CHECK ((length(prompt) <= 1000)),
    CONSTRAINT quality_must_be_sd_hd_or_fullhd CHECK ((quality = ANY (ARRAY['sd'::text, 'hd'::text, 'fullhd'::text]))),
    CONSTRAINT seed_must_be_between_0_and_999999 CHECK (((seed IS NULL) OR ((seed >= 0) AND (seed <= 999999)))),
    CONSTRAINT status_is_not_one_of_ours CHECK ((status = ANY (ARRAY['queued'::text, 'preparing'::text, 'submitted'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
    CONSTRAINT steps_must_be_4_5_or_6 CHECK (((steps IS NULL) OR ((steps >= 4) AND (steps <= 6)))),
    CONSTRAINT urls_prompts_and_metadata_together_exceed_4000_bytes CHECK (((((((octet_length(COALESCE(image_url, ''::text)) + octet_length(COALESCE(audio_url, ''::text))) + octet_length(COALESCE(prompt, ''::text))) + octet_length(COALESCE(negative_prompt, ''::text))) + octet_length(idempotency_key)) + octet_length((metadata)::text)) <= 4000)),
    CONSTRAINT width_must_be_even_and_between_480_and_1920 CHECK (((width IS NULL) OR (((width >= 480) AND (width <= 1920)) AND ((width % 2) = 0)))),
    CONSTRAINT worker_texts_are_too_long CHECK (((octet_length(phase_detail) <= 600) AND (octet_length(error_message) <= 1500) AND (octet_length(ending_message) <= 1500) AND (octet_length(video_url) <= 2048) AND (octet_length((warnings)::text) <= 1600)))
)
WITH (fillfactor='80');
ALTER TABLE ONLY public.video_jobs ALTER COLUMN image_url SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN audio_url SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN quality SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN prompt SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN negative_prompt SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN idempotency_key SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN metadata SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN status SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN phase SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN phase_detail SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN progress_source SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN warnings SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN error_code SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN error_message SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN video_url SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN runpod_job_id SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN inserted_by SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN ending_code SET STORAGE MAIN;
ALTER TABLE ONLY public.video_jobs ALTER COLUMN ending_message SET STORAGE MAIN;

COMMENT ON TABLE public.video_jobs IS 'talking-head-worker: one row is one video. The app writes inputs and cancel_requested, the worker everything else.';

CREATE FUNCTION public.renew_video_job_leases_v1(p_owner uuid, p_job_ids uuid[], p_lease_seconds double precision) RETURNS SETOF public.video_jobs
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
begin
  perform set_config('video_jobs.writer', 'worker', true);
  return query
  update public.video_jobs j set lease_expires_at = now() + make_interval(secs => p_lease_seconds)
    where j.id = any (p_job_ids) and j.status = 'preparing' and j.lease_owner = p_owner and j.lease_expires_at >= now()
    returning j.*;
end $$;

CREATE FUNCTION public.retry_video_job_v1(id uuid) RETURNS SETOF public.video_jobs
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.set_video_job_limits_v1(p_limits jsonb) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.stranded_video_jobs_v1(p_want integer, p_after uuid) RETURNS SETOF jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.take_due_video_job_submissions_v1(p_want integer, p_poll_seconds double precision, p_all boolean, p_after uuid) RETURNS SETOF jsonb
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.unneeded_video_job_inputs_v1(p_bucket text, p_keep_hours double precision, p_after text, p_examine integer, p_want integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  keep constant interval := make_interval(secs => greatest(p_keep_hours, 0) * 3600);
  beyond constant text := greatest(substr(p_after, length(p_bucket) + 2) collate "C", 'inputs/');
  paths text[];
  examined bigint;
  last text;
begin
  if to_regclass('storage.objects') is null then
    return '{"paths": []}';
  end if;
  with page as materialized (
    select o.name, o.created_at from storage.objects o
    where o.bucket_id = p_bucket and o.name collate "C" > beyond and o.name collate "C" < 'inputs0'
    order by o.name collate "C" limit p_examine
  ), ours as (
    -- The parts are cut out without the regular expression, whose captures would cost a hundred times as much.
    select p.name, p.created_at,
      case when p.matches then split_part(p.name, '/', 2)::uuid end as job_id,
      case when p.matches then split_part(p.name, '/', 3)::integer end as attempt
    from (select *, name ~ '^inputs/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/[0-9]{1,9}/' as matches
          from page) p
  ), unneeded as (
    select p.name from ours p
    -- With a limit, each stays a look into the primary key: whole tables would be read for every page.
    left join lateral (select x.* from public.video_jobs x where x.id = p.job_id limit 1) j on true
    left join lateral (
      select x.* from public.video_job_attempts x
      where x.job_id = p.job_id and x.attempt = p.attempt and p_bucket || '/' || p.name = any (x.input_objects)
      limit 1) a on true
    where p.job_id is not null and case
      when a.job_id is null then
        p.created_at < now() - greatest(keep, interval '1 day')
        and not coalesce(j.attempt = p.attempt and j.lease_owner is not null, false)
      else
        a.state not in ('submitting', 'unknown', 'queued', 'running')
        and (j.id is null or j.status in ('completed', 'failed', 'cancelled') or j.try_number > a.try_number)
        and coalesce(a.ended_at, a.created_at) <= now() - keep end
    order by p.name collate "C" limit p_want
  )
  select (select coalesce(array_agg(u.name order by u.name collate "C"), '{}') from unneeded u),
         (select count(*) from page), (select max(p.name collate "C") from page p)
    into paths, examined, last;
  return jsonb_build_object('bucket', p_bucket, 'paths', paths, 'after', case
    when cardinality(paths) = p_want then p_bucket || '/' || paths[p_want]
    when examined = p_examine then p_bucket || '/' || last end);
end $$;

CREATE FUNCTION public.video_job_attempts_after_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_case_v1(p_job_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_changed_v1(p_old public.video_jobs, p_new public.video_jobs) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select coalesce(array_agg(n.key order by n.key), '{}')
  from jsonb_each(to_jsonb(p_new)) n join jsonb_each(to_jsonb(p_old)) o on o.key = n.key
  where n.value <> o.value and n.key not in ('updated_at', 'revision')
    -- A generated column is computed after a BEFORE trigger, and differs until then.
    and not exists (select 1 from pg_catalog.pg_attribute a
                    where a.attrelid = 'public.video_jobs'::regclass and a.attname = n.key and a.attgenerated <> '')
$$;

CREATE FUNCTION public.video_job_check_people_v1(p_old public.video_jobs, p_new public.video_jobs) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_check_user_v1(p_user_id uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_columns_v1(p_group text) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_end_waits_v1() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_foreign_defaults_v1() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_fresh_v1(p_row public.video_jobs, p_keep text[]) RETURNS public.video_jobs
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select r.* from jsonb_populate_record(null::public.video_jobs,
    public.video_job_foreign_defaults_v1() || jsonb_build_object('status', 'queued', 'phase', 'in_line', 'progress', 0, 'warnings', '[]'::jsonb, 'attempt', 0,
      'try_number', 1, 'crashes', 0, 'crashes_alone', 0, 'claimed_alone', false, 'input_tries', 0, 'input_seconds', 0, 'revision', 0,
      'phase_detail', 'Waiting in line.', 'turn', 0, 'delayed', false, 'inserted_by', 'service', 'cancel_requested', false, 'available_at', now(), 'created_at', now(), 'updated_at', now())
    || public.video_job_pick_v1(to_jsonb(p_row), p_keep)) r
$$;

CREATE FUNCTION public.video_job_has_open_submission_v1(p_job_id uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
  select exists (select 1 from public.video_job_attempts a
                 where a.job_id = p_job_id and a.state in ('submitting', 'unknown', 'queued', 'running'))
$$;

CREATE FUNCTION public.video_job_hold_user_v1(p_user_id uuid) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_line_v1(p_want integer, p_one_each boolean) RETURNS TABLE(id uuid, user_id uuid, suspect boolean, place bigint)
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_may_upload_v1(p_bucket text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO ''
    AS $$
declare
  most constant integer := (select b.max_objects_per_user from public.video_job_buckets b where b.id = p_bucket);
  folder constant text := auth.uid()::text;
begin
  return coalesce((select count(*) from (
    select from storage.objects o
    where o.bucket_id = p_bucket and o.name collate "C" > folder || '/' and o.name collate "C" < folder || '0'
    limit most) found) < most and folder is not null, false);
end $$;

CREATE FUNCTION public.video_job_misplaced_users_v1(p_want integer) RETURNS SETOF uuid
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_next_turn_v1(p_user_id uuid, p_priority integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_object_v1(p_url text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT COST 1000 PARALLEL SAFE
    SET search_path TO ''
    AS $_$
declare
  -- What Python's str.strip removes, as the worker does.
  address constant text := btrim(p_url, U&'\0009\000A\000B\000C\000D\001C\001D\001E\001F \0085\00A0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200A\2028\2029\202F\205F\3000');
  path text;
  before text;
  object text;
begin
  if address ~* '^storage://' then
    object := substr(address, 11);
  else
    path := substring(address from '(?i)^https?://[^/?#]*([^?#]*)');
    if position('%' in path) > 0 then
      begin
        path := (select convert_from(string_agg(
            case when m.part[1] ~ '^%..$' then decode(substr(m.part[1], 2), 'hex') else convert_to(m.part[1], 'UTF8') end,
            '' order by m.n), 'UTF8')
          from regexp_matches(path, '%[0-9A-Fa-f]{2}|[^%]+|%', 'g') with ordinality m (part, n));
      exception when others then
        return null;  -- no text, so no object's name; an insert must not fail because of it
      end;
    end if;
    -- Clients resolve these before they ask.
    while path like '%/.%' and path is distinct from before loop
      before := path;
      path := regexp_replace(path, '/\.(/|$)', '/', 'g');
      path := regexp_replace(path, '^(/\.\.(?=/|$))+|/(?!\.\.(?:/|$))[^/]*/\.\.(?=/|$)', '');
    end loop;
    object := substring(path from '/storage/v1/(?:object|render/image|s3)/(?:(?:public|sign|authenticated)/)?([^/]+/.+)$');
  end if;
  -- No name in Storage is longer; an index entry must stay far below 2,700 bytes.
  return case when octet_length(object) <= 1200 then object end;
end $_$;

CREATE FUNCTION public.video_job_pick_v1(p_object jsonb, p_keys text[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select coalesce(jsonb_object_agg(e.key, e.value), '{}') from jsonb_each(p_object) e where e.key = any (p_keys)
$$;

CREATE FUNCTION public.video_job_queued_v1(p_row public.video_jobs) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_recount_user_v1(p_user_id uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_job_recount_users_v1(p_user_ids uuid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform public.video_job_recount_user_v1(p.id)
    from (select distinct u.id from unnest(p_user_ids) u (id) where u.id is not null order by u.id) p;
end $$;

CREATE FUNCTION public.video_job_room_v1(p_endpoint_id text, OUT open_runs bigint, OUT queued_runs bigint) RETURNS record
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
  select count(*), count(*) filter (where a.state <> 'running' and a.endpoint_id = p_endpoint_id)
  from public.video_job_attempts a where a.state in ('submitting', 'queued', 'running')
$$;

CREATE FUNCTION public.video_job_set_v1(p_job_id uuid, p_attempt integer, p_groups text[], p_values jsonb, p_instants jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $_$
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
end $_$;

CREATE FUNCTION public.video_job_text_v1(p_text text, p_characters integer, p_bytes integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO ''
    AS $$
  select case when octet_length(left(p_text, p_characters)) <= p_bytes then left(p_text, p_characters)
              else left(p_text, p_bytes / 4) end
$$;

CREATE FUNCTION public.video_job_usage_v1(p_user_id uuid, OUT preparing integer, OUT in_flight integer, OUT submissions integer, OUT submissions_until timestamp with time zone, OUT failures integer, OUT failures_until timestamp with time zone) RETURNS record
    LANGUAGE sql STABLE
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_jobs_after_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_jobs_after_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
begin
  perform public.video_job_recount_users_v1(array(
    select u.user_id from public.video_job_users u where u.head_id is not null or u.in_flight > 0 or u.held is not null));
  return null;
end $$;

CREATE FUNCTION public.video_jobs_before_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_jobs_before_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.video_jobs_count_users() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO ''
    AS $$
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

CREATE FUNCTION public.write_video_job_changes_v1(p_changes jsonb) RETURNS TABLE(job_id uuid, took boolean, locked boolean, "case" jsonb)
    LANGUAGE plpgsql
    SET search_path TO ''
    AS $$
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

CREATE TABLE public.video_job_attempts (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    try_number integer NOT NULL,
    user_id uuid,
    endpoint_id text NOT NULL,
    runpod_job_id text,
    state text DEFAULT 'submitting'::text NOT NULL,
    plan jsonb DEFAULT '{}'::jsonb NOT NULL,
    template_hash text,
    input_objects text[] DEFAULT '{}'::text[] NOT NULL,
    video_url text,
    delay_ms bigint,
    execution_ms bigint,
    cost_usd numeric,
    error_code text,
    error_message text,
    resend boolean DEFAULT false NOT NULL,
    raw_error text,
    reported jsonb,
    reported_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    submitted_at timestamp with time zone,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    expires_at timestamp with time zone NOT NULL,
    seen_at timestamp with time zone,
    missing_since timestamp with time zone,
    missing_looks integer DEFAULT 0 NOT NULL,
    incomplete_since timestamp with time zone,
    cancel_asked_at timestamp with time zone,
    next_poll_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT submission_state_is_not_one_of_ours CHECK ((state = ANY (ARRAY['submitting'::text, 'unknown'::text, 'refused'::text, 'queued'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'lost'::text, 'expired'::text])))
)
WITH (fillfactor='80');

COMMENT ON TABLE public.video_job_attempts IS 'talking-head-worker: one row per submission to RunPod. No foreign key: it outlives its job, so that an orphaned run can still be cancelled.';

CREATE TABLE public.video_job_buckets (
    id text NOT NULL,
    max_objects_per_user integer DEFAULT 100 NOT NULL,
    clean boolean DEFAULT false NOT NULL,
    CONSTRAINT max_objects_per_user_must_not_be_negative CHECK ((max_objects_per_user >= 0))
);

COMMENT ON TABLE public.video_job_buckets IS 'talking-head-worker: the buckets for uploads, how many objects a user may have in each, whether orphans are removed.';

CREATE TABLE public.video_job_events (
    id bigint NOT NULL,
    job_id uuid NOT NULL,
    user_id uuid,
    try_number integer,
    attempt integer,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    event text NOT NULL,
    status text,
    phase text,
    detail jsonb
);

COMMENT ON TABLE public.video_job_events IS 'talking-head-worker: what happened to each job, when and why. Written by triggers, append-only.';

ALTER TABLE public.video_job_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.video_job_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.video_job_limits (
    only_row boolean DEFAULT true NOT NULL,
    max_in_flight_per_user integer DEFAULT 2 NOT NULL,
    max_submissions_per_user_per_day integer DEFAULT 50 NOT NULL,
    max_failed_preparations_per_user_per_hour integer DEFAULT 10 CONSTRAINT video_job_limits_max_failed_preparations_per_user_per__not_null NOT NULL,
    max_rows_per_user_per_day integer DEFAULT 200 NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT video_job_limits_only_row_check CHECK (only_row)
);

COMMENT ON TABLE public.video_job_limits IS 'talking-head-worker: one row; what a user may have. From the settings of the worker.';

CREATE TABLE public.video_job_migrations (
    name text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    hash text
);

COMMENT ON TABLE public.video_job_migrations IS 'talking-head-worker: which sql/migrations files have run here.';

CREATE TABLE public.video_job_stale_users (
    id bigint NOT NULL,
    user_id uuid NOT NULL
);

COMMENT ON TABLE public.video_job_stale_users IS 'talking-head-worker: users whose counts are to be made anew.';

ALTER TABLE public.video_job_stale_users ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.video_job_stale_users_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.video_job_turns (
    priority integer NOT NULL,
    turn bigint NOT NULL
);

COMMENT ON TABLE public.video_job_turns IS 'talking-head-worker: how far the rows of each priority have been served.';

CREATE TABLE public.video_job_users (
    user_id uuid NOT NULL,
    turn bigint DEFAULT 0 NOT NULL,
    shift bigint DEFAULT 0 NOT NULL,
    preparing integer DEFAULT 0 NOT NULL,
    in_flight integer DEFAULT 0 NOT NULL,
    head_priority integer,
    head_turn bigint,
    head_created_at timestamp with time zone,
    head_id uuid,
    room integer DEFAULT 0 NOT NULL,
    limits_version bigint DEFAULT 0 NOT NULL,
    held text,
    held_until timestamp with time zone,
    told text,
    refreshed_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE public.video_job_users IS 'talking-head-worker: one row per user, with the first waiting job and what limits it. Kept by triggers.';

ALTER TABLE ONLY public.video_jobs
    ADD CONSTRAINT one_row_per_idempotency_key UNIQUE NULLS NOT DISTINCT (user_id, idempotency_key);

ALTER TABLE ONLY public.video_job_attempts
    ADD CONSTRAINT one_row_per_run UNIQUE (endpoint_id, runpod_job_id);

ALTER TABLE ONLY public.video_job_attempts
    ADD CONSTRAINT video_job_attempts_pkey PRIMARY KEY (job_id, attempt);

ALTER TABLE ONLY public.video_job_buckets
    ADD CONSTRAINT video_job_buckets_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.video_job_events
    ADD CONSTRAINT video_job_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.video_job_limits
    ADD CONSTRAINT video_job_limits_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.video_job_migrations
    ADD CONSTRAINT video_job_migrations_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.video_job_stale_users
    ADD CONSTRAINT video_job_stale_users_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.video_job_turns
    ADD CONSTRAINT video_job_turns_pkey PRIMARY KEY (priority);

ALTER TABLE ONLY public.video_job_users
    ADD CONSTRAINT video_job_users_pkey PRIMARY KEY (user_id);

ALTER TABLE ONLY public.video_jobs
    ADD CONSTRAINT video_jobs_pkey PRIMARY KEY (id);

CREATE INDEX video_job_attempts_created ON public.video_job_attempts USING btree (created_at);

CREATE INDEX video_job_attempts_live ON public.video_job_attempts USING btree (endpoint_id, state) WHERE (state = ANY (ARRAY['submitting'::text, 'queued'::text, 'running'::text]));

CREATE INDEX video_job_attempts_of_user ON public.video_job_attempts USING btree (user_id, created_at DESC);

CREATE INDEX video_job_attempts_open ON public.video_job_attempts USING btree (job_id) WHERE (state = ANY (ARRAY['submitting'::text, 'unknown'::text, 'queued'::text, 'running'::text]));

CREATE INDEX video_job_attempts_open_of_user ON public.video_job_attempts USING btree (user_id) WHERE (state = ANY (ARRAY['submitting'::text, 'unknown'::text, 'queued'::text, 'running'::text]));

CREATE INDEX video_job_attempts_started ON public.video_job_attempts USING btree (endpoint_id, started_at DESC);

CREATE INDEX video_job_events_at ON public.video_job_events USING btree (at);

CREATE INDEX video_job_events_job ON public.video_job_events USING btree (job_id, id);

CREATE INDEX video_job_events_tries ON public.video_job_events USING btree (user_id, at DESC) WHERE (event = ANY (ARRAY['inserted'::text, 'retried'::text]));

CREATE INDEX video_job_events_unprepared ON public.video_job_events USING btree (user_id, at DESC) WHERE (event = 'preparation_failed'::text);

CREATE INDEX video_job_stale_users_user ON public.video_job_stale_users USING btree (user_id);

CREATE INDEX video_job_users_busy ON public.video_job_users USING btree (user_id) WHERE ((in_flight > 0) OR (held IS NOT NULL));

CREATE INDEX video_job_users_held ON public.video_job_users USING btree (held_until) WHERE (held_until IS NOT NULL);

CREATE INDEX video_job_users_ready ON public.video_job_users USING btree (head_priority DESC, head_turn, head_created_at, head_id) WHERE ((held IS NULL) AND (head_id IS NOT NULL));

CREATE INDEX video_job_users_untold ON public.video_job_users USING btree (user_id) WHERE (held IS DISTINCT FROM told);

CREATE INDEX video_jobs_active ON public.video_jobs USING btree (id) WHERE (status = ANY (ARRAY['submitted'::text, 'running'::text]));

CREATE INDEX video_jobs_audio_object ON public.video_jobs USING btree (public.video_job_object_v1(audio_url)) WHERE (status <> 'completed'::text);

CREATE INDEX video_jobs_delayed ON public.video_jobs USING btree (available_at) WHERE ((status = 'queued'::text) AND delayed);

CREATE INDEX video_jobs_ended ON public.video_jobs USING btree (completed_at) WHERE (completed_at IS NOT NULL);

CREATE INDEX video_jobs_image_object ON public.video_jobs USING btree (public.video_job_object_v1(image_url)) WHERE (status <> 'completed'::text);

CREATE INDEX video_jobs_line_of_nobody ON public.video_jobs USING btree (priority DESC, turn, created_at, id) WHERE ((status = 'queued'::text) AND (NOT delayed) AND (user_id IS NULL));

CREATE INDEX video_jobs_line_of_user ON public.video_jobs USING btree (user_id, priority DESC, turn, created_at, id) WHERE ((status = 'queued'::text) AND (NOT delayed));

CREATE INDEX video_jobs_placed ON public.video_jobs USING btree (id) WHERE ((status = 'queued'::text) AND (queue_position IS NOT NULL));

CREATE INDEX video_jobs_preparing ON public.video_jobs USING btree (user_id, id) WHERE (status = 'preparing'::text);

CREATE INDEX video_jobs_queued ON public.video_jobs USING btree (created_at) WHERE (status = 'queued'::text);

CREATE INDEX video_jobs_user ON public.video_jobs USING btree (user_id, created_at DESC);

CREATE TRIGGER video_job_attempts_after_change AFTER INSERT OR DELETE OR UPDATE ON public.video_job_attempts FOR EACH ROW EXECUTE FUNCTION public.video_job_attempts_after_change();

CREATE TRIGGER video_job_attempts_after_truncate AFTER TRUNCATE ON public.video_job_attempts FOR EACH STATEMENT EXECUTE FUNCTION public.video_jobs_after_truncate();

CREATE TRIGGER video_jobs_after_change AFTER INSERT OR DELETE OR UPDATE ON public.video_jobs FOR EACH ROW EXECUTE FUNCTION public.video_jobs_after_change();

CREATE TRIGGER video_jobs_after_truncate AFTER TRUNCATE ON public.video_jobs FOR EACH STATEMENT EXECUTE FUNCTION public.video_jobs_after_truncate();

CREATE TRIGGER video_jobs_before_insert BEFORE INSERT ON public.video_jobs FOR EACH ROW EXECUTE FUNCTION public.video_jobs_before_insert();

CREATE TRIGGER video_jobs_before_update BEFORE UPDATE ON public.video_jobs FOR EACH ROW EXECUTE FUNCTION public.video_jobs_before_update();

CREATE TRIGGER video_jobs_count_users_of_deleted AFTER DELETE ON public.video_jobs REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION public.video_jobs_count_users();

CREATE TRIGGER video_jobs_count_users_of_updated AFTER UPDATE ON public.video_jobs REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION public.video_jobs_count_users();

CREATE POLICY "people cancel their own jobs" ON public.video_jobs FOR UPDATE TO authenticated USING ((( SELECT auth.uid() AS uid) = user_id)) WITH CHECK ((( SELECT auth.uid() AS uid) = user_id));

CREATE POLICY "people insert their own jobs" ON public.video_jobs FOR INSERT TO authenticated WITH CHECK ((( SELECT auth.uid() AS uid) = user_id));

CREATE POLICY "people read their own jobs" ON public.video_jobs FOR SELECT TO authenticated USING ((( SELECT auth.uid() AS uid) = user_id));

ALTER TABLE public.video_job_attempts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.video_job_buckets ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.video_job_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.video_job_limits ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.video_job_migrations ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.video_job_stale_users ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.video_job_turns ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.video_job_users ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.video_jobs ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA public TO anon;
GRANT USAGE ON SCHEMA public TO authenticated;
GRANT USAGE ON SCHEMA public TO service_role;
GRANT ALL ON SCHEMA public TO postgres;

REVOKE ALL ON FUNCTION public.begin_video_job_submission_v1(p_job_id uuid, p_attempt integer, p_owner uuid, p_lease_seconds double precision, p_max_submissions integer, p_endpoint_id text, p_max_in_flight integer, p_max_queued_runs integer, p_ttl_seconds double precision, p_template_hash text, p_plan jsonb, p_columns jsonb, p_input_objects text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.begin_video_job_submission_v1(p_job_id uuid, p_attempt integer, p_owner uuid, p_lease_seconds double precision, p_max_submissions integer, p_endpoint_id text, p_max_in_flight integer, p_max_queued_runs integer, p_ttl_seconds double precision, p_template_hash text, p_plan jsonb, p_columns jsonb, p_input_objects text[]) TO service_role;

REVOKE ALL ON FUNCTION public.claim_video_jobs_v1(p_owner uuid, p_want integer, p_lease_seconds double precision, p_endpoint_id text, p_max_in_flight integer, p_max_queued_runs integer, p_max_preparing integer, p_holding uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.claim_video_jobs_v1(p_owner uuid, p_want integer, p_lease_seconds double precision, p_endpoint_id text, p_max_in_flight integer, p_max_queued_runs integer, p_max_preparing integer, p_holding uuid[]) TO service_role;

REVOKE ALL ON FUNCTION public.count_video_jobs_v1() FROM PUBLIC;
GRANT ALL ON FUNCTION public.count_video_jobs_v1() TO service_role;

REVOKE ALL ON FUNCTION public.get_video_job_case_v1(p_job_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.get_video_job_case_v1(p_job_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.get_video_job_limits_v1() FROM PUBLIC;
GRANT ALL ON FUNCTION public.get_video_job_limits_v1() TO service_role;

REVOKE ALL ON FUNCTION public.inspect_video_jobs_v1() FROM PUBLIC;
GRANT ALL ON FUNCTION public.inspect_video_jobs_v1() TO service_role;

REVOKE ALL ON FUNCTION public.orphaned_video_job_uploads_v1(p_keep_days integer, p_after text, p_examine integer, p_want integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.orphaned_video_job_uploads_v1(p_keep_days integer, p_after text, p_examine integer, p_want integer) TO service_role;

REVOKE ALL ON FUNCTION public.prune_video_job_history_v1(p_keep_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.prune_video_job_history_v1(p_keep_days integer) TO service_role;

REVOKE ALL ON FUNCTION public.prune_video_jobs_v1(p_keep_days integer, p_want integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.prune_video_jobs_v1(p_keep_days integer, p_want integer) TO service_role;

REVOKE ALL ON FUNCTION public.recount_video_job_users_v1(p_want integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.recount_video_job_users_v1(p_want integer) TO service_role;

REVOKE ALL ON FUNCTION public.refresh_video_job_queue_v1(p_places integer, p_sentences jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.refresh_video_job_queue_v1(p_places integer, p_sentences jsonb) TO service_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.video_jobs TO service_role;
GRANT SELECT ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(id) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(user_id) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(image_url) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(audio_url) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(width) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(height) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(quality) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(prompt) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(negative_prompt) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(seed) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(steps) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(idempotency_key) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(metadata) ON TABLE public.video_jobs TO authenticated;

GRANT INSERT(cancel_requested),UPDATE(cancel_requested) ON TABLE public.video_jobs TO authenticated;

REVOKE ALL ON FUNCTION public.renew_video_job_leases_v1(p_owner uuid, p_job_ids uuid[], p_lease_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION public.renew_video_job_leases_v1(p_owner uuid, p_job_ids uuid[], p_lease_seconds double precision) TO service_role;

REVOKE ALL ON FUNCTION public.retry_video_job_v1(id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.retry_video_job_v1(id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.retry_video_job_v1(id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.set_video_job_limits_v1(p_limits jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.set_video_job_limits_v1(p_limits jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.stranded_video_jobs_v1(p_want integer, p_after uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.stranded_video_jobs_v1(p_want integer, p_after uuid) TO service_role;

REVOKE ALL ON FUNCTION public.take_due_video_job_submissions_v1(p_want integer, p_poll_seconds double precision, p_all boolean, p_after uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.take_due_video_job_submissions_v1(p_want integer, p_poll_seconds double precision, p_all boolean, p_after uuid) TO service_role;

REVOKE ALL ON FUNCTION public.unneeded_video_job_inputs_v1(p_bucket text, p_keep_hours double precision, p_after text, p_examine integer, p_want integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.unneeded_video_job_inputs_v1(p_bucket text, p_keep_hours double precision, p_after text, p_examine integer, p_want integer) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_attempts_after_change() FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_job_case_v1(p_job_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_case_v1(p_job_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_changed_v1(p_old public.video_jobs, p_new public.video_jobs) FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_job_check_people_v1(p_old public.video_jobs, p_new public.video_jobs) FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_job_check_user_v1(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_check_user_v1(p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_columns_v1(p_group text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_columns_v1(p_group text) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_end_waits_v1() FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_end_waits_v1() TO service_role;

REVOKE ALL ON FUNCTION public.video_job_foreign_defaults_v1() FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_job_fresh_v1(p_row public.video_jobs, p_keep text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_job_has_open_submission_v1(p_job_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_has_open_submission_v1(p_job_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_hold_user_v1(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_hold_user_v1(p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_line_v1(p_want integer, p_one_each boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_line_v1(p_want integer, p_one_each boolean) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_may_upload_v1(p_bucket text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_may_upload_v1(p_bucket text) TO authenticated;
GRANT ALL ON FUNCTION public.video_job_may_upload_v1(p_bucket text) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_misplaced_users_v1(p_want integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_misplaced_users_v1(p_want integer) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_next_turn_v1(p_user_id uuid, p_priority integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_next_turn_v1(p_user_id uuid, p_priority integer) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_object_v1(p_url text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_object_v1(p_url text) TO authenticated;
GRANT ALL ON FUNCTION public.video_job_object_v1(p_url text) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_pick_v1(p_object jsonb, p_keys text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_job_queued_v1(p_row public.video_jobs) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_queued_v1(p_row public.video_jobs) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_recount_user_v1(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_recount_user_v1(p_user_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_recount_users_v1(p_user_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_recount_users_v1(p_user_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_room_v1(p_endpoint_id text, OUT open_runs bigint, OUT queued_runs bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_room_v1(p_endpoint_id text, OUT open_runs bigint, OUT queued_runs bigint) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_set_v1(p_job_id uuid, p_attempt integer, p_groups text[], p_values jsonb, p_instants jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_set_v1(p_job_id uuid, p_attempt integer, p_groups text[], p_values jsonb, p_instants jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.video_job_text_v1(p_text text, p_characters integer, p_bytes integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_job_usage_v1(p_user_id uuid, OUT preparing integer, OUT in_flight integer, OUT submissions integer, OUT submissions_until timestamp with time zone, OUT failures integer, OUT failures_until timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION public.video_job_usage_v1(p_user_id uuid, OUT preparing integer, OUT in_flight integer, OUT submissions integer, OUT submissions_until timestamp with time zone, OUT failures integer, OUT failures_until timestamp with time zone) TO service_role;

REVOKE ALL ON FUNCTION public.video_jobs_after_change() FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_jobs_after_truncate() FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_jobs_before_insert() FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_jobs_before_update() FROM PUBLIC;

REVOKE ALL ON FUNCTION public.video_jobs_count_users() FROM PUBLIC;

REVOKE ALL ON FUNCTION public.write_video_job_changes_v1(p_changes jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.write_video_job_changes_v1(p_changes jsonb) TO service_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.video_job_attempts TO service_role;

GRANT SELECT ON TABLE public.video_job_buckets TO service_role;

GRANT SELECT,INSERT,DELETE ON TABLE public.video_job_events TO service_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.video_job_limits TO service_role;

GRANT SELECT ON TABLE public.video_job_migrations TO service_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.video_job_stale_users TO service_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.video_job_turns TO service_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.video_job_users TO service_role;

ALTER PUBLICATION supabase_realtime ADD TABLE public.video_jobs;
