"""The tables of the service's database. `api/migrations` makes them; a change here needs a step there."""

import json
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

STATES = ("submitted", "queued", "running", "committing", "succeeded", "failed", "cancelled")
ENDED = frozenset({"succeeded", "failed", "cancelled"})
ALIVE = ("running", "committing")
WAITING = ("submitted", "queued")
TRANSITIONS = {
    "submitted": {"queued", "cancelled"},
    "queued": {"running", "cancelled"},
    "running": {"committing", "succeeded", "failed", "cancelled", "queued"},  # queued: to be tried again
    "committing": {"succeeded", "failed", "cancelled", "queued"},
    **{state: set[str]() for state in ENDED},
}


class Base(DeclarativeBase):
    """The tables below."""


class Job(Base):
    """One piece of work somebody asked for. Times are seconds since 1970, JSON columns are text."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key", name="jobs_by_key"),
        Index("jobs_in_line", "state", "priority", "created_at"),
        Index(
            "jobs_one_writer", "writes", unique=True, sqlite_where=text("state IN ('running', 'committing')"),
            postgresql_where=text("state IN ('running', 'committing')"),
        ),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    request: Mapped[str]
    owner: Mapped[str] = mapped_column(server_default="local")
    idempotency_key: Mapped[str | None]
    priority: Mapped[int] = mapped_column(server_default="0")
    """The higher goes first; of equals, the older."""
    writes: Mapped[str | None]
    """What the work writes to. Of the jobs that write to one thing, one runs at a time: the database sees to it."""
    state: Mapped[str] = mapped_column(index=True)
    not_before: Mapped[float] = mapped_column(server_default="0")
    """When a job that is to be tried again may run."""
    cancel_requested: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    """When the first attempt began."""
    finished_at: Mapped[float | None]
    executor: Mapped[str | None]
    place: Mapped[str | None]
    """Where that executor works: a machine's state folder, or a Ray cluster. Only runners of the same place can adopt."""
    handle: Mapped[str | None]
    """What finds the work again after a restart: process id and its start time, or Ray's submission id."""
    pid: Mapped[int | None]
    lease_owner: Mapped[str | None]
    """The runner that supervises the work; whoever writes about running work says that it still holds the lease."""
    lease_until: Mapped[float | None]
    heartbeat_at: Mapped[float | None]
    progress: Mapped[str] = mapped_column(default="{}")
    progress_offset: Mapped[int] = mapped_column(server_default="0")
    """How much of the attempt's progress has become events."""
    counters: Mapped[str] = mapped_column(server_default="{}")
    error: Mapped[str | None]
    error_class: Mapped[str | None]
    snapshot: Mapped[int | None]
    result: Mapped[str | None]

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
