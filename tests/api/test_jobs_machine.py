"""The job machine under every order of events that hypothesis can think of: crashes between any two writes, lost replies, pauses.

Real: the store, its database, the runner. Simulated, as the executor's contract says: processes, the clock, and what a job leaves.
"""

import itertools
import json
import logging
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import event

from api.database import ALIVE, ENDED, JobStore
from api.jobs import UNKNOWN_EXIT, Force, NotStarted
from api.outcomes import Outcome
from api.runner import Runner
from api.schema import TRANSITIONS
from api.settings import Settings

SETTINGS = Settings(
    max_running=2, max_running_per_owner=2, max_attempts=3, retry_seconds=5.0, retry_seconds_max=20.0, lease_seconds=15.0,
    cancel_grace_seconds=4.0,
)  # fmt: skip
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # every write is synchronous, and there are very many
ENDINGS = ("commit", "commit, then killed", "user", "failure", "killed", "nothing done", "lost machine")


class Crash(BaseException):
    """The service is killed here."""


class Violation(BaseException):
    """Work runs that must not: no `except Exception` of the service may hide it."""


class World:
    """What outlives a service: time, processes, and what they wrote."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.works: dict[str, dict[str, Any]] = {}
        self.writes: dict[str, str | None] = {}
        self.committed: dict[str, int] = {}
        self.untold: set[str] = set()  # works whose exit status some service asked for and could not know
        self.crash_in: int | None = None
        self.pause_in: int | None = None
        self.on_pause: Any = None
        self.refuse = 0
        self.lose_reply = 0

    def point(self, may_pause: bool = False) -> None:
        """A place where the service may be killed, or stand still while others go on."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash_in = None
                raise Crash
        if may_pause and self.pause_in is not None:
            self.pause_in -= 1
            if self.pause_in < 0:
                self.pause_in = None
                self.now += 40.0
                self.on_pause()

    def alive(self) -> list[str]:
        return [work_id for work_id, work in self.works.items() if work["status"] is None]

    def of(self, job: Any, status: int, said: dict[str, Any]) -> Outcome | None:
        return Outcome(snapshot=self.committed[job.id]) if job.id in self.committed else None


class SimulatedExecutor:
    """Keeps the contract of `Executor`: a work id runs once; exit statuses are known to the service that started the work."""

    name, place, options = "simulated", "here", ()

    def __init__(self, world: World):
        self.world = world
        self.own: set[str] = set()

    def start(self, work_id: str, arguments: Sequence[str]) -> tuple[str, int | None]:
        world = self.world
        world.point(may_pause=True)
        if world.refuse and work_id not in world.works:  # NotStarted says that it surely does not run
            world.refuse -= 1
            raise NotStarted("no room")
        if work_id not in world.works:
            job_id = work_id.rsplit("-", 1)[0]
            target = world.writes[job_id]
            for other in world.alive():
                other_job = other.rsplit("-", 1)[0]
                if other_job == job_id:
                    raise Violation(f"{job_id} runs twice: {other}, {work_id}")
                if target is not None and world.writes[other_job] == target:
                    raise Violation(f"{other} and {work_id} both write {target}")
            world.works[work_id] = {"status": None, "complaint": "", "lines": [], "asked": []}
            self.own.add(work_id)
        world.point(may_pause=True)
        if world.lose_reply:
            world.lose_reply -= 1
            raise ConnectionError("the reply is lost")
        return work_id, None

    def ended(self, handle: str) -> int | None:
        self.world.point(may_pause=True)
        status = self.world.works[handle]["status"]
        if status is None or handle in self.own:
            return status
        self.world.untold.add(handle)
        return UNKNOWN_EXIT

    def stop(self, handle: str, force: Force) -> None:
        work = self.world.works[handle]
        work["asked"].append(force)
        if force == "kill" and work["status"] is None:
            work["status"] = -9
        self.world.point()

    def progress(self, work_id: str, offset: int) -> tuple[list[dict[str, Any]], int]:
        lines = self.world.works[work_id]["lines"]
        return lines[offset:], len(lines)

    def result(self, work_id: str) -> dict[str, Any] | None:
        return None

    def complaint(self, work_id: str) -> str:
        return str(self.world.works[work_id]["complaint"])


class JobMachine(RuleBasedStateMachine):
    """Two services on one database."""

    steps = 0
    template: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        # jobs of one moment come in the order of their ids: drawn ones would make no two runs alike
        ids = (f"{number:016x}" for number in itertools.count())
        self.ids = mock.patch("secrets.token_hex", side_effect=ids)
        self.ids.start()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        if JobMachine.template is None:
            JobMachine.template = Path(tempfile.mkdtemp(dir=MEMORY)) / "jobs.db"
            JobStore(JobMachine.template).close()
        shutil.copy(JobMachine.template, self.folder / "jobs.db")
        self.world = World()
        self.store = JobStore(self.folder / "jobs.db", clock=lambda: self.world.now)
        event.listen(self.store.engine, "commit", lambda _: self.world.point())
        self.draw = random.Random(0)
        self.runners = [self._service(), self._service()]
        self.jobs: list[str] = []
        self.cancelled: set[str] = set()
        self.statuses: dict[str, str] = {}  # of works, how they ended

    def _service(self) -> Runner:
        return Runner(self.store, SimulatedExecutor(self.world), SETTINGS, outcomes=self.world, draw=self.draw)

    @rule(
        owner=st.sampled_from(["ann", "bob"]),
        priority=st.integers(-1, 1),
        writes=st.sampled_from([None, "lake", "run"]),
    )
    def submit(self, owner: str, priority: int, writes: str | None) -> None:
        if len(self.jobs) >= 8:
            return
        asked = {"sources": ["/x"], "recipe": "demo"}
        key = f"key {len(self.jobs)}"
        job, is_new = self.store.submit("curate", asked, key, owner=owner, priority=priority, writes=writes)
        assert is_new
        again, is_new = self.store.submit("curate", asked, key, owner=owner, priority=priority, writes=writes)
        assert (again.id, is_new) == (job.id, False)
        self.jobs.append(job.id)
        self.world.writes[job.id] = writes

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0, 16.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(which=st.integers(0, 1))
    def step(self, which: int) -> None:
        self.runners[which].step()

    @rule(which=st.integers(0, 1), after=st.integers(0, 12))
    def step_and_be_killed(self, which: int, after: int) -> None:
        self.world.crash_in = after
        try:
            self.runners[which].step()
        except Crash:
            self.runners[which] = self._service()
        self.world.crash_in = None

    @rule(which=st.integers(0, 1), after=st.integers(0, 4))
    def step_and_stand_still(self, which: int, after: int) -> None:
        """The lease runs out in the middle of a round, and the other service takes over."""

        def others() -> None:
            for _ in range(3):  # adopts, finds out that it is over, and begins the next attempt
                self.runners[1 - which].step()
                self.world.now += 30.0

        self.world.pause_in, self.world.on_pause = after, others
        self.runners[which].step()
        self.world.pause_in = None

    @rule(which=st.integers(0, 1))
    def restart_in_order(self, which: int) -> None:
        self.store.release(self.runners[which].name)
        self.runners[which] = self._service()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), which=st.integers(0, 1))
    def cancel(self, data: st.DataObject, which: int) -> None:
        job = self.store.get(data.draw(st.sampled_from(self.jobs)))
        assert job is not None
        if job.state not in ENDED:
            self.cancelled.add(job.id)
            self.runners[which].cancel(job)

    @precondition(lambda self: self.world.alive())
    @rule(data=st.data(), lines=st.integers(1, 3))
    def work_reports(self, data: st.DataObject, lines: int) -> None:
        work = self.world.works[data.draw(st.sampled_from(self.world.alive()))]
        for _ in range(lines):
            work["lines"].append({"stage": "measure", "done": len(work["lines"]), "total": 100})

    @precondition(lambda self: self.world.alive())
    @rule(data=st.data(), how=st.sampled_from(ENDINGS))
    def work_ends(self, data: st.DataObject, how: str) -> None:
        self._end(data.draw(st.sampled_from(self.world.alive())), how)

    def _end(self, work_id: str, how: str) -> None:
        work = self.world.works[work_id]
        self.statuses[work_id] = how
        if how.startswith("commit"):
            self.world.committed[work_id.rsplit("-", 1)[0]] = len(self.world.committed) + 1
            work["lines"].append({"stage": "commit", "done": 1, "total": 1})
        work["status"] = {"commit": 0, "user": 2, "failure": 1, "nothing done": 0, "lost machine": 1}.get(how, -9)
        work["complaint"] = "ray.exceptions.NodeDiedError: gone" if how == "lost machine" else "oh"

    @rule(times=st.integers(1, 7), replies=st.booleans())
    def executor_has_trouble(self, times: int, replies: bool) -> None:
        if replies:
            self.world.lose_reply = times
        else:
            self.world.refuse = times

    @invariant()
    def everything_is_in_order(self) -> None:
        JobMachine.steps += 1
        rows = {job.id: job for job in self.store.jobs(limit=1000)}
        assert set(rows) == set(self.jobs), "no acknowledged job is lost, none is invented"
        running = [job for job in rows.values() if job.state in ALIVE]
        assert all(n <= 1 for n in Counter(job.writes for job in running if job.writes).values())
        assert all(n <= SETTINGS.max_running_per_owner for n in Counter(job.owner for job in running).values())
        for job in rows.values():
            told = self.store.events(job.id, limit=10_000)
            states = [json.loads(each.data)["state"] for each in told if each.kind == "state"]
            assert states[0] == "submitted" and states[-1] == job.state
            for before, after in itertools.pairwise(states):
                assert after in TRANSITIONS[before], states
            assert states.count("running") == job.attempts <= SETTINGS.max_attempts
            assert (job.lease_owner is not None) == (job.state in ALIVE)
            done = [json.loads(each.data) for each in told if each.kind in ("progress", "started")]
            self._told_once(done)
            if job.state == "succeeded":
                assert self.world.committed[job.id] == job.snapshot
        for work_id, how in self.statuses.items():  # nothing is tried again that would fail again
            job_id, attempt = work_id.rsplit("-", 1)
            if how in ("user", "failure", "nothing done") and work_id not in self.world.untold:
                assert rows[job_id].attempts == int(attempt) or job_id in self.world.committed

    @staticmethod
    def _told_once(done: list[dict[str, Any]]) -> None:
        last = -1
        for line in done:
            if "attempt" in line:
                last = -1
            elif line["stage"] == "measure":
                assert line["done"] > last, "a line of progress is told twice"
                last = line["done"]

    def teardown(self) -> None:
        """Machines heal, work ends well: then every job ends, as it should."""
        self.world.refuse = self.world.lose_reply = 0
        for _ in range(300):
            if all(job.state in ENDED for job in self.store.jobs(limit=1000)):
                break
            self.world.now += 20.0
            for runner in self.runners:
                runner.step()
            for work_id in self.world.alive():
                self._end(work_id, "commit")
        rows = self.store.jobs(limit=1000)
        assert all(job.state in ENDED for job in rows), [job.state for job in rows]
        for job in rows:
            assert job.state == "succeeded" or job.id not in self.world.committed, "a commit is a success"
            assert job.state != "cancelled" or job.id in self.cancelled
            assert job.state != "failed" or (job.error and job.error_class)
        assert not self.world.alive() or all(
            self.store.get(work_id.rsplit("-", 1)[0]).state == "cancelled"  # type: ignore[union-attr]
            for work_id in self.world.alive()
        )
        self.everything_is_in_order()
        self.store.close()
        self.ids.stop()
        shutil.rmtree(self.folder)


def test_a_service_that_stood_still_does_not_undo_what_its_successor_did() -> None:
    """The one order of events that random ones hardly find: work ends, its service sleeps, another begins the next attempt."""
    machine = JobMachine()
    machine.submit("ann", 0, "lake")
    machine.step(0)
    (first,) = machine.world.alive()
    machine._end(first, "killed")
    machine.step_and_stand_still(0, after=0)
    (second,) = machine.world.alive()
    job = machine.store.get(machine.jobs[0])
    assert job is not None and second != first
    assert (job.state, job.attempts, job.handle, job.lease_owner) == ("running", 2, second, machine.runners[1].name)
    machine.everything_is_in_order()
    machine.teardown()


def run(examples: int, steps: int) -> int:
    """Rules that were run, each followed by every check."""
    JobMachine.steps = 0
    logging.getLogger("api.runner").setLevel(logging.CRITICAL)  # it tells of every crash and refusal
    quiet = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
    run_state_machine_as_test(
        JobMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(quiet),
        ),
    )  # fmt: skip
    return JobMachine.steps


def test_no_order_of_crashes_breaks_the_job_machine() -> None:
    steps = run(examples=25, steps=40)
    print(f"{steps} steps, each followed by every check")
    assert steps >= 500


@pytest.mark.slow
def test_no_order_of_crashes_breaks_the_job_machine_at_length() -> None:
    steps = run(examples=400, steps=150)
    print(f"{steps} steps, each followed by every check")
    assert steps >= 20_000
