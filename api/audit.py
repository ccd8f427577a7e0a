"""The audit log: who changed what, when and from where. A line is in the database before the caller hears the answer."""

import time

from sqlalchemy import Engine, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.engine import writing
from api.schema import Base


class AuditEntry(Base):
    """One request that changed something, or was refused to. Ids only grow; time is seconds since 1970."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[float]
    caller: Mapped[str]
    """A token's id, or `loopback`."""
    caller_name: Mapped[str]
    address: Mapped[str]
    method: Mapped[str]
    path: Mapped[str]
    status: Mapped[int]
    trace_id: Mapped[str]


class AuditLog:
    """Appended to and read, never changed."""

    def __init__(self, engine: Engine):
        self.engine = writing(engine)

    def write(
        self, *, caller: str, caller_name: str, address: str, method: str, path: str, status: int, trace_id: str
    ) -> None:
        entry = AuditEntry(
            time=time.time(), caller=caller, caller_name=caller_name, address=address, method=method, path=path[:300],
            status=status, trace_id=trace_id,
        )  # fmt: skip
        with Session(self.engine) as session, session.begin():
            session.add(entry)

    def read(self, before: int | None, limit: int) -> list[AuditEntry]:
        """At most `limit` lines older than the id `before`, the newest first."""
        asked = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
        if before is not None:
            asked = asked.where(AuditEntry.id < before)
        with Session(self.engine, expire_on_commit=False) as session:
            return list(session.scalars(asked))
