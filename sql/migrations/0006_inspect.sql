-- For operators: what `python -m worker doctor` compares with sql/expected.json, and cheap counts for /metrics.

begin;
do $$
begin
  perform pg_advisory_xact_lock(6030272911);
  if not exists (select from public.video_job_migrations m where m.name = '0005_realtime') then
    raise exception 'Apply 0005_realtime.sql first.';
  end if;
end $$;
set local lock_timeout = '4s';
set local statement_timeout = '60s';

-- The catalogs, as far as they concern us. Reads no row of any job and changes nothing.
create or replace function public.inspect_video_jobs_v1() returns jsonb
language sql stable set search_path = '' as $$
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

-- Jobs that have not ended, by status (of those that wait at most 10,000), and how long the oldest has waited; reads
-- their small indexes alone.
create or replace function public.count_video_jobs_v1()
returns table (status text, jobs bigint, oldest_seconds double precision)
language sql stable set search_path = '' as $$
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

revoke execute on function public.inspect_video_jobs_v1(), public.count_video_jobs_v1() from public, anon, authenticated;
grant execute on function public.inspect_video_jobs_v1(), public.count_video_jobs_v1() to service_role;

insert into public.video_job_migrations (name) values ('0006_inspect') on conflict do nothing;
commit;
