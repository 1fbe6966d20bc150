"""`migrate`: applies sql/migrations to DATABASE_URL; the only user of a direct connection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.output import FAILED, REFUSED
from worker.jobs.errors import SettingsInvalid, WorkerError
from worker.runtime.logs import Redactor
from worker.runtime.migrations import files, hash_of, other_schema
from worker.settings import database_url

if TYPE_CHECKING:
    # Imported only where it is used: the daemon does not need its 9 MB of memory.
    import psycopg

_LOCK = 6_030_272_911
_EXAMPLE = "postgresql://postgres:PASSWORD@HOST:5432/postgres"
_PLACEHOLDER = re.compile(r"\[?YOUR[-_]PASSWORD\]?", re.IGNORECASE)
# The first @ behind which a host, perhaps a database and options follow ends the password.
_PARTS = re.compile(
    r"\w+://(?P<userinfo>.*?)@[\w.:,%\[\]-]*(?:/[\w.%-]*)?(?:\?.*)?", re.DOTALL | re.ASCII
)
_RESERVED = {"@": "%40", "/": "%2F"}
# What libpq says of a connection that failed, and what to do about it.
_ADVICE = (
    (
        r"password authentication failed|SASL authentication failed|no password supplied",
        "The database refuses the password: copy it again, or reset it under Settings > Database "
        "in Supabase's dashboard.",
    ),
    (
        r"could not translate host|resolve host|Name or service not known|nodename nor servname",
        "The host's name cannot be resolved (DNS): check the host in DATABASE_URL. The direct host "
        "of a project has an IPv6 address only: without IPv6, use the session pooler's string.",
    ),
    (
        r"Temporary failure in name resolution",
        "This machine's DNS does not answer: check its network.",
    ),
    (
        r"[Cc]onnection refused",
        "The connection is refused: nothing listens there. Check host and port in DATABASE_URL.",
    ),
    (
        r"timeout expired|timed out",
        "No connection within the time limit: check the host and port in DATABASE_URL, firewalls, "
        "and that the project is not paused.",
    ),
    (
        r"[Nn]etwork is unreachable|No route to host",
        "There is no network route to it: without IPv6, use the session pooler's string.",
    ),
    (r"certificate|SSL", "TLS failed: check `sslmode` and the certificate."),
    (
        r"Tenant or user not found",
        "The pooler does not know this project or user: copy the session pooler's string again.",
    ),
)


class OtherSchema(WorkerError):
    """The database was made by other migration files than this version's."""

    code = "other_schema"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("migrate")(migrate)


def recorded(
    connection: psycopg.Connection[tuple[object, ...]],
) -> Mapping[str, str | None] | None:
    """Return the hash of each applied file by its name, None if the table has no hashes."""
    row = connection.execute("select to_regclass('public.video_job_migrations')").fetchone()
    if row is None or row[0] is None:
        return {}
    has_hash = connection.execute(
        "select 1 from pg_attribute where attrelid = 'public.video_job_migrations'::regclass "
        "and attname = 'hash' and not attisdropped"
    ).fetchone()
    if has_hash is None:
        return None
    rows = connection.execute("select name, hash from public.video_job_migrations").fetchall()
    return {str(name): None if found is None else str(found) for name, found in rows}


def apply(url: str, *, dry_run: bool = False, again: bool = False) -> list[str]:
    """Apply the missing files, or all of them again; each file is its own transaction.

    Raise OtherSchema if the database was made by other files.
    """
    import psycopg

    with psycopg.connect(url, autocommit=True, connect_timeout=15) as connection:
        connection.execute("select pg_advisory_lock(%s)", [_LOCK])
        try:
            done = recorded(connection)
            if problem := other_schema(done):
                raise OtherSchema(problem)
            names = []
            for path in files():
                if path.stem in (done or {}) and not again:
                    continue
                if not dry_run:
                    _execute(connection, path)
                names.append(path.stem)
            if names and not dry_run:
                # PostgREST caches the functions' signatures.
                connection.execute("notify pgrst, 'reload schema'")
            return names
        finally:
            connection.execute("select pg_advisory_unlock(%s)", [_LOCK])


def _execute(connection: psycopg.Connection[tuple[object, ...]], path: Path) -> None:
    import psycopg
    from psycopg import sql

    try:
        connection.execute(sql.SQL(path.read_text("utf-8")))
    except psycopg.Error:
        # The file's transaction is still open, and would refuse every further statement.
        connection.rollback()
        raise
    connection.execute(
        "update public.video_job_migrations set hash = %s where name = %s",
        [hash_of(path), path.stem],
    )


def problem_of(url: str) -> str | None:
    """Return what is wrong with a connection string, without any part of it; None if nothing is."""
    import psycopg

    if _PLACEHOLDER.search(url):
        return (
            "DATABASE_URL still holds [YOUR-PASSWORD]: put the database password there. "
            "Supabase's dashboard does not show it; reset it under Settings > Database if needed."
        )
    parts = _PARTS.fullmatch(url)
    userinfo = parts["userinfo"] if parts is not None else ""
    if found := [sign for sign in _RESERVED if sign in userinfo]:
        escaped = " and ".join(f"{sign} as {_RESERVED[sign]}" for sign in found)
        return (
            f"The password in DATABASE_URL contains {' and '.join(found)}, which must be escaped "
            f"in a URL: write {escaped}."
        )
    if re.search(r"%(?![0-9A-Fa-f]{2})", userinfo):
        return (
            "The password in DATABASE_URL contains %, which must be escaped in a URL: "
            "write % as %25."
        )
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Its message would repeat the URL with the password.
        return f"DATABASE_URL is invalid; expected {_EXAMPLE}. Copy it from Supabase's dashboard."
    return None


def _why(error: psycopg.Error, url: str) -> str:
    text = Redactor([url]).text(str(error)).strip()
    # Only errors of the server have a code; without one there was no connection.
    if error.sqlstate is None or error.sqlstate.startswith("28"):
        for pattern, advice in _ADVICE:
            if re.search(pattern, text):
                return f"The database cannot be reached. {advice}"
        return (
            f"The database cannot be reached: {text.rstrip('.?')}. Check DATABASE_URL; where IPv6 "
            "is missing, use the session pooler's connection string."
        )
    return f"The migration failed; nothing of that file was applied: {text}"


def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what is missing.")] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Apply all files again: repairs rights, functions, policies."),
    ] = False,
) -> None:
    """Apply missing migrations to DATABASE_URL; safe to run again."""
    try:
        url = database_url()
    except SettingsInvalid as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(REFUSED) from error
    if url is None:
        typer.echo(
            "DATABASE_URL is not set, so no migration was applied. Set it to the project's direct "
            "connection string, or apply sql/migrations with psql or `supabase db push`."
        )
        return
    import psycopg

    if problem := problem_of(url):
        typer.echo(problem, err=True)
        raise typer.Exit(REFUSED)
    try:
        names = apply(url, dry_run=dry_run, again=again)
    except OtherSchema as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(FAILED) from error
    except psycopg.Error as error:
        typer.echo(_why(error, url), err=True)
        raise typer.Exit(FAILED) from error
    if not names:
        typer.echo("The database is up to date.")
    for name in names:
        typer.echo(f"{'missing' if dry_run else 'applied'}: {name}")
