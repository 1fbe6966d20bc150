-- What may be removed: prepared inputs, orphaned uploads, old jobs. The database says so, by its own clock and by
-- what its rows name; the worker removes objects through the Storage API, since rows alone would leave the files.

begin;
do $$
begin
  perform pg_advisory_xact_lock(6030272911);
  if not exists (select from public.video_job_migrations m where m.name = '0004_storage') then
    raise exception 'Apply 0004_storage.sql first.';
  end if;
end $$;
set local lock_timeout = '4s';
set local statement_timeout = '60s';

-- The object that an address of a row names, as "bucket/path": storage://, and signed, public or authenticated
-- URLs of Storage, on any host (a project may have several). Null for all other addresses. In doubt it names one:
-- then an object is only kept longer. Readable by everybody, since their inserts fill its indexes.
create or replace function public.video_job_object_v1(p_url text) returns text
language plpgsql immutable strict parallel safe cost 1000 set search_path = '' as $$
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
end $$;

revoke execute on function public.video_job_object_v1(text) from public, anon;
grant execute on function public.video_job_object_v1(text) to authenticated, service_role;

-- Completed jobs need their uploads no more.
create index if not exists video_jobs_image_object on public.video_jobs (public.video_job_object_v1(image_url))
  where status <> 'completed';
create index if not exists video_jobs_audio_object on public.video_jobs (public.video_job_object_v1(audio_url))
  where status <> 'completed';
create index if not exists video_jobs_ended on public.video_jobs (completed_at) where completed_at is not null;

-- One page of the uploads in buckets that are cleaned, beginning after p_after ("bucket/path"): which of them are
-- older than p_keep_days and named neither by a job that has not ended nor by one that failed or was cancelled within
-- these days (somebody may retry it). In a folder with more objects than permitted (signed upload URLs pass by the
-- limit) one day is enough. Answers {bucket, paths, after}; after is null at the end.
create or replace function public.orphaned_video_job_uploads_v1(
  p_keep_days integer, p_after text, p_examine integer, p_want integer) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
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

-- One page of the prepared inputs (inputs/<job>/<attempt>/…) in a bucket: which of them no run can need. Those of a
-- submission: it and its try have ended, p_keep_hours ago. Those of none: nobody works on that claim, and they are a
-- day old. Other objects are left alone. Answers like the function above.
create or replace function public.unneeded_video_job_inputs_v1(
  p_bucket text, p_keep_hours double precision, p_after text, p_examine integer, p_want integer) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
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

-- Deletes jobs that ended p_keep_days ago, unless one of their submissions is open. At most p_want in one call.
create or replace function public.prune_video_jobs_v1(p_keep_days integer, p_want integer) returns integer
language plpgsql set search_path = '' as $$
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

revoke execute on function public.orphaned_video_job_uploads_v1(integer, text, integer, integer),
  public.unneeded_video_job_inputs_v1(text, double precision, text, integer, integer),
  public.prune_video_jobs_v1(integer, integer) from public, anon, authenticated;
grant execute on function public.orphaned_video_job_uploads_v1(integer, text, integer, integer),
  public.unneeded_video_job_inputs_v1(text, double precision, text, integer, integer),
  public.prune_video_jobs_v1(integer, integer) to service_role;

insert into public.video_job_migrations (name) values ('0008_housekeeping') on conflict do nothing;
commit;
