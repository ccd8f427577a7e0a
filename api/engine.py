"""The service's database: SQLite in WAL mode, or PostgreSQL by URL; brought to the newest version when it is opened."""

from pathlib import Path
from typing import Any

import alembic.command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import NoSuchModuleError

from curation.clips.database import database_url

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x43494E45  # any number that nobody else takes in this database


def open_database(where: Path | str) -> Engine:
    """An engine for reading and writing. Of SQLite, `writing(engine)` must be used to write. Raises ValueError for a URL."""
    url = make_url(database_url(where))
    if url.drivername == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": 20})
    else:
        try:
            engine = create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
        except (NoSuchModuleError, ModuleNotFoundError):
            raise ValueError("PostgreSQL needs psycopg: pip install 'psycopg[binary]'") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _pragmas)
        event.listen(engine, "begin", _begin)
    migrate(engine)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine and connections; its transactions take SQLite's only write lock at once, not half way through."""
    return engine.execution_options(cinemill_writes=True)


def migrate(engine: Engine) -> None:
    """Take every step that is missing, all or none. Several services may do this at the same time."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with writing(engine).connect() as connection:
        if engine.dialect.name == "sqlite":
            # off before BEGIN: a table that others refer to is replaced
            connection.connection.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                config.attributes["connection"] = connection
                tables = inspect(connection).get_table_names()
                if "jobs" in tables and "alembic_version" not in tables:  # made before there were migrations
                    alembic.command.stamp(config, "0001")
                alembic.command.upgrade(config, "head")
        finally:
            if engine.dialect.name == "sqlite":
                connection.connection.execute("PRAGMA foreign_keys=ON")


def _pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, also around CREATE TABLE
    for line in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {line}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("cinemill_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
