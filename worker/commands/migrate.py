"""`migrate`: applies sql/migrations to DATABASE_URL; the only user of a direct connection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.output import FAILED, REFUSED
from worker.runtime.data_files import data_file
from worker.settings import database_url

if TYPE_CHECKING:
    # Imported only where it is used: the daemon does not need its 9 MB of memory.
    import psycopg

_LOCK = 6_030_272_911


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("migrate")(migrate)


def migrations() -> list[Path]:
    """Return the migration files, in order."""
    return sorted(data_file("sql", "migrations").glob("[0-9]*.sql"))


def pending(connection: psycopg.Connection[tuple[object, ...]]) -> list[Path]:
    """Return the files that this database has not recorded as applied."""
    row = connection.execute("select to_regclass('public.video_job_migrations')").fetchone()
    done: set[object] = set()
    if row is not None and row[0] is not None:
        rows = connection.execute("select name from public.video_job_migrations").fetchall()
        done = {name for (name,) in rows}
    return [path for path in migrations() if path.stem not in done]


def apply(url: str, *, dry_run: bool = False, again: bool = False) -> list[str]:
    """Apply the missing files, or all of them again; each file is its own transaction."""
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
                # PostgREST caches the functions' signatures.
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
        # The file's transaction is still open, and would refuse every further statement.
        connection.rollback()
        raise


def _why(error: psycopg.Error) -> str:
    text = " ".join(str(error).split())
    # Only errors of the server have a code; without one there was no connection.
    if error.sqlstate is None:
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
        # Its message would repeat the URL with the password.
        typer.echo(
            "DATABASE_URL is invalid; expected "
            "postgresql://postgres:PASSWORD@HOST:5432/postgres. Copy it from Supabase's dashboard.",
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
