"""Supervises jobs in one thread: starts what waits, passes progress on, cancels, and asks the lake whether it worked."""

import json
import logging
import threading
import time

from api.database import ALIVE, Job, JobStore
from api.jobs import UNKNOWN_EXIT, Executor, Force
from api.settings import Settings
from curation.clips import Commit, Lake

log = logging.getLogger(__name__)
RESUME = "Submit the same request again to resume: what was finished is not done twice."


class Runner:
    """One round is `step()`; the thread repeats it. Work of an earlier life of the service is adopted by its handle."""

    def __init__(self, store: JobStore, executor: Executor, settings: Settings):
        self.store = store
        self.executor = executor
        self.settings = settings
        self.offsets: dict[str, int] = {}
        self.forced: dict[str, Force] = {}
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-runner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Running work goes on and is adopted at the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

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
        """One round: watch what runs, then start what waits, the oldest first."""
        for job in self.store.jobs(("submitted",), newest_first=False):
            self.store.move(job.id, "queued", only_from=("submitted",))
        for job in self.store.jobs(ALIVE, newest_first=False):
            self._watch(job)
        free = self.settings.max_running - len(self.store.jobs(ALIVE))
        for job in self.store.jobs(("queued",), newest_first=False)[: max(free, 0)]:
            self._begin(job)

    def cancel(self, job: Job) -> None:
        """Stop a job that waits at once; ask one that runs to stop, and insist later."""
        if self.store.move(job.id, "cancelled", only_from=("submitted", "queued")):
            return
        if job.cancel_requested is None:
            self.store.note(job.id, "cancel", {"requested": True}, cancel_requested=time.time())
        self.wake()

    def _begin(self, job: Job) -> None:
        first = max((commit.number for commit in self._commits(None)), default=0)
        attempts = job.attempts + 1
        started = {"attempts": attempts, "executor": self.executor.name, "first_snapshot": first}
        if not self.store.move(job.id, "running", only_from=("queued",), **started):
            return
        try:
            handle, pid = self.executor.start(
                f"{job.id}-{attempts}", [*arguments(job, self.settings), *self.executor.options]
            )
        except Exception as error:
            log.exception("job %s could not be started", job.id)
            self.store.move(job.id, "failed", only_from=ALIVE, error=f"it could not be started: {error}"[:1000])
            return
        self.store.note(job.id, "started", {"executor": self.executor.name, "pid": pid}, handle=handle, pid=pid)

    def _watch(self, job: Job) -> None:
        if job.handle is None or job.executor != self.executor.name:
            lost = "the service stopped while this job was being started, or it ran on another executor"
            self.store.move(job.id, "failed", only_from=ALIVE, error=f"{lost}. {RESUME}")
            return
        status = self.executor.ended(job.handle)  # first, so that the last lines of progress are read after the end
        self._pass_progress(job)
        if status is not None:
            self._finish(job, status)
        elif job.cancel_requested is not None:
            self._insist(job, job.handle, time.time() - job.cancel_requested)

    def _pass_progress(self, job: Job) -> None:
        lines, offset = self.executor.progress(_work_id(job), self.offsets.get(job.id, 0))
        self.offsets[job.id] = offset
        newest = {
            str(line.get("stage", "")): line for line in lines
        }  # one event a stage and round, however fast it writes
        for line in newest.values():
            self.store.note(job.id, "progress", line, progress=json.dumps(line))
            if str(line.get("stage", "")).startswith("commit"):
                self.store.move(job.id, "committing", only_from=("running",))

    def _insist(self, job: Job, handle: str, waited: float) -> None:
        grace = self.settings.cancel_grace_seconds
        force: Force = "ask" if waited < grace else "terminate" if waited < 2 * grace else "kill"
        if self.forced.get(job.id) != force:
            self.forced[job.id] = force
            self.executor.stop(handle, force)

    def _finish(self, job: Job, status: int) -> None:
        self.offsets.pop(job.id, None)
        self.forced.pop(job.id, None)
        commit = self._commit_of(job, status)
        if commit is not None:
            self.store.move(job.id, "succeeded", only_from=ALIVE, snapshot=commit.number)
        elif job.cancel_requested is not None:
            self.store.move(job.id, "cancelled", only_from=ALIVE, error=RESUME)
        else:
            said = _last_lines(self.executor.complaint(_work_id(job)))
            how = "it vanished without a commit" if status == UNKNOWN_EXIT else f"it ended with status {status}"
            again = "" if status == 2 else f" {RESUME}"  # 2 is a wrong call: the same words would fail again
            self.store.move(job.id, "failed", only_from=ALIVE, error=f"{how}: {said or 'it said nothing'}.{again}")

    def _commit_of(self, job: Job, status: int) -> Commit | None:
        """The commit is the proof, not the exit status: what the command named, or the first of its data set since it began."""
        commits = self._commits(dataset_of(job))
        number = (self.executor.result(_work_id(job)) or {}).get("number")
        for commit in commits:
            if commit.number == number:
                return commit
        newer = [commit for commit in commits if commit.number > (job.first_snapshot or 0)]
        if newer:
            return min(newer, key=lambda commit: commit.number)
        return max(commits, key=lambda commit: commit.number) if commits and status == 0 else None

    def _commits(self, dataset: str | None) -> list[Commit]:
        settings = self.settings
        return Lake(settings.data, settings.catalog).commits(dataset) if Lake.exists(settings.data) else []


def dataset_of(job: Job) -> str | None:
    """The data set a job writes to, if its request tells: a recipe's file names its data set inside."""
    asked = job.asked
    return asked.get("dataset") or (asked["recipe"] if "/" not in asked["recipe"] else None)


def arguments(job: Job, settings: Settings) -> list[str]:
    """The command line of a job, after the command's name."""
    asked = job.asked
    words = [job.kind, *asked["sources"], "--recipe", asked["recipe"], "--out", settings.data, "--json"]
    if asked.get("dataset"):
        words += ["--dataset", asked["dataset"]]
    if asked.get("limit"):
        words += ["--limit", str(asked["limit"])]
    if settings.catalog:
        words += ["--catalog", settings.catalog]
    return words


def _work_id(job: Job) -> str:
    return f"{job.id}-{job.attempts}"


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:])[:1000]
