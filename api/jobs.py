"""Where the work of a job happens: a child process of this service, or a Ray job. The one door to Ray Jobs."""

import contextlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from api.launch import process_start
from api.retries import UNKNOWN_EXIT
from api.settings import Settings, child_environment

__all__ = [
    "UNKNOWN_EXIT",
    "Executor",
    "Force",
    "LocalExecutor",
    "NotStarted",
    "RayExecutor",
    "choose_executor",
    "process_start",
]

Force = Literal["ask", "terminate", "kill"]
SUBMIT_SECONDS = 60.0
LAUNCH_SECONDS = 30.0
LAUNCH = Path(__file__).parent / "launch.py"


class NotStarted(OSError):
    """Work that could not be started, and surely does not run."""


class Executor(Protocol):
    """Starts work, finds it again by its handle after a restart of the service, and stops it."""

    name: str
    place: str
    """Where its work is: another service can only adopt the work of its own place."""
    options: tuple[str, ...]
    """What commands that work on a cluster are told besides what was asked for."""

    def start(self, work_id: str, arguments: Sequence[str]) -> tuple[str, int | None]:
        """Begin; answer with the handle and, if there is one here, the process id.

        However often, and by however many services, the same `work_id` is started: it runs once, and all get its handle.
        Raises NotStarted where it surely does not run; after another error it may.
        """
        ...

    def ended(self, handle: str) -> int | None:
        """None while it runs, else its exit status (or UNKNOWN_EXIT)."""
        ...

    def stop(self, handle: str, force: Force) -> None: ...

    def progress(self, work_id: str, offset: int) -> tuple[list[dict[str, Any]], int]:
        """Progress objects written since `offset`, and the offset to go on from."""
        ...

    def result(self, work_id: str) -> dict[str, Any] | None:
        """The JSON object the command printed at its end, if it came so far."""
        ...

    def complaint(self, work_id: str) -> str:
        """The end of what the command said on stderr."""
        ...


class LocalExecutor:
    """Child processes in sessions of their own: they outlive the service, and are found again by process id and start time."""

    name: str = "local"
    options: tuple[str, ...] = ()

    def __init__(self, settings: Settings):
        self.command = settings.job_command
        self.folder = settings.state_folder / "jobs"
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.place = _place(self.folder)

    def start(self, work_id: str, arguments: Sequence[str]) -> tuple[str, int | None]:
        claim = self._path(work_id, "pid")
        if claim.exists():
            return self._claimed(claim)
        progress = self._path(work_id, "progress")
        progress.touch()
        with self._path(work_id, "out").open("ab") as out, self._path(work_id, "err").open("ab") as err:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCH), str(claim), *self.command, *arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=child_environment(CINEMILL_PROGRESS=str(progress)), start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + LAUNCH_SECONDS
        while not claim.exists():
            if child.poll() is not None or time.monotonic() > until:
                child.kill()
                if not claim.exists():
                    raise NotStarted(
                        f"no process for it: {self.complaint(work_id).strip() or 'the launcher said nothing'}"
                    )
            time.sleep(0.002)
        handle, pid = self._claimed(claim)
        if pid == child.pid:
            self.children[pid] = child
        else:  # another service was faster, and ours has left
            child.wait()
        return handle, pid

    def _claimed(self, claim: Path) -> tuple[str, int]:
        handle = claim.read_text()
        return handle, _split(handle)[0]

    def ended(self, handle: str) -> int | None:
        pid, started = _split(handle)
        child = self.children.get(pid)
        if process_start(pid) == started:
            return None
        if child is not None or not process_start(pid):  # what it started must not write on while the next attempt does
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # before its exit status is read: until then nobody else can have its id
        return UNKNOWN_EXIT if child is None else self.children.pop(pid).wait()

    def stop(self, handle: str, force: Force) -> None:
        pid, started = _split(handle)
        if process_start(pid) != started:  # gone, or another process by now
            return
        if force == "ask":
            os.kill(pid, signal.SIGINT)
        elif force == "terminate":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL)  # the child leads its session, so its workers go with it

    def progress(self, work_id: str, offset: int) -> tuple[list[dict[str, Any]], int]:
        try:
            with self._path(work_id, "progress").open("rb") as file:
                file.seek(offset)
                text = file.read()
        except FileNotFoundError:
            return [], offset
        whole = text[: text.rfind(b"\n") + 1]  # the last line may still be on its way
        return _objects(whole.decode(errors="replace").splitlines()), offset + len(whole)

    def result(self, work_id: str) -> dict[str, Any] | None:
        return _last_object(_text(self._path(work_id, "out")))

    def complaint(self, work_id: str) -> str:
        return _text(self._path(work_id, "err"))[-4000:]

    def _path(self, work_id: str, kind: str) -> Path:
        return self.folder / f"{work_id}.{kind}"


class RayExecutor:
    """Jobs of a Ray cluster, by its dashboard's address. The submission id is ours, so a retried submit cannot run twice."""

    name: str = "ray"
    options: tuple[str, ...] = ("--address", "auto")

    def __init__(self, settings: Settings):
        assert settings.ray_address is not None
        from ray.job_submission import JobSubmissionClient  # seconds to import, so only where jobs are Ray's

        self.command = settings.job_command
        self.client = JobSubmissionClient(settings.ray_address)
        self.place = settings.ray_address

    def start(self, work_id: str, arguments: Sequence[str]) -> tuple[str, int | None]:
        until = time.monotonic() + SUBMIT_SECONDS
        while True:
            try:
                self.client.submit_job(
                    entrypoint=shlex.join([*self.command, *arguments]),
                    submission_id=f"cinemill-{work_id}",
                    # The log of a Ray job is what its process writes to stdout and stderr; progress travels in it.
                    runtime_env={"env_vars": {"CINEMILL_PROGRESS": "/dev/stderr"}},
                )
                break
            except (RuntimeError, OSError) as error:  # the dashboard is busy, or the node's agent is not there yet
                if "already exists" in str(error):  # an earlier try got through, its answer was lost
                    break
                if time.monotonic() > until:
                    if (
                        self.ended(f"cinemill-{work_id}") == UNKNOWN_EXIT
                    ):  # the cluster answers, and knows nothing of it
                        raise NotStarted(f"Ray refuses it: {error}") from error
                    raise
                time.sleep(1.0)
        return f"cinemill-{work_id}", None

    def ended(self, handle: str) -> int | None:
        try:
            status = str(self.client.get_job_status(handle).value)
        except RuntimeError as error:
            if "does not exist" in str(error):
                return UNKNOWN_EXIT
            return None  # the cluster does not answer just now; the commit, not its word, decides in the end
        except OSError:
            return None
        return {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}.get(status)

    def stop(self, handle: str, force: Force) -> None:
        if force == "ask":  # Ray itself terminates, waits, and kills
            self.client.stop_job(handle)

    def progress(self, work_id: str, offset: int) -> tuple[list[dict[str, Any]], int]:
        log = self._log(work_id)
        whole = log[: log.rfind("\n") + 1]
        return [found for found in _objects(whole[offset:].splitlines()) if "stage" in found], max(offset, len(whole))

    def result(self, work_id: str) -> dict[str, Any] | None:
        found = _last_object(self._log(work_id))
        return None if found is not None and "stage" in found else found

    def complaint(self, work_id: str) -> str:
        lines = [line for line in self._log(work_id).splitlines() if not line.startswith('{"stage"')]
        return "\n".join(lines)[-4000:]

    def _log(self, work_id: str) -> str:
        try:
            return self.client.get_job_logs(f"cinemill-{work_id}")
        except (RuntimeError, OSError):
            return ""


def choose_executor(settings: Settings) -> Executor:
    """Ray's if an address is set, else child processes."""
    return RayExecutor(settings) if settings.ray_address else LocalExecutor(settings)


def _place(folder: Path) -> str:
    """A name for this folder that moves with it: made once, the same for every service that shares it."""
    folder.mkdir(parents=True, exist_ok=True)
    file, own = folder / "place", folder / f"place.{secrets.token_hex(8)}"
    if not file.exists():
        own.write_text(f"local:{secrets.token_hex(8)}")
        try:
            os.link(own, file)
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return file.read_text()


def _split(handle: str) -> tuple[int, str]:
    pid, _, started = handle.partition(":")
    return int(pid), started


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _objects(lines: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _last_object(text: str) -> dict[str, Any] | None:
    """The JSON object at the end of `text`, on one line or on many."""
    end = text.rstrip()
    start = max(end.rfind("\n{"), 0 if end.startswith("{") else -1)
    if start < 0:
        return None
    found = _objects([end[start:]])
    return found[0] if found else None
