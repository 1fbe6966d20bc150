-- Realtime: the browser and the worker hear of changes through the publication that Supabase reads.
-- Default replica identity on purpose: an UPDATE's event then carries the row once, a DELETE's only the id.

select set_config('lock_timeout', '4s', false), set_config('statement_timeout', '60s', false);

do $$
begin
  if not exists (select 1 from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  if not exists (select 1 from pg_publication_tables
                 where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'video_jobs') then
    alter publication supabase_realtime add table public.video_jobs;
  end if;
end $$;
alter table public.video_jobs replica identity default;

insert into public.video_job_migrations (name) values ('0005_realtime') on conflict do nothing;
