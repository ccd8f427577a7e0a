"""Copies of the service's databases while they are in use, and putting them back: jobs, tokens, audit log and catalog."""

import contextlib
import fcntl
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from api.settings import VERSION, Settings
from curation.clips import WrongCall

JOBS = "jobs.db"
CATALOG = "catalog.db"
MANIFEST = "backup.json"


def _databases(settings: Settings) -> dict[str, Path]:
    """Name in the backup -> file. The catalog of a bucket's lake lies in a database server, which has its own backups."""
    found = {JOBS: settings.state_folder / JOBS}
    if settings.data_folder is not None and settings.catalog is None:
        found[CATALOG] = settings.data_folder / CATALOG
    return found


def back_up(settings: Settings, target: Path) -> list[str]:
    """Write a tar file with a consistent copy of each database, and the names of those in it; the service may run.

    Raises WrongCall if there is nothing to copy, or no room for it under that name.
    """
    present = {name: path for name, path in _databases(settings).items() if path.exists()}
    if not present:
        raise WrongCall(f"there is nothing to back up: neither jobs nor a catalog in {settings.data}")
    partial = target.with_name(f"{target.name}.partial")
    try:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(partial, "w:gz") as archive:
            about = {
                "version": VERSION,
                "made_at": datetime.now(UTC).isoformat(),
                "data": settings.data,
                "files": sorted(present),
            }
            text = json.dumps(about).encode()
            entry = tarfile.TarInfo(MANIFEST)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
            # The catalog last: it may then name files of a commit that the jobs do not know of yet, never the reverse.
            for name in sorted(present, reverse=True):
                copy = Path(folder, name)
                _copy(present[name], copy)
                archive.add(copy, name)
        os.chmod(partial, 0o600)  # token hashes and requests lie in it
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WrongCall(f"cannot write {target}: {error.strerror or error}") from None
    return sorted(present)


def restore(settings: Settings, source: Path) -> list[str]:
    """Put the databases of a backup in place of what is there, whose files stay beside them as `*.before-restore`.

    Every copy is checked before the first is moved. Raises WrongCall if the service or a run is going on, or the file is no
    backup.
    """
    places = _databases(settings)
    with contextlib.ExitStack() as held, tempfile.TemporaryDirectory() as folder:
        _hold(settings.state_folder / "service.lock", held)
        if CATALOG in places:
            _hold(places[CATALOG].with_suffix(".committer"), held)
        names = _unpack(source, Path(folder))
        for name in names:
            if name not in places:
                raise WrongCall(f"{source} has {name}, which this lake keeps elsewhere; see CINEMILL_CATALOG")
            _check(Path(folder, name), source)
        for name in names:
            _put(Path(folder, name), places[name])
    return names


def _copy(source: Path, target: Path) -> None:
    """SQLite's own backup: one moment of a database that others write to."""
    with contextlib.closing(sqlite3.connect(source)) as read, contextlib.closing(sqlite3.connect(target)) as written:
        read.backup(written)


def _hold(lock: Path, held: contextlib.ExitStack) -> None:
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = held.enter_context(lock.open("a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WrongCall(f"{lock} is held: stop the service and wait for runs before restoring") from None


def _unpack(source: Path, folder: Path) -> list[str]:
    """Only the files we write, whatever else the archive names."""
    try:
        with tarfile.open(source, "r:gz") as archive:
            members = {member.name: member for member in archive.getmembers() if member.isfile()}
            if MANIFEST not in members:
                raise WrongCall(f"{source} is no backup of Cinemill: it has no {MANIFEST}")
            names = sorted(name for name in (JOBS, CATALOG) if name in members)
            for name in names:
                archive.extract(members[name], folder, filter="data")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise WrongCall(f"cannot read {source}: {error}") from None
    return names


def _check(copy: Path, source: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(copy)) as database:
            (said,) = database.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        raise WrongCall(f"{copy.name} in {source} is damaged ({said}); nothing was changed")


def _put(copy: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        _copy(place, place.with_name(f"{place.name}.before-restore"))
    for leftover in ("-wal", "-shm"):  # they belong to the database that goes
        place.with_name(place.name + leftover).unlink(missing_ok=True)
    partial = place.with_name(f"{place.name}.partial")
    partial.write_bytes(copy.read_bytes())
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, place)
