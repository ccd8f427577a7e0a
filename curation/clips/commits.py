"""What a lake keeps in its catalog's database beside Iceberg's own tables: commits, their tags, and sources taken down."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from curation.clips.errors import UnknownSnapshot, WrongCall

TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

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
    sa.Column("run", sa.String, nullable=True),
    sqlite_autoincrement=True,
)
_tags = sa.Table(
    "tags",
    _metadata,
    sa.Column("dataset", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
)
_takedowns = sa.Table(
    "takedowns",
    _metadata,
    sa.Column("source", sa.String, primary_key=True),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One row of `commits`. tables: table name -> Iceberg snapshot id. counts: see curation.ledger.

    measured_by: names the way of measuring (versions of strip, detector and signals); runs that share it measure alike.
    run: the name that the run which wrote it was given, so that whoever asked for it knows its commit; None if it was given none.
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
    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A name for a snapshot of a data set, which expiry keeps."""

    dataset: str
    name: str
    number: int
    created_at: datetime


class CommitLog:
    """The rows of one catalog database. Numbers only grow; a number is never given twice."""

    def __init__(self, engine: sa.Engine):
        self.engine = engine
        _metadata.create_all(engine)
        if "run" not in {column["name"] for column in sa.inspect(engine).get_columns("commits")}:
            self._widen()

    def _widen(self) -> None:
        """A catalog of before runs had names; where two open it at the same moment, one of them adds the column."""
        try:
            with self.engine.begin() as connection:
                connection.execute(sa.text("ALTER TABLE commits ADD COLUMN run VARCHAR"))
        except (sa.exc.OperationalError, sa.exc.ProgrammingError):
            if "run" not in {column["name"] for column in sa.inspect(self.engine).get_columns("commits")}:
                raise

    def commits(self, dataset: str | None = None) -> list[Commit]:
        """Oldest first."""
        query = sa.select(_commits).order_by(_commits.c.number)
        if dataset is not None:
            query = query.where(_commits.c.dataset == dataset)
        with self.engine.connect() as connection:
            return [_commit(row) for row in connection.execute(query)]

    def add(self, row: dict[str, Any]) -> Commit:
        """Insert one commit. Where the database's answer is lost, the row itself tells whether it was inserted."""
        last = self.commits(row["dataset"])[-1:]
        row = row | {"created_at": now()}
        try:
            with self.engine.begin() as connection:
                connection.execute(_commits.insert().values(row))
        except sa.exc.OperationalError:
            self.engine.dispose()  # the failed connection may still see its own row, which nobody else ever will
            found = self.commits(row["dataset"])[-1:]
            if found == last or {k: getattr(found[0], k) for k in row if k != "created_at"} != {
                k: v for k, v in row.items() if k != "created_at"
            }:
                raise
        return self.commits(row["dataset"])[-1]

    def remove(self, numbers: Sequence[int]) -> None:
        with self.engine.begin() as connection:
            connection.execute(_commits.delete().where(_commits.c.number.in_(numbers)))

    def tags(self) -> list[Tag]:
        """By data set and name."""
        with self.engine.connect() as connection:
            rows = [dict(row._mapping) for row in connection.execute(sa.select(_tags).order_by(*_tags.primary_key))]
        return [Tag(**row | {"created_at": datetime.fromisoformat(row["created_at"])}) for row in rows]

    def tag(self, commit: Commit, name: str) -> Tag:
        """Raises `WrongCall` for a name that is taken or no name: a tag never moves."""
        if not TAG_NAME.fullmatch(name):
            raise WrongCall(f"tag {name!r}: a letter, then letters, digits, dot, dash and underscore, at most 64")
        row: dict[str, Any] = {"dataset": commit.dataset, "name": name, "number": commit.number, "created_at": now()}
        try:
            with self.engine.begin() as connection:
                connection.execute(_tags.insert().values(row))
        except sa.exc.IntegrityError as error:
            [old] = [tag for tag in self.tags() if (tag.dataset, tag.name) == (commit.dataset, name)]
            if old.number == commit.number:
                return old
            raise WrongCall(
                f"tag {name} of {commit.dataset} is snapshot {old.number}; a tag never moves, choose another name"
            ) from error
        return Tag(**row | {"created_at": datetime.fromisoformat(row["created_at"])})

    def untag(self, dataset: str, name: str) -> None:
        with self.engine.begin() as connection:
            gone = connection.execute(_tags.delete().where(_tags.c.dataset == dataset, _tags.c.name == name)).rowcount
        if not gone:
            names = ", ".join(tag.name for tag in self.tags() if tag.dataset == dataset) or "none"
            raise UnknownSnapshot(f"no tag {name!r} of {dataset}; there are: {names}")

    def take_down(self, source: str, why: str) -> None:
        """Note a source that must not enter again; saying it twice changes nothing."""
        if source not in self.taken_down():
            with self.engine.begin() as connection:
                connection.execute(_takedowns.insert().values(source=source, why=why, created_at=now()))

    def taken_down(self) -> dict[str, str]:
        """Source -> why. A source is a URI, a video_id or a source_id."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(_takedowns).order_by(_takedowns.c.source))
            return {row.source: row.why for row in rows}


def _commit(row: Any) -> Commit:
    fields = dict(row._mapping)
    return Commit(**fields | {"created_at": datetime.fromisoformat(fields["created_at"])})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
