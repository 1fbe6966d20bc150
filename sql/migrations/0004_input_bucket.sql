-- The private bucket `inputs`: every signed-in user has one folder in it, named after the user id.
-- Does nothing where Storage is not installed. Rows name its objects as storage://inputs/<user id>/…
-- once the worker's INPUT_BUCKETS lists it. Safe to run again.

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

do $$
declare
  own_folder constant text := $p$bucket_id = 'inputs'
    and (storage.foldername(name))[1] = (select auth.uid())::text$p$;
  action text;
begin
  if to_regclass('storage.buckets') is null or to_regclass('storage.objects') is null then
    return;
  end if;

  -- 50 MiB, as the worker accepts no larger audio. A bucket that is there already is left alone.
  insert into storage.buckets (id, name, public, file_size_limit)
  values ('inputs', 'inputs', false, 52428800)
  on conflict do nothing;

  -- No policy for updates: a file that a job was checked with cannot be exchanged under it.
  foreach action in array array['select', 'insert', 'delete'] loop
    if not exists (select 1 from pg_policies
                   where schemaname = 'storage' and tablename = 'objects'
                     and policyname = 'video_job_inputs_' || action) then
      execute format('create policy %I on storage.objects for %s to authenticated %s (%s)',
                     'video_job_inputs_' || action, action,
                     case action when 'insert' then 'with check' else 'using' end, own_folder);
    end if;
  end loop;
exception when insufficient_privilege then
  raise notice 'This role may not write policies for storage.objects; '
    'create the bucket "inputs" and its policies in the dashboard.';
end $$;

insert into public.video_job_migrations (name) values ('0004_input_bucket') on conflict do nothing;
commit;
