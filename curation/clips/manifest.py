"""Lakes and commits: immutable Parquet by Iceberg, committed whole by one committer, read by anything.

A lake holds five tables (schema.py) and many data sets. The last act of a run is one row in `commits`; its number is the snapshot.
What has no row there does not exist for readers.
"""

import contextlib
import json
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, EqualTo, In
from pyiceberg.table import Table

from curation.clips import statistics
from curation.clips.commits import Commit, CommitLog, Tag
from curation.clips.committer import committer
from curation.clips.database import database_url
from curation.clips.errors import UnknownSnapshot, WrongCall
from curation.clips.iceberg.writing import PROPERTIES, batches_of, commit_once
from curation.clips.schema import TABLES, arrow_schema
from curation.clips.snapshot import Snapshot, narrow
from curation.clips.storage import copy, exists, is_local, join, local_path, normalise

NAMESPACE = "cinemill"
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SORTED_BY = {"videos": "uri"}  # all others: clip_id; a page of rows or one clip is then in few row groups


class Lake:
    """An output folder or bucket: tables, strips, and the catalog that says which files belong to which snapshot."""

    def __init__(self, uri: str, catalog: str | None = None):
        self.uri = normalise(uri)
        if catalog is None and not is_local(self.uri):
            raise WrongCall(
                f"{uri} is a bucket: its catalog needs a database, e.g. --catalog postgresql://... or sqlite:///..."
            )
        self.has_own_catalog = catalog is None
        self.catalog_uri = database_url(local_path(self.uri) / "catalog.db" if catalog is None else catalog)

    @staticmethod
    def exists(uri: str, catalog: str | None = None) -> bool:
        """Whether there is anything to open; of a catalog elsewhere only the database knows."""
        return catalog is not None or not is_local(uri) or (local_path(uri) / "catalog.db").exists()

    @cached_property
    def log(self) -> CommitLog:
        """Commits, tags and takedowns. Raises `WrongCall` where their database does not answer."""
        try:
            return CommitLog(sa.create_engine(self.catalog_uri))
        except sa.exc.OperationalError as error:
            where = sa.make_url(self.catalog_uri).render_as_string(hide_password=True)
            raise WrongCall(
                f"the catalog {where} does not answer: {str(error.orig).strip().splitlines()[0]}"
            ) from error

    @cached_property
    def _catalog(self) -> SqlCatalog:
        warehouse = join(self.uri, "tables")
        catalog = SqlCatalog(
            NAMESPACE,
            **{
                "uri": self.catalog_uri,
                "warehouse": f"file://{warehouse}" if is_local(self.uri) else warehouse,
                "py-io-impl": "curation.clips.iceberg.files.LakeFiles",
            },
        )
        catalog.create_namespace_if_not_exists(NAMESPACE)
        return catalog

    def create(self) -> None:
        """Make the folder and the catalog. Raises `WrongCall` where that is not possible."""
        if is_local(self.uri):
            try:
                local_path(self.uri).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise WrongCall(f"cannot make {self.uri}: {error.strerror}; choose another --out") from error
        _ = self.log
        for name in TABLES:
            table = self.iceberg(name)
            if table is not None and not is_local(self.uri) and not table.location().startswith(f"{self.uri}/"):
                raise WrongCall(
                    f"the catalog belongs to a lake whose tables lie at {table.location()}, not in {self.uri}; "
                    "take a database of its own for each lake"
                )

    # --- reading -------------------------------------------------------------------------------------------------

    def commits(self, dataset: str | None = None) -> list[Commit]:
        """All commits, oldest first."""
        return self.log.commits(dataset) if not self.has_own_catalog or Lake.exists(self.uri) else []

    def datasets(self) -> list[str]:
        return sorted({commit.dataset for commit in self.commits()})

    def snapshot(self, dataset: str | None = None, number: int | str | None = None) -> Snapshot:
        """A snapshot by its number or tag, by default the newest. Raises `UnknownSnapshot` with what there is instead."""
        commits = self.commits()
        if not commits:
            raise UnknownSnapshot(f"{self.uri} holds no snapshot: no run has committed there yet")
        names = sorted({commit.dataset for commit in commits})
        if dataset is None and not isinstance(number, int) and len(names) > 1:
            raise UnknownSnapshot(
                f"{self.uri} holds several data sets; name one: {', '.join(f'{self.uri}#{n}' for n in names)}"
            )
        if dataset is not None and dataset not in names:
            raise UnknownSnapshot(f"no data set {dataset!r} in {self.uri}; there are {', '.join(names)}")
        if isinstance(number, str):
            tags = {tag.name: tag.number for tag in self.log.tags() if tag.dataset == (dataset or names[0])}
            if number not in tags:
                raise UnknownSnapshot(f"no tag {number!r} in {self.uri}; there are: {', '.join(tags) or 'none'}")
            number = tags[number]
        found = [c for c in commits if dataset in (None, c.dataset) and number in (None, c.number)]
        if not found:
            numbers = ", ".join(str(c.number) for c in commits if dataset in (None, c.dataset))
            raise UnknownSnapshot(
                f"no snapshot {number} of {dataset or 'any data set'} in {self.uri}; there are {numbers}"
            )
        return Snapshot(self, found[-1])

    def tag(self, snapshot: Snapshot, name: str) -> Tag:
        """Give a snapshot a name, URI#DATASET@NAME, which keeps it from expiry. Raises `WrongCall` for a name that is taken."""
        return self.log.tag(snapshot.commit, name)

    def iceberg(self, table: str) -> Table | None:
        """An Iceberg table as it is now; None before anything was written to it."""
        try:
            return self._catalog.load_table((NAMESPACE, table))
        except NoSuchTableError:
            return None

    def head(
        self, table: str, columns: Sequence[str] | None = None, where: tuple[str, Sequence[str]] | None = None
    ) -> pa.Table:
        """Rows of a table as last written, committed or not: what a run continues from. Readers use snapshots.

        where: (column, values): only rows whose column is one of the values.
        """
        iceberg = self.iceberg(table)
        if iceberg is None:
            schema = arrow_schema(TABLES[table])
            return schema.empty_table().select(list(columns)) if columns else schema.empty_table()
        condition: Any = AlwaysTrue() if where is None else one_of(*where)
        known = {field.name for field in iceberg.schema().fields}
        wanted = tuple(name for name in columns if name in known) if columns else ("*",)
        return narrow(iceberg.scan(row_filter=condition, selected_fields=wanted).to_arrow())

    # --- writing: one committer ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def committer(self, wait: float = 0.0) -> Iterator["Lake"]:
        """Hold the lake for writing. Raises `WrongCall` where another still holds it after `wait` seconds."""
        with committer(self.uri, self.log.engine, wait):
            yield self

    def append(self, table: str, rows: pa.Table, batch: tuple[str, str] | None = None) -> bool:
        """Add rows; new columns widen the table, and a table that is not there yet is made even for no rows.

        batch: (run, name): a batch that was committed before is not added again, and False is returned.
        """
        self._table(table, rows.schema)
        if not rows.num_rows:
            return True
        run, name = batch or (str(uuid.uuid4()), "0")
        ordered = sorted_by(rows, SORTED_BY.get(table, "clip_id"))
        return commit_once(
            lambda: self._table(table, rows.schema), run, [name], lambda t, properties: t.append(ordered, properties)
        )

    def register(self, table: str, run: str, files: Mapping[str, str], schema: pa.Schema) -> int:
        """Add Parquet files that workers have written, as they are: batch name -> URI. Returns how many were new.

        The committer reads their footers alone. Files are copied into the table first, under a name by run and batch, so whatever
        a killed attempt left is overwritten by the next one. schema: of the files, all alike.
        """
        iceberg = self._table(table, schema)
        new = {name: uri for name, uri in files.items() if name not in batches_of(iceberg, run)}
        if not new:
            return 0
        placed = {}
        for name, uri in sorted(new.items()):
            placed[name] = join(iceberg.location(), "data", f"{run}-{name}.parquet")
            copy(uri, placed[name])
        commit_once(
            lambda: self._table(table, schema),
            run,
            sorted(new),
            lambda t, properties: t.add_files(list(placed.values()), properties),
        )
        return len(new)

    def replace(self, table: str, key: str, rows: pa.Table) -> None:
        """Rows with the same `key` give way to these, by copy on write: older snapshots keep theirs.

        The decisions of a data set are written as one, so their files hold no other's and go as a whole (no partition needed,
        whose folder names pandas would read as a second column).
        """
        if rows.num_rows:
            values = rows[key].unique().to_pylist()
            ordered = sorted_by(rows, SORTED_BY.get(table, "clip_id"))

            def overwrite(iceberg: Table, properties: dict[str, str]) -> None:
                with warnings.catch_warnings(action="ignore", category=UserWarning):  # "matched no records" is no news
                    iceberg.overwrite(ordered, one_of(key, values), properties)

            commit_once(lambda: self._table(table, rows.schema), str(uuid.uuid4()), ["0"], overwrite)

    def delete(self, table: str, key: str, values: Sequence[str]) -> None:
        """Rows whose `key` is one of the values leave the table, by copy on write: older snapshots keep theirs until they expire."""
        if self.iceberg(table) is not None and values:
            schema = arrow_schema(TABLES[table])

            def remove(iceberg: Table, properties: dict[str, str]) -> None:
                with warnings.catch_warnings(action="ignore", category=UserWarning):
                    iceberg.delete(one_of(key, values), properties)

            commit_once(lambda: self._table(table, schema), str(uuid.uuid4()), ["0"], remove)

    def _table(self, name: str, schema: pa.Schema) -> Table:
        table = self.iceberg(name)
        if table is None:
            return self._catalog.create_table((NAMESPACE, name), schema=schema, properties=PROPERTIES)
        known = {field.name for field in table.schema().fields}
        if set(schema.names) - known:
            with table.update_schema() as update:
                update.union_by_name(schema)
        return table

    def commit(
        self,
        dataset: str,
        *,
        recipe_hash: str,
        recipe: dict[str, Any],
        code_version: str,
        counts: dict[str, int],
        measured_by: str,
        run: str | None = None,
    ) -> Commit:
        """The last act of a run: its statistics, then one row that makes everything written so far a snapshot."""
        tables = {}
        for name in TABLES:
            iceberg = self.iceberg(name)
            current = None if iceberg is None else iceberg.current_snapshot()
            if current is not None:
                tables[name] = current.snapshot_id
        row: dict[str, Any] = {
            "dataset": dataset,
            "recipe_hash": recipe_hash,
            "recipe": recipe,
            "code_version": code_version,
            "tables": tables,
            "counts": counts,
            "measured_by": measured_by,
            "run": run,
        }
        if "decisions" in tables:
            draft = Snapshot(self, Commit(number=0, created_at=datetime.now(UTC), **row))
            statistics.write(self.uri, draft.statistics_key, draft.scanned_statistics())
        return self.log.add(row)


def sorted_by(rows: pa.Table, column: str) -> pa.Table:
    """Rows in the order of a text column. Texts of one length, as identities are, are sorted by numpy: a third of Arrow's time."""
    texts = rows[column].combine_chunks()
    ends = pc.min_max(pc.binary_length(texts)).as_py()
    if texts.null_count or not ends["min"] or ends["min"] != ends["max"]:
        return rows.sort_by(column)
    fixed = texts.cast(pa.binary()).cast(pa.binary(ends["min"]))
    letters = np.frombuffer(fixed.buffers()[1], f"S{ends['min']}", len(fixed), fixed.offset * ends["min"])
    return rows.take(np.argsort(letters, kind="stable"))


def one_of(column: str, values: Sequence[str]) -> BooleanExpression:
    """The condition that a column is one of some values."""
    if len(values) == 1:
        return EqualTo(column, values[0])  # type: ignore[call-arg, arg-type]  # its own factory, which mypy does not see
    return In(column, list(values))  # type: ignore[call-arg, arg-type]


def open_snapshot(name: str, catalog: str | None = None) -> Snapshot:
    """A snapshot by its name: URI (its only data set), URI#DATASET (newest), URI#DATASET@NUMBER, or URI#DATASET@TAG."""
    uri, _, rest = name.partition("#")
    dataset, _, which = rest.partition("@")
    if not exists(uri) or not Lake.exists(uri, catalog):
        raise UnknownSnapshot(f"{uri} is not a lake: no catalog there; `cinemill curate ... --out {uri}` makes one")
    return Lake(uri, catalog).snapshot(dataset or None, int(which) if which.isdigit() else which or None)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same value always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
