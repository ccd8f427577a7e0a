"""Supervises jobs in one thread: starts what waits, passes progress on, cancels, tries again, and asks whether it worked."""

import json
import logging
import random
import secrets
import threading
from typing import Any

from api.commands import ON_CLUSTER, arguments
from api.counters import fold, merge, priced
from api.database import ALIVE, Job, JobStore
from api.jobs import UNKNOWN_EXIT, Executor, Force, NotStarted
from api.outcomes import Outcomes, WrittenOutcomes
from api.retries import ErrorClass, classify, retry_delay
from api.settings import Settings

log = logging.getLogger(__name__)
RESUME = "Submit the same request again to resume: what was finished is not done twice."
START_TRIES = 5
"""How often work is started that surely did not begin, before its job fails."""


class Runner:
    """One round is `step()`; the thread repeats it. Work of a service that is gone is adopted when its lease is over.

    Several runners may share a database. Whatever one of them writes about running work is refused once its lease is another's.
    """

    def __init__(
        self, store: JobStore, executor: Executor, settings: Settings, outcomes: Outcomes | None = None,
        draw: random.Random | None = None,
    ):  # fmt: skip
        self.store = store
        self.executor = executor
        self.settings = settings
        self.outcomes = outcomes or WrittenOutcomes(settings)
        self.draw = draw or random.Random()
        self.name = secrets.token_hex(8)
        self.forced: dict[str, Force] = {}
        self.trouble: dict[str, tuple[int, float]] = {}
        """Of jobs that could not be started or watched: how often, and when to look again."""
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-runner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Running work goes on and is adopted by the next service that starts, or by another that runs."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if not self._thread.is_alive():
            self.store.release(self.name)

    def wake(self) -> None:
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.step()
            except Exception:
                log.exception("a round of the job runner failed; it goes on")
            self._wake.wait(self.settings.poll_seconds)
            self._wake.clear()

    def step(self) -> None:
        """One round: adopt, watch what runs, then start what waits."""
        for job in self.store.jobs(("submitted",), newest_first=False):
            self.store.move(job.id, "queued", only_from=("submitted",))
        lease = self.settings.lease_seconds
        self.store.adopt(self.name, lease, self.executor.place)
        held = self.store.hold(self.name, lease)
        for job in held:
            tries, not_before = self.trouble.get(job.id, (0, 0.0))
            if self.store.clock() < not_before:
                continue
            try:
                self._watch(job)
            except Exception:  # a bucket or a cluster that does not answer must not keep other jobs from being watched
                log.exception("job %s could not be watched; it is looked at again later", job.id)
                self._put_off(job, tries)
        free = self.settings.max_running - len(self.store.hold(self.name, lease))
        while free > 0 and (claimed := self._claim()):
            if claimed.cancel_requested is not None:  # while it was going back into the line
                self.store.move(claimed.id, "cancelled", only_from=ALIVE, holder=self.name)
                continue
            self._begin(claimed)
            free -= 1

    def _claim(self) -> Job | None:
        return self.store.claim(
            self.name, self.settings.lease_seconds, executor=self.executor.name, place=self.executor.place,
            max_per_owner=self.settings.max_running_per_owner,
        )  # fmt: skip

    def cancel(self, job: Job) -> None:
        """Stop a job that waits at once; ask one that runs to stop, and insist later."""
        if self.store.move(job.id, "cancelled", only_from=("submitted", "queued")):
            return
        self.store.request_cancel(job.id)
        self.wake()

    # --- starting ------------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        """Start an attempt, or what another service may have started of it: an attempt runs once."""
        try:
            more = self.executor.options if job.kind in ON_CLUSTER else ()
            words = [*arguments(job, self.settings), *more]
        except ValueError as error:  # what it names is not there any more
            self._fail(job, "user", str(error))
            return
        tries, _ = self.trouble.get(job.id, (0, 0.0))
        try:
            handle, pid = self.executor.start(_work_id(job), words)
        except Exception as error:
            log.exception("job %s could not be started", job.id)
            said = f"it could not be started: {error}"[:1000]
            if tries + 1 >= START_TRIES and isinstance(error, NotStarted):
                self._fail(job, "infrastructure", said)
            elif tries + 1 >= START_TRIES and job.cancel_requested is not None:
                self._end(job, "cancelled", error=f"{said}; whether it runs there nobody could find out")
            else:  # it may have begun unnoticed: no other attempt, but this one once more
                self.store.note(job.id, [("trouble", {"error": said})], holder=self.name, error=said)
                self._put_off(job, tries)
            return
        told = {"executor": self.executor.name, "pid": pid, "attempt": job.attempts}
        self.store.note(job.id, [("started", told)], holder=self.name, handle=handle, pid=pid, error=None)

    # --- watching ------------------------------------------------------------------------------------------------

    def _watch(self, job: Job) -> None:
        if job.executor != self.executor.name:
            self._fail(
                job, "infrastructure", f"it ran on the executor {job.executor!r}, which this service does not have"
            )
            return
        if job.handle is None:  # the service was stopped between two writes, or the executor refused
            self._begin(job)
            return
        status = self.executor.ended(job.handle)  # first, so that the last lines of progress are read after the end
        self._pass_progress(job)
        self.trouble.pop(job.id, None)
        if status is not None:
            self._finish(job, status)
        elif job.cancel_requested is not None:
            self._insist(job, job.handle, self.store.clock() - job.cancel_requested)

    def _pass_progress(self, job: Job) -> None:
        lines, offset = self.executor.progress(_work_id(job), job.progress_offset)
        if offset == job.progress_offset:
            return
        newest = {
            str(line.get("stage", "")): line for line in lines
        }  # one event a stage and round, however fast it writes
        counters = json.loads(job.counters)
        told = []
        for line in newest.values():
            counters = fold(counters, line)
            told.append(("progress", line))
        counters = priced(counters, self.settings.price_per_cpu_hour, self.settings.price_per_gpu_hour)
        job.counters = json.dumps(counters)
        latest = {"progress": json.dumps(told[-1][1])} if told else {}
        if not self.store.note(job.id, told, holder=self.name, progress_offset=offset, counters=job.counters, **latest):
            return
        if any(stage.startswith("commit") for stage in newest):
            self.store.move(job.id, "committing", only_from=("running",), holder=self.name)

    def _insist(self, job: Job, handle: str, waited: float) -> None:
        grace = self.settings.cancel_grace_seconds
        force: Force = "ask" if waited < grace else "terminate" if waited < 2 * grace else "kill"
        if self.forced.get(job.id) != force:
            self.forced[job.id] = force
            self.executor.stop(handle, force)

    def _finish(self, job: Job, status: int) -> None:
        outcome = self.outcomes.of(job, status, self.executor.result(_work_id(job)) or {})
        if outcome is not None:
            counters = merge(json.loads(job.counters), outcome.counters)
            result = None if outcome.result is None else json.dumps(outcome.result)
            self._end(job, "succeeded", snapshot=outcome.snapshot, result=result, counters=json.dumps(counters))
        elif job.cancel_requested is not None:
            self._end(job, "cancelled", error=RESUME)
        else:
            complaint = self.executor.complaint(_work_id(job))
            how = "it vanished without a result" if status == UNKNOWN_EXIT else f"it ended with status {status}"
            error = f"{how}: {_last_lines(complaint) or 'it said nothing'}"
            error_class = classify(status, complaint)
            delay = retry_delay(job.attempts, self.settings, self.draw) if error_class == "infrastructure" else None
            if delay is None:
                self._fail(job, error_class, error)
                return
            later = self.store.clock() + delay
            self._end(job, "queued", error=error, error_class=error_class, not_before=later, handle=None, pid=None)

    def _put_off(self, job: Job, tries: int) -> None:
        wait = min(self.settings.retry_seconds * 2.0**tries, self.settings.retry_seconds_max)
        self.trouble[job.id] = (tries + 1, self.store.clock() + wait)

    def _fail(self, job: Job, error_class: ErrorClass, error: str) -> None:
        again = "" if error_class == "user" else f" {RESUME}"  # the same words would fail again
        self._end(job, "failed", error=f"{error[:1500]}.{again}", error_class=error_class)

    def _end(self, job: Job, state: str, **fields: Any) -> None:
        """The attempt is over, and what was remembered of it."""
        self.forced.pop(job.id, None)
        self.trouble.pop(job.id, None)
        self.store.move(job.id, state, only_from=ALIVE, holder=self.name, **fields)


def _work_id(job: Job) -> str:
    return f"{job.id}-{job.attempts}"


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:])[:1000]
