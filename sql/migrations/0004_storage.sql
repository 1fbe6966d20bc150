-- The private buckets: video-images and video-audio for uploads (inputs for apps that use it already), and
-- video-prepared for what the worker makes of them. In a bucket for uploads every signed-in user has one folder,
-- named after the user id, with a limited number of objects. Does nothing where Storage is not installed.
-- Safe to run again.

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

do $$ begin
  if to_regclass('public.video_job_buckets') is not null
     and coalesce(obj_description(to_regclass('public.video_job_buckets'), 'pg_class'), '') not like 'talking-head-worker:%' then
    raise exception 'public.video_job_buckets exists already and is not from this project. '
      'Rename or drop that table, then run the migrations again.';
  end if;
end $$;

-- The operator's choices for each bucket of uploads, changed with a plain update.
create table if not exists public.video_job_buckets (
  id text primary key,
  max_objects_per_user integer not null default 100,
  -- Whether orphaned uploads are removed. Only in buckets that these migrations made: another may hold other files.
  clean boolean not null default false,
  constraint max_objects_per_user_must_not_be_negative check (max_objects_per_user >= 0)
);
comment on table public.video_job_buckets is
  'talking-head-worker: the buckets for uploads, how many objects a user may have in each, whether orphans are removed.';
alter table public.video_job_buckets enable row level security;
revoke all on public.video_job_buckets from public, anon, authenticated, service_role;
grant select on public.video_job_buckets to service_role;

-- Whether the caller has fewer objects in his folder than he may. Counts as the owner: a policy's own look at its
-- table would be filtered by the policies. Reads no more index entries than the limit ('0' follows '/').
create or replace function public.video_job_may_upload_v1(p_bucket text) returns boolean
language plpgsql stable security definer set search_path = '' as $$
declare
  most constant integer := (select b.max_objects_per_user from public.video_job_buckets b where b.id = p_bucket);
  folder constant text := auth.uid()::text;
begin
  return coalesce((select count(*) from (
    select from storage.objects o
    where o.bucket_id = p_bucket and o.name collate "C" > folder || '/' and o.name collate "C" < folder || '0'
    limit most) found) < most and folder is not null, false);
end $$;
revoke execute on function public.video_job_may_upload_v1(text) from public, anon;
grant execute on function public.video_job_may_upload_v1(text) to authenticated, service_role;

do $$
declare
  own_folder constant text := $p$bucket_id in ('video-images', 'video-audio', 'inputs')
    and (storage.foldername(name))[1] = (select auth.uid())::text$p$;
  action text;
  bucket record;
  made integer;
begin
  if to_regclass('storage.buckets') is null or to_regclass('storage.objects') is null then
    return;
  end if;

  -- As large as the worker accepts. A bucket that is there already is left alone.
  -- Browsers give sound many names, some of them of videos; of pictures, only formats that the worker reads. A file
  -- whose type the browser does not know (HEIC on Windows) comes as octet-stream; the worker goes by the content.
  for bucket in
    select * from (values
      ('video-images', true, 10485760, array['image/jpeg', 'image/png', 'image/webp', 'image/heic', 'image/heif',
        'image/avif', 'image/gif', 'image/bmp', 'image/tiff', 'application/octet-stream']),
      ('video-audio', true, 52428800, array['audio/*', 'video/mp4', 'video/webm', 'video/quicktime', 'application/ogg',
        'application/octet-stream']),
      ('inputs', true, 52428800, null),
      -- No policy at all: only the worker's key opens it, and RunPod by a signed URL.
      ('video-prepared', false, null, null)) b (id, uploads, size_limit, types)
  loop
    insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
    values (bucket.id, bucket.id, false, bucket.size_limit, bucket.types) on conflict do nothing;
    get diagnostics made = row_count;
    if bucket.uploads then
      insert into public.video_job_buckets (id, clean) values (bucket.id, made > 0) on conflict do nothing;
    end if;
  end loop;

  -- No policy for updates: a file that a job was checked with cannot be exchanged under it.
  foreach action in array array['select', 'insert', 'delete'] loop
    if not exists (select 1 from pg_policies
                   where schemaname = 'storage' and tablename = 'objects'
                     and policyname = 'video_job_uploads_' || action) then
      execute format('create policy %I on storage.objects for %s to authenticated %s (%s)',
                     'video_job_uploads_' || action, action,
                     case action when 'insert' then 'with check' else 'using' end,
                     own_folder || case action when 'insert' then ' and public.video_job_may_upload_v1(bucket_id)' else '' end);
    end if;
  end loop;
exception when insufficient_privilege then
  raise notice 'This role may not write policies for storage.objects; create the private buckets "video-images", '
    '"video-audio" and "video-prepared" and the policies of the first two in the dashboard.';
end $$;

insert into public.video_job_migrations (name) values ('0004_storage') on conflict do nothing;
commit;
