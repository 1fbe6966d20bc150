"""How long the database needs to find unneeded objects: 100,000 jobs and 100,000 objects.

python -m benchmarks.housekeeping
"""

from __future__ import annotations

import platform
import time

import psycopg

from devstack.postgres import SUPERUSER, Postgres
from devstack.supabase.database import prepare

ROWS = 100_000
FILL = """
set session_replication_role = replica;
insert into public.video_jobs (image_url, audio_url, status, completed_at, error_code, video_url)
  select 'https://abc.supabase.co/storage/v1/object/sign/video-images/u' || n % 1000 || '/' || n
      || '.jpg?token=t',
    'storage://video-audio/u' || n % 1000 || '/' || n,
    (array['queued', 'running', 'failed', 'completed'])[1 + n % 4],
    case when n % 4 > 1 then now() - interval '1 day' * (n % 20) end, 'e', 'v'
  from generate_series(1, {rows}) n;
insert into storage.objects (bucket_id, name, created_at, updated_at)
  select 'video-images', 'u' || n % 1000 || '/' || n || '.jpg', now() - interval '30 days',
    now() - interval '30 days'
  from generate_series(1, {half}) n;
insert into public.video_job_attempts
  (job_id, attempt, try_number, endpoint_id, state, input_objects, created_at, expires_at)
  select md5(n::text)::uuid, 1, 1, 'e', (array['running', 'completed'])[1 + n % 2],
    array['video-prepared/inputs/' || md5(n::text)::uuid || '/1/t/image.jpg'],
    now() - interval '30 days', now() from generate_series(1, {half}) n;
insert into storage.objects (bucket_id, name)
  select 'video-prepared', replace(a.input_objects[1], 'video-prepared/', '')
  from public.video_job_attempts a;
analyze;
"""
CALLS = {
    "uploads": "select public.orphaned_video_job_uploads_v1(7, %s, 5000, 100)",
    "prepared inputs": "select public.unneeded_video_job_inputs_v1('video-prepared', 24, %s,"
    " 5000, 100)",
}


def main() -> None:
    """Fill a database, walk through all pages of both looks, print the times."""
    postgres = Postgres()
    try:
        postgres.start()
        prepare(postgres, "bench")
        url = postgres.url("bench", user=SUPERUSER)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(FILL.format(rows=ROWS, half=ROWS // 2).encode())
            print(f"{platform.machine()}, {ROWS:,} jobs, {ROWS:,} objects")
            for name, call in CALLS.items():
                _walk(connection, name, call)
    finally:
        postgres.remove()


def _walk(connection: psycopg.Connection[tuple[object, ...]], name: str, call: str) -> None:
    after, pages, found, slowest = None, 0, 0, 0.0
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        row = connection.execute(call.encode(), [after]).fetchone()
        slowest = max(slowest, time.perf_counter() - start)
        assert row is not None
        page = row[0]
        assert isinstance(page, dict)
        pages, found, after = pages + 1, found + len(page["paths"]), page.get("after")
        if after is None:
            break
    total = time.perf_counter() - began
    print(
        f"{name:16} {pages} calls, {found:,} to remove; "
        f"{total:.1f} s in all, the slowest call {slowest * 1000:.0f} ms"
    )


if __name__ == "__main__":
    main()
