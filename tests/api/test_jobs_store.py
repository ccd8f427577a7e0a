"""The job store on SQLite and on a real PostgreSQL: versions, leases, limits, keys, and many runners at once."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from api.database import JobStore, SpecConflict, TooManyJobs
from api.schema import Base
from curation.clips.database import database_url

BEFORE_MIGRATIONS = """
CREATE TABLE jobs (id VARCHAR NOT NULL, kind VARCHAR NOT NULL, request VARCHAR NOT NULL, idempotency_key VARCHAR, state VARCHAR NOT NULL,
    cancel_requested FLOAT, attempts INTEGER NOT NULL, created_at FLOAT NOT NULL, started_at FLOAT, finished_at FLOAT, executor VARCHAR,
    handle VARCHAR, pid INTEGER, progress VARCHAR NOT NULL, error VARCHAR, snapshot INTEGER, first_snapshot INTEGER,
    PRIMARY KEY (id), UNIQUE (idempotency_key));
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE TABLE job_events (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, job_id VARCHAR NOT NULL, time FLOAT NOT NULL,
    kind VARCHAR NOT NULL, data VARCHAR NOT NULL, FOREIGN KEY(job_id) REFERENCES jobs (id));
CREATE INDEX job_events_by_job ON job_events (job_id, id);
INSERT INTO jobs VALUES ('a1', 'curate', '{"sources": ["/x"], "recipe": "demo", "dataset": null, "limit": null}', 'k', 'running', NULL, 1,
    1.0, 2.0, NULL, 'local', '1:1', 1, '{}', NULL, NULL, 0);
INSERT INTO jobs VALUES ('a2', 'curate', '{}', NULL, 'failed', NULL, 1, 1.0, 2.0, 3.0, 'local', '1:1', 1, '{}', 'no', NULL, 0);
INSERT INTO job_events VALUES (7, 'a1', 1.5, 'state', '{"state": "running"}');
"""
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
CLAIM: dict[str, Any] = {"executor": "local", "place": "p"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., JobStore]]:
    """Opens stores on one database; everything in it is gone afterwards."""
    where: Path | str = tmp_path / "jobs.db"
    if request.param == "postgresql":
        where = request.getfixturevalue("postgres")
    opened = []

    def open_one(**more: Any) -> JobStore:
        opened.append(JobStore(where, **more))
        return opened[-1]

    yield open_one
    for store in opened[1:]:
        store.close()
    if request.param == "postgresql":
        with opened[0].engine.begin() as connection:
            connection.execute(text("DROP TABLE job_events, jobs, alembic_version"))
    opened[0].close()


def queued(store: JobStore, **more: Any) -> str:
    job, _ = store.submit("curate", {"n": more.pop("n", 0)}, more.pop("key", None), **more)
    assert store.move(job.id, "queued", only_from=("submitted",))
    return job.id


def test_a_database_of_the_first_services_is_upgraded_with_its_jobs(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    connection = sqlite3.connect(file)
    connection.executescript(BEFORE_MIGRATIONS)
    connection.close()
    for _ in range(2):  # a second start changes nothing
        store = JobStore(file)
        job = store.get("a1")
        assert job is not None and (job.owner, job.priority, job.state, job.handle) == ("local", 0, "running", "1:1")
        assert [(event.id, event.kind) for event in store.events("a1")] == [(7, "state")]
        store.close()
    store = JobStore(file)
    assert store.adopt("new", 10.0, "p") == ["a1"], "work that runs is adopted"
    with pytest.raises(SpecConflict):
        store.submit("curate", {"other": 1}, "k")
    assert store.submit("curate", {"other": 1}, "k", owner="bob")[1], "a key belongs to its owner"
    with store.engine.connect() as connected:
        assert connected.execute(text("PRAGMA foreign_key_check")).all() == []
        assert connected.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connected.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    store.close()


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    connection = sqlite3.connect(file)
    connection.executescript(
        BEFORE_MIGRATIONS + "CREATE INDEX jobs_one_writer ON jobs (id);"
    )  # the last step will trip over it
    before = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    with pytest.raises(Exception, match="jobs_one_writer"):
        JobStore(file)
    assert connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall() == before
    connection.execute("DROP INDEX jobs_one_writer")
    connection.commit()
    connection.close()
    JobStore(file).close()


def test_the_migrations_make_the_tables_that_the_code_describes(open_store: Any) -> None:
    store = open_store()
    kinds = {"compare_type": store.engine.dialect.name == "postgresql"}  # SQLite has FLOAT and REAL for the same
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=kinds), Base.metadata) == []


def test_services_that_start_together_migrate_once(open_store: Any) -> None:
    stores: list[JobStore] = []
    threads = [threading.Thread(target=lambda: stores.append(open_store())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4 and stores[0].submit("curate", {})[1]


def test_a_key_makes_one_job_however_many_ask_at_once(open_store: Any) -> None:
    stores = [open_store(), open_store()]
    found: list[tuple[str, bool]] = []

    def ask(store: JobStore) -> None:
        for number in range(10):
            job, is_new = store.submit("curate", {"n": number}, f"key {number}")
            found.append((job.id, is_new))

    threads = [threading.Thread(target=ask, args=(store,)) for store in stores for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40 and len({job_id for job_id, _ in found}) == 10 and sum(is_new for _, is_new in found) == 10


def test_many_runners_claim_every_job_once_and_keep_the_limits(open_store: Any) -> None:
    """Limits are counted by the claims themselves: no job ends here, so at most two of an owner run, one of each thing written."""
    stores = [open_store() for _ in range(4)]
    for number in range(24):
        queued(stores[0], n=number, owner="abc"[number % 3], writes=("lake", None)[number % 2])
    claimed: list[Any] = []
    start = threading.Barrier(len(stores))

    def take(store: JobStore, holder: str) -> None:
        start.wait()
        while job := store.claim(holder, 60.0, max_per_owner=2, **CLAIM):
            claimed.append(job)

    threads = [threading.Thread(target=take, args=(store, f"r{i}")) for i, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job in claimed}) == len(claimed) == 6
    assert Counter(job.owner for job in claimed) == {"a": 2, "b": 2, "c": 2}
    assert sum(job.writes == "lake" for job in claimed) <= 1


def test_priority_then_age_then_the_time_to_try_again(open_store: Any) -> None:
    now = [100.0]
    store = open_store(clock=lambda: now[0])
    first, second, urgent = (
        queued(store, n=i, priority=p) for i, p in enumerate((0, 0, 5)) if now.__setitem__(0, 100.0 + i) is None
    )
    assert store.claim("r", 10.0, **CLAIM).id == urgent
    assert store.move(urgent, "queued", only_from=("running",), holder="r", not_before=150.0, error="gone")
    assert [store.claim("r", 10.0, **CLAIM).id for _ in range(2)] == [first, second]
    assert store.claim("r", 10.0, **CLAIM) is None, "the urgent one waits for its time"
    now[0] = 150.0
    again = store.claim("r", 10.0, **CLAIM)
    assert (again.id, again.attempts, again.error) == (urgent, 2, None)


def test_a_lease_is_renewed_runs_out_and_is_adopted_at_its_own_place(open_store: Any) -> None:
    now = [100.0]
    store = open_store(clock=lambda: now[0])
    job_id = queued(store)
    store.claim("old", 15.0, **CLAIM)
    now[0] += 14.0
    assert [job.id for job in store.hold("old", 15.0)] == [job_id]
    now[0] += 14.0
    assert store.adopt("new", 15.0, "p") == [], "it was renewed"
    now[0] += 2.0
    assert store.adopt("new", 15.0, "elsewhere") == []
    assert store.adopt("new", 15.0, "p") == [job_id]
    assert store.hold("old", 15.0) == []
    assert not store.note(job_id, [("progress", {})], holder="old", progress="{}")
    assert not store.move(job_id, "failed", only_from=("running",), holder="old")
    assert store.move(job_id, "succeeded", only_from=("running",), holder="new")
    assert store.get(job_id).lease_owner is None


def test_an_owner_has_so_many_jobs_waiting_and_no_more(open_store: Any) -> None:
    store = open_store()
    for number in range(2):
        store.submit("curate", {"n": number}, f"k{number}", owner="ann", max_waiting=2)
    with pytest.raises(TooManyJobs, match="ann has 2 jobs waiting"):
        store.submit("curate", {}, owner="ann", max_waiting=2)
    assert store.submit("curate", {"n": 0}, "k0", owner="ann", max_waiting=2)[1] is False, (
        "one that is there is answered"
    )
    assert store.submit("curate", {}, owner="bob", max_waiting=2)[1]


def test_wrong_urls_say_what_to_write() -> None:
    for wrong in ("mysql://x/y", "nonsense", "postgresql"):
        with pytest.raises(ValueError, match="postgresql://"):
            database_url(wrong)
    assert database_url("postgresql://me:secret@there/jobs") == "postgresql+psycopg://me:secret@there/jobs"
