"""`migrate`: applies sql/migrations to DATABASE_URL; nothing else speaks to Postgres directly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.output import FAILED, REFUSED
from worker.runtime.data_files import data_file
from worker.settings import database_url

if TYPE_CHECKING:
    # At run time it is imported where it is used: the daemon would carry its 9 MB for nothing.
    import psycopg

_LOCK = 6_030_272_911


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("migrate")(migrate)


def migrations() -> list[Path]:
    """The files, in order."""
    return sorted(data_file("sql", "migrations").glob("[0-9]*.sql"))


def pending(connection: psycopg.Connection[tuple[object, ...]]) -> list[Path]:
    """The files that have not recorded themselves in this database."""
    row = connection.execute("select to_regclass('public.video_job_migrations')").fetchone()
    done: set[object] = set()
    if row is not None and row[0] is not None:
        rows = connection.execute("select name from public.video_job_migrations").fetchall()
        done = {name for (name,) in rows}
    return [path for path in migrations() if path.stem not in done]


def apply(url: str, *, dry_run: bool = False, again: bool = False) -> list[str]:
    """Apply what is missing (or everything again); each file is its own transaction."""
    import psycopg

    with psycopg.connect(url, autocommit=True, connect_timeout=15) as connection:
        connection.execute("select pg_advisory_lock(%s)", [_LOCK])
        try:
            names = []
            for path in migrations() if again else pending(connection):
                if not dry_run:
                    _execute(connection, path)
                names.append(path.stem)
            if names and not dry_run:
                # PostgREST keeps the functions' signatures in memory.
                connection.execute("notify pgrst, 'reload schema'")
            return names
        finally:
            connection.execute("select pg_advisory_unlock(%s)", [_LOCK])


def _execute(connection: psycopg.Connection[tuple[object, ...]], path: Path) -> None:
    import psycopg
    from psycopg import sql

    try:
        connection.execute(sql.SQL(path.read_text()))
    except psycopg.Error:
        # The file's own transaction is still open, and would refuse whatever comes next.
        connection.rollback()
        raise


def _why(error: psycopg.Error) -> str:
    said = " ".join(str(error).split())
    # Only the server's own refusals have a code; before that nobody was reached.
    if error.sqlstate is None:
        return (
            f"The database cannot be reached: {said.rstrip('.?')}. Check DATABASE_URL; where IPv6 "
            "is missing, take the session pooler's string."
        )
    return f"The migration stopped, nothing of that file was applied: {said}"


def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is missing.")] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Apply every file anew: mends rights, functions, policies."),
    ] = False,
) -> None:
    """Bring the database named by DATABASE_URL up to date; running it again does no harm."""
    url = database_url()
    if url is None:
        typer.echo(
            "DATABASE_URL is not set, so no migration was applied. Set it to the project's direct "
            "connection string, or apply sql/migrations with psql or `supabase db push`."
        )
        return
    import psycopg

    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Its message would repeat the address, password and all.
        typer.echo(
            "DATABASE_URL is no connection string: it looks like "
            "postgresql://postgres:PASSWORD@HOST:5432/postgres; copy it from Supabase's dashboard.",
            err=True,
        )
        raise typer.Exit(REFUSED) from None
    try:
        names = apply(url, dry_run=dry_run, again=again)
    except psycopg.Error as error:
        typer.echo(_why(error), err=True)
        raise typer.Exit(FAILED) from error
    if not names:
        typer.echo("The database is up to date.")
    for name in names:
        typer.echo(f"{'missing' if dry_run else 'applied'}: {name}")
