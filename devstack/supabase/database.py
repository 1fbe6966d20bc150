"""Makes a database look like a Supabase project and applies the project's migrations."""

from __future__ import annotations

from pathlib import Path

import psycopg

from devstack.postgres import SUPERUSER, Postgres

BOOTSTRAP = Path(__file__).with_name("bootstrap.sql")
MIGRATIONS = Path(__file__).resolve().parents[2] / "sql" / "migrations"


def bootstrap(postgres: Postgres, database: str) -> None:
    """Add the roles, schemas and publication of a new project."""
    _run(postgres.url(database, user=SUPERUSER), BOOTSTRAP.read_bytes())


def migrate(postgres: Postgres, database: str, directory: Path | None = MIGRATIONS) -> None:
    """Apply all migration files by name, as the role that hosted projects use."""
    for path in sorted(directory.glob("*.sql")) if directory is not None else ():
        try:
            _run(postgres.url(database), path.read_bytes())
        except psycopg.Error as error:
            raise RuntimeError(f"{path.name} failed: {error}") from error


def prepare(postgres: Postgres, database: str, migrations: Path | None = MIGRATIONS) -> str:
    """Create a database like a project's, if it does not exist; return its URL."""
    with psycopg.connect(postgres.url("postgres", user=SUPERUSER), autocommit=True) as connection:
        found = connection.execute(
            "select 1 from pg_database where datname = %s", [database]
        ).fetchone()
    if database == "postgres" or found is None:
        bootstrap(postgres, "postgres")
    if found is None:
        postgres.create_database(database)
    bootstrap(postgres, database)
    migrate(postgres, database, migrations)
    return postgres.url(database)


def _run(url: str, script: bytes) -> None:
    # Without parameters psycopg sends one simple query, which may hold many statements.
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script)
