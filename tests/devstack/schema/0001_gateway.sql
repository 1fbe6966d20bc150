-- What the gateway's tests work on: nothing here is the product's.

-- The table of the recorded Realtime traffic, without row security.
create table if not exists public.video_jobs (
  id uuid primary key default gen_random_uuid(),
  user_id uuid,
  status text not null default 'pending',
  audio_url text,
  params jsonb default '{}',
  progress numeric,
  frames int4,
  big int8,
  tags text[],
  error text,
  created_at timestamptz default now(),
  updated_at timestamp default now()
);
grant select, insert, update, delete on public.video_jobs to service_role;
grant select on public.video_jobs to anon;

-- Rows that belong to somebody.
create table if not exists public.notes (
  id bigint generated always as identity primary key,
  user_id uuid not null default auth.uid(),
  body text not null default 'empty',
  secret text,
  kind text check (kind in ('a', 'b')),
  data jsonb,
  "odd name" text,
  made_at timestamptz not null default now()
);
create unique index if not exists notes_kind on public.notes (user_id, kind);
alter table public.notes enable row level security;
drop policy if exists own_notes on public.notes;
create policy own_notes on public.notes to authenticated
  using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
grant select, insert, update, delete on public.notes to service_role;
grant select (id, user_id, body, kind, data, "odd name", made_at), delete on public.notes to authenticated;
grant insert (body, kind, data, user_id), update (body, kind) on public.notes to authenticated;

-- Never published, never granted.
create table if not exists public.hidden (id int primary key);
create table if not exists public.keyless (v text);
grant select, insert on public.keyless to service_role;
create table if not exists public.types_of_values (
  id int8 primary key, b bytea, d date, i interval, n numeric(10, 2), flags bool[], big_text text
);
alter table public.types_of_values alter column big_text set storage external;
grant select, insert, update, delete on public.types_of_values to service_role;

create or replace function public.add(a int, b int default 10) returns int
  language sql immutable as 'select a + b';
create or replace function public.nothing() returns void language sql as '';
create or replace function public.notes_of(wanted text) returns setof public.notes
  language sql stable as 'select * from public.notes where kind = wanted';
create or replace function public.one_note(wanted bigint) returns public.notes
  language sql stable as 'select * from public.notes where id = wanted';
create or replace function public.numbers(until int) returns setof int
  language sql immutable as 'select generate_series(1, until)';
create or replace function public.pairs() returns table (n int, word text)
  language sql immutable as $$ values (1, 'one'), (2, 'two') $$;
create or replace function public.echo(data jsonb, words text[]) returns jsonb
  language sql immutable as $$ select jsonb_build_object('data', data, 'words', words) $$;
create or replace function public.refuse(code text) returns void language plpgsql as $$
  begin raise exception 'refused' using errcode = code, detail = 'why', hint = 'what to do'; end $$;
create or replace function public.who() returns json language sql stable as $$
  select json_build_object('user', current_user, 'role', auth.role(), 'uid', auth.uid(),
    'method', current_setting('request.method', true)) $$;
create or replace function public.sleep_in_stable() returns int language plpgsql stable as $$
  begin insert into public.keyless values ('x'); return 1; end $$;
create or replace function public.wait(seconds float) returns int language sql volatile as
  'select 1 from pg_sleep(seconds)';

do $$ begin
  alter publication supabase_realtime
    add table public.video_jobs, public.notes, public.types_of_values, public.keyless;
exception when duplicate_object then null; end $$;
