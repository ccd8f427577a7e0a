"""Jobs and what happened to them, in SQLite: every change of state is one guarded UPDATE and one event."""

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ForeignKey, Index, create_engine, event, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

STATES = ("submitted", "queued", "running", "committing", "succeeded", "failed", "cancelled")
ENDED = frozenset({"succeeded", "failed", "cancelled"})
ALIVE = ("running", "committing")


class Base(DeclarativeBase):
    """The tables below."""


class Job(Base):
    """One piece of work somebody asked for. Times are seconds since 1970, JSON columns are text."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    request: Mapped[str]
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(index=True)
    cancel_requested: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    executor: Mapped[str | None]
    handle: Mapped[str | None]
    """What finds the work again after a restart: process id and its start time, or Ray's submission id."""
    pid: Mapped[int | None]
    progress: Mapped[str] = mapped_column(default="{}")
    error: Mapped[str | None]
    snapshot: Mapped[int | None]
    first_snapshot: Mapped[int | None]
    """The newest snapshot when the work began: a commit after it is the job's own."""

    @property
    def asked(self) -> dict[str, Any]:
        return json.loads(self.request)


class JobEvent(Base):
    """One thing that happened to a job; ids only grow, so a reader can go on where it stopped."""

    __tablename__ = "job_events"
    __table_args__ = (Index("job_events_by_job", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    time: Mapped[float]
    kind: Mapped[str]
    data: Mapped[str]


class SpecConflict(ValueError):
    """The same idempotency key came with another request."""


def _connect(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 20})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        for line in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {line}")

    Base.metadata.create_all(engine)
    return engine


class JobStore:
    """The two tables behind a few verbs. Safe to use from several threads."""

    def __init__(self, path: Path):
        self.engine = _connect(path)

    def close(self) -> None:
        self.engine.dispose()

    def submit(self, kind: str, request: dict[str, Any], key: str | None = None) -> tuple[Job, bool]:
        """The job and whether it is new. Raises SpecConflict if `key` was used for another request."""
        text = json.dumps(request, sort_keys=True)
        job = Job(
            id=secrets.token_hex(8), kind=kind, request=text, idempotency_key=key, state="submitted", attempts=0,
            created_at=time.time(), progress="{}",
        )  # fmt: skip
        try:
            with self._session() as session, session.begin():
                session.add(job)
                session.flush()
                session.add(_event(job.id, "state", {"state": "submitted"}))
        except IntegrityError:
            with self._session() as session:
                known = session.scalars(select(Job).where(Job.idempotency_key == key)).one()
            if (known.kind, known.request) != (kind, text):
                raise SpecConflict(
                    f"this Idempotency-Key belongs to job {known.id}, which asked for something else"
                ) from None
            return known, False
        return job, True

    def get(self, job_id: str) -> Job | None:
        with self._session() as session:
            return session.get(Job, job_id)

    def jobs(self, states: Sequence[str] = STATES, limit: int = 100, newest_first: bool = True) -> list[Job]:
        order = (Job.created_at.desc(), Job.id.desc()) if newest_first else (Job.created_at, Job.id)
        with self._session() as session:
            return list(session.scalars(select(Job).where(Job.state.in_(states)).order_by(*order).limit(limit)))

    def move(self, job_id: str, state: str, *, only_from: Sequence[str], **fields: Any) -> bool:
        """Change the state if it still is one of `only_from`; say whether it was."""
        assert state in STATES, state
        now = time.time()
        if state == "running":
            fields.setdefault("started_at", now)
        if state in ENDED:
            fields.setdefault("finished_at", now)
        with self._session() as session, session.begin():
            guarded = update(Job).where(Job.id == job_id, Job.state.in_(only_from)).values(state=state, **fields)
            if session.connection().execute(guarded).rowcount != 1:
                return False
            told = {"state": state, **{name: fields[name] for name in ("error", "snapshot") if fields.get(name)}}
            session.add(_event(job_id, "state", told))
        return True

    def note(self, job_id: str, kind: str, data: dict[str, Any], **fields: Any) -> None:
        """Append an event; `fields` change the job's row with it."""
        with self._session() as session, session.begin():
            if fields:
                session.execute(update(Job).where(Job.id == job_id).values(**fields))
            session.add(_event(job_id, kind, data))

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[JobEvent]:
        asked = (
            select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after).order_by(JobEvent.id).limit(limit)
        )
        with self._session() as session:
            return list(session.scalars(asked))

    def _session(self) -> Session:
        return Session(self.engine, expire_on_commit=False)


def _event(job_id: str, kind: str, data: dict[str, Any]) -> JobEvent:
    return JobEvent(job_id=job_id, time=time.time(), kind=kind, data=json.dumps(data))
