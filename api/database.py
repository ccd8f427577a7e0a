"""Jobs and what happened to them: every change of state is one guarded UPDATE and one event, in one transaction."""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, or_, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.engine import open_database, writing
from api.schema import ALIVE, ENDED, STATES, TRANSITIONS, WAITING, Job, JobEvent

__all__ = ["ALIVE", "ENDED", "STATES", "Job", "JobEvent", "JobStore", "SpecConflict", "TooManyJobs"]


class SpecConflict(ValueError):
    """The same idempotency key came with another request."""


class TooManyJobs(ValueError):
    """An owner has as many jobs waiting as one may have."""


class JobStore:
    """The two tables behind a few verbs. Safe to use from several threads, and from several services.

    where: a SQLite file, or a database's URL. clock: seconds since 1970.
    """

    def __init__(self, where: Path | str, clock: Callable[[], float] = time.time):
        self.engine = open_database(where)
        self.clock = clock

    def close(self) -> None:
        self.engine.dispose()

    def submit(
        self,
        kind: str,
        request: dict[str, Any],
        key: str | None = None,
        *,
        owner: str = "local",
        priority: int = 0,
        writes: str | None = None,
        max_waiting: int | None = None,
    ) -> tuple[Job, bool]:
        """The job and whether it is new. Raises SpecConflict if `key` was used for another request, TooManyJobs beyond `max_waiting`."""
        words = json.dumps(request, sort_keys=True)
        job = Job(
            id=secrets.token_hex(8), kind=kind, request=words, owner=owner, idempotency_key=key, priority=priority,
            writes=writes, state="submitted", attempts=0, not_before=0.0, created_at=self.clock(), progress="{}",
            progress_offset=0, counters="{}",
        )  # fmt: skip
        try:
            with self._writing() as session, session.begin():
                if key is not None and (known := self._by_key(session, owner, key)):
                    return _same(known, kind, words), False
                if max_waiting is not None:
                    self._hold_owner(session, owner)
                    if self._count(session, owner, WAITING) >= max_waiting:
                        raise TooManyJobs(
                            f"{owner} has {max_waiting} jobs waiting, which is the limit; wait for one, or cancel one"
                        )
                session.add(job)
                session.flush()
                session.add(self._event(job.id, "state", {"state": "submitted"}))
        except IntegrityError:  # the same key at the same moment
            with Session(self.engine, expire_on_commit=False) as session:
                known = self._by_key(session, owner, key)
            assert known is not None
            return _same(known, kind, words), False
        return job, True

    def get(self, job_id: str) -> Job | None:
        with self._reading() as session:
            return session.get(Job, job_id)

    def jobs(
        self,
        states: Sequence[str] = STATES,
        limit: int = 100,
        newest_first: bool = True,
        owner: Sequence[str] | None = None,
        kind: Sequence[str] | None = None,
    ) -> list[Job]:
        order = (Job.created_at.desc(), Job.id.desc()) if newest_first else (Job.created_at, Job.id)
        asked = select(Job).where(Job.state.in_(states))
        if owner is not None:
            asked = asked.where(Job.owner.in_(owner))
        if kind is not None:
            asked = asked.where(Job.kind.in_(kind))
        with self._reading() as session:
            return list(session.scalars(asked.order_by(*order).limit(limit)))

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[JobEvent]:
        asked = (
            select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after).order_by(JobEvent.id).limit(limit)
        )
        with self._reading() as session:
            return list(session.scalars(asked))

    def move(
        self, job_id: str, state: str, *, only_from: Sequence[str], holder: str | None = None, **fields: Any
    ) -> bool:
        """Change the state if it still is one of `only_from`, and `holder` (if given) still has the lease; say whether it was."""
        assert all(state in TRANSITIONS[before] for before in only_from), f"{only_from} -> {state}"
        now = self.clock()
        told = {"state": state} | {
            n: fields[n] for n in ("error", "error_class", "snapshot", "not_before") if fields.get(n)
        }
        if state in ENDED:
            fields.setdefault("finished_at", now)
        if state not in ALIVE:
            fields |= {"lease_owner": None, "lease_until": None}
        guarded = update(Job).where(Job.id == job_id, Job.state.in_(only_from)).values(state=state, **fields)
        if holder is not None:
            guarded = guarded.where(Job.lease_owner == holder)
        with self._writing() as session, session.begin():
            if session.connection().execute(guarded).rowcount != 1:
                return False
            session.add(self._event(job_id, "state", told))
        return True

    def note(
        self, job_id: str, told: Iterable[tuple[str, dict[str, Any]]], *, holder: str | None = None, **fields: Any
    ) -> bool:
        """Append events (kind, data); `fields` change the job's row with them. False, and nothing written, without the lease."""
        with self._writing() as session, session.begin():
            guarded = update(Job).where(Job.id == job_id).values(id=job_id, **fields)
            if holder is not None:
                guarded = guarded.where(Job.lease_owner == holder, Job.state.in_(ALIVE))
            # the row is locked first, so that the ids of a job's events grow in the order in which readers see them
            if session.connection().execute(guarded).rowcount != 1:
                return False
            session.add_all([self._event(job_id, kind, data) for kind, data in told])
        return True

    def request_cancel(self, job_id: str) -> bool:
        """Mark a job that is not over, once; its runner does the rest. False if it is over or was marked before."""
        now = self.clock()
        open_still = (Job.id == job_id, Job.state.not_in(ENDED), Job.cancel_requested.is_(None))
        with self._writing() as session, session.begin():
            if session.connection().execute(update(Job).where(*open_still).values(cancel_requested=now)).rowcount != 1:
                return False
            session.add(self._event(job_id, "cancel", {"requested": True}))
        return True

    # --- what runners do -----------------------------------------------------------------------------------------

    def claim(
        self, holder: str, seconds: float, *, executor: str, place: str, max_per_owner: int | None = None
    ) -> Job | None:
        """The next job in line becomes running, under a lease of so many seconds. None if nothing may run now.

        In line: the highest priority, then the oldest; not before its time, not while another job writes to the same thing, and
        not beyond so many running jobs of one owner.
        """
        left_out: set[str] = set()
        full: set[str] = set()
        while True:
            try:
                with self._writing() as session, session.begin():
                    job = session.scalars(self._next_in_line(left_out, full)).first()
                    if job is None:
                        return None
                    job_id = job.id
                    if max_per_owner is not None:
                        self._hold_owner(session, job.owner)
                        if self._count(session, job.owner, ALIVE) >= max_per_owner:
                            full.add(job.owner)
                            continue
                    now = self.clock()
                    fields = {
                        "state": "running", "attempts": job.attempts + 1, "executor": executor, "place": place, "handle": None,
                        "pid": None, "lease_owner": holder, "lease_until": now + seconds, "heartbeat_at": now,
                        "started_at": job.started_at or now, "progress_offset": 0, "error": None, "error_class": None,
                    }  # fmt: skip
                    guarded = update(Job).where(Job.id == job.id, Job.state == "queued").values(**fields)
                    if session.connection().execute(guarded).rowcount != 1:
                        continue
                    session.add(self._event(job.id, "state", {"state": "running", "attempt": job.attempts + 1}))
                return self.get(job_id)
            except IntegrityError:  # another runner has just begun a job that writes to the same thing
                left_out.add(job_id)

    def _next_in_line(self, left_out: set[str], full: set[str]) -> Select[Job]:
        writing_now = select(Job.writes).where(Job.state.in_(ALIVE), Job.writes.is_not(None))
        return (
            select(Job)
            .where(
                Job.state == "queued",
                Job.not_before <= self.clock(),
                Job.id.not_in(left_out),
                Job.owner.not_in(full),
                or_(Job.writes.is_(None), Job.writes.not_in(writing_now)),
            )
            .order_by(Job.priority.desc(), Job.created_at, Job.id)
            .limit(1)
            .with_for_update(skip_locked=True)  # of PostgreSQL; SQLite has one writer at a time
        )

    def hold(self, holder: str, seconds: float) -> list[Job]:
        """Renew this runner's leases where a third of the time is gone; the jobs it still holds, the oldest first."""
        now = self.clock()
        mine = (Job.lease_owner == holder, Job.state.in_(ALIVE))
        due = select(Job.id).where(*mine, Job.lease_until < now + seconds * 2 / 3)
        with self._reading() as session:
            is_due = session.scalars(due.limit(1)).first() is not None
        if is_due:
            with self._writing() as session, session.begin():
                session.execute(update(Job).where(*mine).values(lease_until=now + seconds, heartbeat_at=now))
        with self._reading() as session:
            return list(session.scalars(select(Job).where(*mine).order_by(Job.created_at, Job.id)))

    def adopt(self, holder: str, seconds: float, place: str) -> list[str]:
        """Take over running work of this place whose lease is over; the ids of those jobs."""
        now = self.clock()
        lapsed = (
            Job.state.in_(ALIVE),
            or_(Job.lease_until.is_(None), Job.lease_until < now),
            or_(Job.place.is_(None), Job.place == place),
        )
        with self._reading() as session:
            found = list(session.scalars(select(Job.id).where(*lapsed)))
        taken = []
        for job_id in found:
            with self._writing() as session, session.begin():
                guarded = update(Job).where(Job.id == job_id, *lapsed)
                lease = {"lease_owner": holder, "lease_until": now + seconds, "heartbeat_at": now, "place": place}
                if session.connection().execute(guarded.values(**lease)).rowcount == 1:
                    session.add(self._event(job_id, "adopted", {}))
                    taken.append(job_id)
        return taken

    def release(self, holder: str) -> None:
        """Give back the leases of a runner that stops: another may adopt the work at once."""
        with self._writing() as session, session.begin():
            session.execute(update(Job).where(Job.lease_owner == holder, Job.state.in_(ALIVE)).values(lease_until=0.0))

    # --- inside --------------------------------------------------------------------------------------------------

    def _by_key(self, session: Session, owner: str, key: str | None) -> Job | None:
        return session.scalars(select(Job).where(Job.owner == owner, Job.idempotency_key == key)).one_or_none()

    def _count(self, session: Session, owner: str, states: Sequence[str]) -> int:
        return session.scalar(select(func.count()).where(Job.owner == owner, Job.state.in_(states))) or 0

    def _hold_owner(self, session: Session, owner: str) -> None:
        """Until the transaction ends, nobody else counts this owner's jobs. SQLite's transactions exclude each other anyway."""
        if self.engine.dialect.name == "postgresql":
            session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:owner))"), {"owner": owner})

    def _reading(self) -> Session:
        return Session(self.engine, expire_on_commit=False)

    def _writing(self) -> Session:
        return Session(writing(self.engine), expire_on_commit=False)

    def _event(self, job_id: str, kind: str, data: dict[str, Any]) -> JobEvent:
        return JobEvent(job_id=job_id, time=self.clock(), kind=kind, data=json.dumps(data))


def _same(known: Job, kind: str, words: str) -> Job:
    if (known.kind, known.request) != (kind, words):
        raise SpecConflict(f"this Idempotency-Key belongs to job {known.id}, which asked for something else")
    return known
