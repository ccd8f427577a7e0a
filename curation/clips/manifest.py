"""Lakes, commits and snapshots: immutable Parquet by Iceberg, committed whole by one committer, read by anything.

A lake holds five tables (schema.py) and many data sets. The last act of a run is one row in `commits`; its number is the snapshot.
What has no row there does not exist for readers.
"""

import contextlib
import fcntl
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, EqualTo, In
from pyiceberg.table import Table

from curation.clips.errors import UnknownSnapshot, WrongCall
from curation.clips.schema import LEDGER, TABLES, arrow_schema
from curation.clips.storage import exists, is_local, join, local_path, normalise

NAMESPACE = "cinemill"
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_metadata = sa.MetaData()
_commits = sa.Table(
    "commits",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String, nullable=False, index=True),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("recipe_hash", sa.String, nullable=False),
    sa.Column("recipe", sa.JSON, nullable=False),
    sa.Column("code_version", sa.String, nullable=False),
    sa.Column("tables", sa.JSON, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("measured_by", sa.String, nullable=False),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One row of `commits`. tables: table name -> Iceberg snapshot id. counts: see curation.ledger.

    measured_by: names the way of measuring (versions of strip, detector and signals); runs that share it measure alike.
    """

    number: int
    dataset: str
    created_at: datetime
    recipe_hash: str
    recipe: dict[str, Any]
    code_version: str
    tables: dict[str, int]
    counts: dict[str, int]
    measured_by: str


class Lake:
    """An output folder or bucket: tables, strips, and the catalog that says which files belong to which snapshot."""

    def __init__(self, uri: str, catalog: str | None = None):
        self.uri = normalise(uri)
        if catalog is None:
            if not is_local(self.uri):
                raise WrongCall(
                    f"{uri} is a bucket: its catalog needs a database, e.g. --catalog postgresql://... or sqlite:///..."
                )
            catalog = f"sqlite:///{local_path(self.uri) / 'catalog.db'}"
        self.catalog_uri = catalog

    @staticmethod
    def exists(uri: str) -> bool:
        return not is_local(uri) or (local_path(uri) / "catalog.db").exists()

    @cached_property
    def _engine(self) -> sa.Engine:
        engine = sa.create_engine(self.catalog_uri)
        _metadata.create_all(engine)
        return engine

    @cached_property
    def _catalog(self) -> SqlCatalog:
        warehouse = join(self.uri, "tables")
        catalog = SqlCatalog(
            NAMESPACE,
            **{
                "uri": self.catalog_uri,
                "warehouse": f"file://{warehouse}" if is_local(self.uri) else warehouse,
                "py-io-impl": "curation.clips.lake_files.LakeFiles",
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
        _ = self._engine, self._catalog

    # --- reading -------------------------------------------------------------------------------------------------

    def commits(self, dataset: str | None = None) -> list[Commit]:
        """All commits, oldest first."""
        if not Lake.exists(self.uri):
            return []
        query = sa.select(_commits).order_by(_commits.c.number)
        if dataset is not None:
            query = query.where(_commits.c.dataset == dataset)
        with self._engine.connect() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return [Commit(**row | {"created_at": datetime.fromisoformat(row["created_at"])}) for row in rows]

    def datasets(self) -> list[str]:
        return sorted({commit.dataset for commit in self.commits()})

    def snapshot(self, dataset: str | None = None, number: int | None = None) -> "Snapshot":
        """A snapshot, by default the newest. Raises `UnknownSnapshot` with what there is instead."""
        commits = self.commits()
        if not commits:
            raise UnknownSnapshot(f"{self.uri} holds no snapshot: no run has committed there yet")
        names = sorted({commit.dataset for commit in commits})
        if dataset is None and number is None and len(names) > 1:
            raise UnknownSnapshot(
                f"{self.uri} holds several data sets; name one: {', '.join(f'{self.uri}#{n}' for n in names)}"
            )
        if dataset is not None and dataset not in names:
            raise UnknownSnapshot(f"no data set {dataset!r} in {self.uri}; there are {', '.join(names)}")
        found = [c for c in commits if dataset in (None, c.dataset) and number in (None, c.number)]
        if not found:
            numbers = ", ".join(str(c.number) for c in commits if dataset in (None, c.dataset))
            raise UnknownSnapshot(
                f"no snapshot {number} of {dataset or 'any data set'} in {self.uri}; there are {numbers}"
            )
        return Snapshot(self, found[-1])

    def head(
        self, table: str, columns: Sequence[str] | None = None, where: tuple[str, Sequence[str]] | None = None
    ) -> pa.Table:
        """Rows of a table as last written, committed or not: what a run continues from. Readers use snapshots.

        where: (column, values): only rows whose column is one of the values.
        """
        try:
            iceberg = self._catalog.load_table((NAMESPACE, table))
        except NoSuchTableError:
            schema = arrow_schema(TABLES[table])
            return schema.empty_table().select(list(columns)) if columns else schema.empty_table()
        condition: Any = AlwaysTrue() if where is None else _one_of(*where)
        known = {field.name for field in iceberg.schema().fields}
        wanted = tuple(name for name in columns if name in known) if columns else ("*",)
        return _narrow(iceberg.scan(row_filter=condition, selected_fields=wanted).to_arrow())

    # --- writing: one committer ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def committer(self) -> Iterator["Lake"]:
        """Hold the lake for writing. A second committer of a local lake gets a `WrongCall` at once."""
        if not is_local(self.uri):
            yield self  # Iceberg's optimistic commits refuse the later of two
            return
        with open(local_path(self.uri) / ".committer", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WrongCall(
                    f"another run is writing to {self.uri}; wait for it, or choose another --out"
                ) from error
            yield self

    def append(self, table: str, rows: pa.Table) -> None:
        """Add rows; new columns widen the table, and a table that is not there yet is made even for no rows."""
        iceberg = self._table(table, rows.schema)
        if rows.num_rows:
            iceberg.append(rows)

    def replace(self, table: str, key: str, rows: pa.Table) -> None:
        """Rows with the same `key` give way to these, by copy on write: older snapshots keep theirs.

        The decisions of a data set are written as one, so their files hold no other's and go as a whole (no partition needed,
        whose folder names pandas would read as a second column).
        """
        if rows.num_rows:
            values = rows[key].unique().to_pylist()
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # "matched no records" is no news
                self._table(table, rows.schema).overwrite(rows, _one_of(key, values))

    def _table(self, name: str, schema: pa.Schema) -> Table:
        try:
            table = self._catalog.load_table((NAMESPACE, name))
        except NoSuchTableError:
            properties = {"write.parquet.compression-codec": "zstd", "write.metadata.previous-versions-max": "20"}
            return self._catalog.create_table((NAMESPACE, name), schema=schema, properties=properties)
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
    ) -> Commit:
        """The last act of a run: one row that makes everything written so far a snapshot."""
        tables = {}
        for name in TABLES:
            with contextlib.suppress(NoSuchTableError):
                current = self._catalog.load_table((NAMESPACE, name)).current_snapshot()
                if current is not None:
                    tables[name] = current.snapshot_id
        row = {
            "dataset": dataset,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe_hash": recipe_hash,
            "recipe": recipe,
            "code_version": code_version,
            "tables": tables,
            "counts": counts,
            "measured_by": measured_by,
        }
        with self._engine.begin() as connection:
            connection.execute(_commits.insert().values(row))
        return self.commits(dataset)[-1]


class Snapshot:
    """A data set as one commit left it. Nothing in it ever changes."""

    def __init__(self, lake: Lake, commit: Commit):
        self.lake = lake
        self.commit = commit

    @property
    def number(self) -> int:
        return self.commit.number

    @property
    def dataset(self) -> str:
        return self.commit.dataset

    @property
    def name(self) -> str:
        """URI#DATASET@NUMBER, what every command takes."""
        return f"{self.lake.uri}#{self.dataset}@{self.number}"

    def __repr__(self) -> str:
        return f"Snapshot({self.name})"

    def _scan(self, table: str, columns: Sequence[str] | None = None) -> Any:
        if table not in TABLES:
            raise WrongCall(f"unknown table {table!r}; there are {', '.join(TABLES)} and the view ledger")
        if table not in self.commit.tables:
            return None
        iceberg = self.lake._catalog.load_table((NAMESPACE, table))
        known = {field.name for field in iceberg.schema().fields}
        missing = set(columns or ()) - known
        if missing:
            raise WrongCall(f"table {table} has no column {sorted(missing)[0]!r}; it has {', '.join(sorted(known))}")
        condition = _one_of("dataset", [self.dataset]) if table == "decisions" else AlwaysTrue()
        wanted = tuple(columns) if columns else ("*",)
        return iceberg.scan(row_filter=condition, snapshot_id=self.commit.tables[table], selected_fields=wanted)

    def files(self, table: str) -> list[str]:
        """Exactly the Parquet files of a table in this snapshot: local paths, or URIs in a bucket."""
        scan = self._scan(table)
        return [] if scan is None else sorted(task.file.file_path.removeprefix("file://") for task in scan.plan_files())

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """This data set's rows of a table, or of the view `ledger`."""
        if name == "ledger":
            ledger = self.ledger()
            return ledger.select(list(columns)) if columns else ledger
        if name == "decisions":
            return self._rows(name, columns)
        key = "uri" if name == "videos" else "clip_id"
        rows = self._rows(name, None if columns is None else list(dict.fromkeys([*columns, key])))
        mine = self._rows("decisions", [key]).column(key).drop_null().unique()
        with duckdb.connect() as db:
            db.register("rows", rows)
            db.register("mine", pa.table({key: mine}))
            kept = db.sql(
                f'SELECT rows.* FROM rows SEMI JOIN mine USING ("{key}") ORDER BY rows."{key}"'
            ).to_arrow_table()
        return kept.select(list(columns)) if columns else kept

    def _rows(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        scan = self._scan(name, columns)
        if scan is None:
            empty = arrow_schema(TABLES[name]).empty_table()
            return empty.select(list(columns)) if columns else empty
        return _narrow(scan.to_arrow())

    def ledger(self) -> pa.Table:
        """What became of everything that entered: one row per video, and one per clip."""
        names = ", ".join(f"{'v' if c.name == 'damaged' else 'c' if c.name in SPAN else 'd'}.{c.name}" for c in LEDGER)
        with duckdb.connect() as db:
            db.register("d", self._rows("decisions"))
            db.register("c", self._rows("clips", ["clip_id", *SPAN]))
            db.register("v", self._rows("videos", ["uri", "video_id", "damaged"]))
            return db.sql(
                f"SELECT {names} FROM d LEFT JOIN c USING (clip_id) LEFT JOIN v ON d.uri = v.uri AND d.video_id = v.video_id "
                "ORDER BY d.kind DESC, d.uri, c.start_seconds, d.clip_id"
            ).to_arrow_table()

    def kept_clips(self) -> pa.Table:
        """What training reads: one row per kept clip, by clip_id, with span, size, crop box, caption and held-out split."""
        with duckdb.connect() as db:
            db.register("d", self._rows("decisions"))
            db.register("c", self.table("clips"))
            db.register("k", self.table("captions"))
            return db.sql(
                "SELECT c.clip_id, c.video_id, d.uri, c.stream_index, c.start_pts, c.end_pts, c.time_base_numerator, "
                "c.time_base_denominator, c.start_seconds, c.end_seconds, c.width, c.height, c.fps, c.num_frames, "
                "k.caption, k.camera_motion, d.split, d.duplicate_group, c.has_sound, "
                "coalesce(c.crop_left, 0)::BIGINT AS crop_left, coalesce(c.crop_top, 0)::BIGINT AS crop_top, "
                "coalesce(c.crop_width, c.width)::BIGINT AS crop_width, coalesce(c.crop_height, c.height)::BIGINT AS crop_height "
                "FROM d JOIN c USING (clip_id) LEFT JOIN k USING (clip_id) WHERE d.kind = 'clip' AND d.fate = 'kept' ORDER BY c.clip_id"
            ).to_arrow_table()


SPAN = ("start_seconds", "end_seconds")


def _one_of(column: str, values: Sequence[str]) -> BooleanExpression:
    if len(values) == 1:
        return EqualTo(column, values[0])  # type: ignore[call-arg, arg-type]  # its own factory, which mypy does not see
    return In(column, list(values))  # type: ignore[call-arg, arg-type]


def _narrow(table: pa.Table) -> pa.Table:
    """Iceberg reads text as large_string; every reader of ours gets string."""
    fields = []
    for item in table.schema:
        kind = item.type
        if pa.types.is_large_string(kind):
            kind = pa.string()
        elif pa.types.is_large_list(kind) or pa.types.is_list(kind):
            inner = kind.value_type
            kind = pa.list_(pa.string() if pa.types.is_large_string(inner) else inner)
        fields.append(pa.field(item.name, kind))
    return table.cast(pa.schema(fields))


def open_snapshot(name: str, catalog: str | None = None) -> Snapshot:
    """A snapshot by its name: URI (its only data set), URI#DATASET (newest), or URI#DATASET@NUMBER."""
    uri, _, rest = name.partition("#")
    dataset, _, number = rest.partition("@")
    if number and not number.isdigit():
        raise UnknownSnapshot(f"snapshot {number!r} in {name!r} is not a number; a name is URI#DATASET@NUMBER")
    if not exists(uri) or not Lake.exists(uri):
        raise UnknownSnapshot(f"{uri} is not a lake: no catalog there; `cinemill curate ... --out {uri}` makes one")
    return Lake(uri, catalog).snapshot(dataset or None, int(number) if number else None)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same value always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
