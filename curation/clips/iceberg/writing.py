"""Commits to one Iceberg table that happen once, however often they are tried, and whatever became of the catalog's answer."""

import time
from collections.abc import Callable, Sequence
from typing import cast

import sqlalchemy.exc
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

RUN, BATCHES = "cinemill.run", "cinemill.batches"  # properties of the Iceberg snapshot that a commit leaves
PROPERTIES = {
    "write.parquet.compression-codec": "zstd",
    "write.parquet.compression-level": "1",  # scores hardly shrink; level 3 costs more and saves nothing
    "write.parquet.row-group-limit": "32768",  # rows: what a page of rows looks through in every file
    # a page of rows unpacks what Parquet calls pages: of 2,048 numbers, not of a whole row group
    "write.parquet.page-size-bytes": "16384",
    # a score's values are nearly all different: a dictionary of them is filled, thrown away, and 2/5 of the cost of writing.
    # Its size is looked at every so many rows.
    "write.parquet.dict-size-bytes": "8192",
    "write.parquet.page-row-limit": "1024",
    "write.metadata.previous-versions-max": "20",
    "write.metadata.delete-after-commit.enabled": "true",
}
ATTEMPTS = 5
PAUSE = 0.1  # seconds, doubled from one attempt to the next


def batches_of(table: Table, run: str) -> set[str]:
    """Names of the batches that a run has committed, of the snapshots that the table still holds."""
    found: set[str] = set()
    for snapshot in table.metadata.snapshots:
        summary = snapshot.summary.additional_properties if snapshot.summary else {}
        if summary.get(RUN) == run:
            found |= set(summary[BATCHES].split(","))
    return found


def commit_once(
    load: Callable[[], Table], run: str, batches: Sequence[str], write: Callable[[Table, dict[str, str]], None]
) -> bool:
    """Call `write` with the table and the properties to commit with; False where the batches were committed before.

    A refused commit is tried again on the table as it is then. When the answer was lost, the snapshots tell whether the commit
    happened: its properties name run and batches. A catalog that stays away raises its own error, and trying again later is safe.
    """
    properties = {RUN: run, BATCHES: ",".join(batches)}
    for attempt in range(ATTEMPTS):
        table = load()
        try:
            if set(batches) <= batches_of(table, run):
                return attempt > 0
            write(table, properties)
            return True
        except (CommitFailedException, sqlalchemy.exc.OperationalError):
            if attempt == ATTEMPTS - 1:
                raise
            # a connection whose commit failed may still see its own change, which nobody else ever will
            cast(SqlCatalog, table.catalog).engine.dispose()
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")
