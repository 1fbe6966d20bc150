-- Fills a database for benchmarks/line.py: {rows} waiting rows, {runs} open runs, {history} old submissions.
-- Up to half of the users who wait have five runs open, so that a claim has somebody to pass over.
set session_replication_role = replica;
update public.video_job_limits set max_in_flight_per_user = 5;
insert into public.video_jobs (id, user_id, image_url, audio_url, turn, created_at, phase_detail)
  select gen_random_uuid(), md5('user' || (n / {per_user}))::uuid, 'i', 'a', 1 + n % {per_user},
         now() - make_interval(secs => ({rows} - n) / 100.0), 'Waiting in line.'
  from generate_series(0, {rows} - 1) n;
insert into public.video_jobs
  (id, user_id, image_url, audio_url, status, phase, runpod_job_id, started_at)
  select md5('open' || n)::uuid, case when n / 5 < {rows} / {per_user} / 2 then md5('user' || n / 5) else md5('busy' || n) end::uuid, 'i', 'a',
         'running', 'generating', 'run-' || n, now()
  from generate_series(0, {runs} - 1) n;
insert into public.video_job_attempts
  (job_id, attempt, try_number, user_id, endpoint_id, runpod_job_id, state, expires_at, next_poll_at)
  select j.id, 1, 1, j.user_id, 'endpoint', j.runpod_job_id, 'running', now() + interval '2 hours',
         now() + make_interval(secs => random() * 30)
  from public.video_jobs j where j.status = 'running';
insert into public.video_job_attempts
  (job_id, attempt, try_number, user_id, endpoint_id, runpod_job_id, state, expires_at, ended_at, created_at)
  select gen_random_uuid(), 1, 1, md5('user' || n % 100000)::uuid, 'endpoint', 'old-' || n, 'completed',
         now(), now(), now() - make_interval(secs => n * 0.25)
  from generate_series(0, {history} - 1) n;
insert into public.video_job_users (user_id, turn)
  select j.user_id, max(j.turn) from public.video_jobs j group by j.user_id;
update public.video_job_users u set
    head_priority = h.priority, head_turn = h.turn, head_created_at = h.created_at, head_id = h.id,
    limits_version = 1, in_flight = coalesce(o.runs, 0), room = 5 - coalesce(o.runs, 0), held = case when o.runs >= 5 then 'in_flight' end
  from (select distinct on (j.user_id) j.user_id, j.priority, j.turn, j.created_at, j.id from public.video_jobs j
        where j.status = 'queued' order by j.user_id, j.priority desc, j.turn, j.created_at, j.id) h
  left join (select a.user_id, count(*) as runs from public.video_job_attempts a where a.state = 'running'
             group by a.user_id) o on o.user_id = h.user_id
  where u.user_id = h.user_id;
set session_replication_role = origin;
