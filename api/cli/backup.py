"""`cinemill backup` and `cinemill restore`: the databases of a service."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.token import DataOption


def backup_command(
    file: Annotated[Path, typer.Argument(help="The tar file to write, e.g. monday.tar.gz.")], data: DataOption = None
) -> None:
    """Copy jobs, tokens, audit log and the lake's catalog into one file; the service may run meanwhile.

    Databases on a server (CINEMILL_CATALOG) and the Parquet files are not in it: use pg_dump, and the store's own copies.
    """
    from api.backup import back_up
    from api.cli.service import read_settings

    print(f"{file}: {', '.join(back_up(read_settings(data=data), file))}")


def restore_command(
    file: Annotated[Path, typer.Argument(help="A file that `cinemill backup` wrote.")], data: DataOption = None
) -> None:
    """Put a backup in place of the databases that are there; stop the service first."""
    from api.backup import restore
    from api.cli.service import read_settings

    settings = read_settings(data=data)
    print(f"restored into {settings.data}: {', '.join(restore(settings, file))}; the old files end in .before-restore")
