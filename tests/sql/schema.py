"""Writes sql/schema.sql and sql/expected.json: what the migrations make of an empty project."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import psycopg

from devstack.launch import find_binaries
from devstack.postgres import Postgres
from devstack.supabase.database import prepare

SCHEMA = Path(__file__).resolve().parents[2] / "sql" / "schema.sql"
EXPECTED = SCHEMA.with_name("expected.json")
HEAD = "-- What the migrations add up to, for reading; written by `make schema`.\n"
# pg_dump's own comments, session settings and one-time tokens differ between versions and runs.
NOISE = re.compile(
    r"--($| Name: | PostgreSQL database dump| Dumped (from|by) )"
    r"|SET \w+ = |SELECT pg_catalog\.set_config|\\(un)?restrict |(CREATE|COMMENT ON) SCHEMA public"
)


def dump(url: str) -> str:
    """The public schema of a migrated database, with its rights and its part in the publication."""
    command = [str(find_binaries() / "pg_dump"), "--schema-only", "--schema=public", "--no-owner"]
    done = subprocess.run([*command, url], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not NOISE.match(line)]
    body = re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, "", *_publication(url)]))
    return f"{HEAD}\n{body.strip()}\n"


def _publication(url: str) -> list[str]:
    # pg_dump leaves it out of the dump of one schema: it belongs to the database.
    query = "select pubname, tablename from pg_publication_tables where schemaname = 'public'"
    with psycopg.connect(url) as connection:
        rows = connection.execute(f"{query} order by 1, 2").fetchall()
    return [f"ALTER PUBLICATION {name} ADD TABLE public.{table};" for name, table in rows]


def expected(url: str) -> str:
    """What `doctor` compares a project with: the same look at the catalogs that it takes there."""
    with psycopg.connect(url) as connection:
        row = connection.execute("select public.inspect_video_jobs_v1()").fetchone()
    assert row is not None
    found = {
        name: value
        for name, value in row[0].items()
        if name not in ("role", "server_time", "server_version")
    }
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Start a server, migrate a database, dump it, leave nothing behind."""
    postgres = Postgres()
    try:
        postgres.start()
        url = prepare(postgres, "schema")
        SCHEMA.write_text(dump(url), encoding="utf-8")
        EXPECTED.write_text(expected(url), encoding="utf-8")
    finally:
        postgres.remove()


if __name__ == "__main__":
    main()
