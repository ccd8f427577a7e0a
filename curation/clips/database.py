"""Databases by URL: SQLite, or PostgreSQL by the one driver that is installed."""

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from curation.clips.errors import WrongCall


def database_url(where: Path | str) -> str:
    """A file becomes a URL; of PostgreSQL, the driver is named. Raises `WrongCall` for another database."""
    if isinstance(where, Path):
        return f"sqlite:///{where}"
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        raise WrongCall("database URL: must be postgresql://USER@HOST/NAME or sqlite:///FILE") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("postgresql+psycopg", "sqlite"):
        raise WrongCall(f"database URL: {url.drivername}:// is not known; use postgresql:// or sqlite:///")
    return url.render_as_string(hide_password=False)
