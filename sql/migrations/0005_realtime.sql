-- Realtime: the browser and the worker hear of changes through the publication that Supabase reads.
-- Default replica identity on purpose: an UPDATE's event then carries the row once, a DELETE's only the id.

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
begin
  if not exists (select 1 from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  if not exists (select 1 from pg_publication_tables
                 where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'video_jobs') then
    alter publication supabase_realtime add table public.video_jobs;
  end if;
exception when insufficient_privilege then
  raise exception 'This role may not change the publication supabase_realtime. Run this file as its owner '
    '(postgres on Supabase), or switch Realtime on for video_jobs in the dashboard and run it again.';
end $$;
alter table public.video_jobs replica identity default;

insert into public.video_job_migrations (name) values ('0005_realtime') on conflict do nothing;
commit;
