"""The service from Python: typed answers, pages that follow one another, jobs that are watched over broken connections.

    with Client("http://127.0.0.1:8000") as service:
        job = service.submit(sources=["/data/footage"], recipe="demo")
        service.wait(job.id)
        for row in service.rows("demo", table="clips", where={"column": "fate", "is": "=", "value": "kept"}):
            print(row["clip_id"])

Loads neither torch nor Ray nor FastAPI.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx
import pyarrow as pa

log = logging.getLogger(__name__)
ENDED = frozenset({"succeeded", "failed", "cancelled"})
TRIES = 4
MOST_WAIT_SECONDS = 30.0
ARROW = "application/vnd.apache.arrow.stream"
TableName = Literal["ledger", "clips", "videos"]
Where = Mapping[str, Any]
Which = int | str | None
"""A snapshot by its number or tag; None: the newest."""


class ServiceError(Exception):
    """The service refused: its status, and in its words what to change."""

    def __init__(self, status: int, detail: str, trace_id: str = ""):
        super().__init__(status, detail, trace_id)
        self.status = status
        self.detail = detail
        self.trace_id = trace_id

    def __str__(self) -> str:
        return f"{self.detail} (status {self.status}{f', request {self.trace_id}' if self.trace_id else ''})"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it stood when it was asked for. Times are ISO 8601; `more` has what a newer service tells beside."""

    id: str
    kind: str
    request: dict[str, Any]
    owner: str
    state: str
    attempts: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    progress: dict[str, Any]
    error: str | None
    snapshot: int | None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to a job; ids only grow."""

    id: int
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """One commit of a data set."""

    number: int
    dataset: str
    created_at: str
    recipe_hash: str
    code_version: str
    counts: dict[str, int]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """What other thresholds would keep."""

    snapshot: int
    thresholds: dict[str, float]
    exact: bool
    counts: dict[str, int]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TagInfo:
    """A name of a snapshot, which expiry keeps and every read takes in place of the number."""

    dataset: str
    name: str
    snapshot: int
    created_at: str
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A training run: running, finished or interrupted, after so many of its steps."""

    id: str
    path: str
    kind: str
    recipe_name: str
    snapshot: str
    state: str
    step: int | None
    steps: int | None
    created_at: str
    last_at: str | None
    more: dict[str, Any] = field(default_factory=dict)


T = TypeVar("T", Job, SnapshotInfo, WhatIf, TagInfo, RunInfo)


def told(made: Job | SnapshotInfo | WhatIf | TagInfo | RunInfo) -> dict[str, Any]:
    """What the service said, as JSON has it."""
    named = {each.name: getattr(made, each.name) for each in fields(made) if each.name != "more"}
    return named | made.more


def _made(kind: type[T], said: Mapping[str, Any]) -> T:
    known = {each.name for each in fields(kind)} - {"more"}
    return kind(
        **{name: said[name] for name in known}, more={name: value for name, value in said.items() if name not in known}
    )


class Client:
    """A connection to one service. Safe to use from one thread; close it, or use it as a context.

    token: a personal access token; by default what CINEMILL_TOKEN says. Reading is tried again where the service is busy.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0, http: httpx.Client | None = None):
        token = os.environ.get("CINEMILL_TOKEN") if token is None else token
        self._http = http or httpx.Client(base_url=url.rstrip("/"), timeout=timeout)
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- jobs ----------------------------------------------------------------------------------------------------

    def submit(self, key: str | None = None, **request: Any) -> Job:
        """A new job. key: its Idempotency-Key; without one a key is drawn, so that a lost answer can be asked for again."""
        headers = {"idempotency-key": key or secrets.token_hex(16)}
        return _made(Job, self._ask("POST", "/v1/jobs", json=request, headers=headers, again=True).json())

    def jobs(self, *states: str, limit: int = 100) -> list[Job]:
        """The newest first."""
        found = self._ask("GET", "/v1/jobs", params={"limit": limit, "state": list(states)}).json()
        return [_made(Job, said) for said in found]

    def job(self, job_id: str) -> Job:
        return _made(Job, self._ask("GET", f"/v1/jobs/{job_id}").json())

    def cancel(self, job_id: str) -> Job:
        return _made(Job, self._ask("POST", f"/v1/jobs/{job_id}/cancel").json())

    def events(self, job_id: str, after: int = 0, patience: float = 60.0) -> Iterator[Event]:
        """What happens to a job, each thing once, until it has ended; goes on where it was after a broken connection.

        Raises httpx.TransportError, or ServiceError 503, when the service stays away or busy for `patience` seconds.
        """
        heard, was_told = time.monotonic(), False
        while True:
            try:
                for event in self._stream(job_id, after):
                    heard, was_told, after = time.monotonic(), False, event.id
                    yield event
                if self.job(job_id).has_ended:
                    return
            except (httpx.TransportError, ServiceError) as error:
                if isinstance(error, ServiceError) and error.status != 503:
                    raise
                if time.monotonic() - heard > patience:
                    raise
                if not was_told:
                    log.warning("the service does not answer (%s); waiting for it", error)
                was_told = True
                time.sleep(0.5)

    def wait(self, job_id: str, patience: float = 60.0) -> Job:
        """The job once it has ended, whichever way."""
        for _ in self.events(job_id, patience=patience):
            pass
        return self.job(job_id)

    def _stream(self, job_id: str, after: int) -> Iterator[Event]:
        headers = self._headers | {"last-event-id": str(after)}
        with self._http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
            if answer.is_error:
                answer.read()
                raise _refusal(answer)
            told: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(":")
                if line:
                    told[name] = value.removeprefix(" ")
                elif "id" in told:
                    yield Event(id=int(told["id"]), kind=told["event"], data=json.loads(told["data"]))
                    told = {}

    # --- data ----------------------------------------------------------------------------------------------------

    def datasets(self) -> list[str]:
        return [found["name"] for found in self._ask("GET", "/v1/datasets").json()]

    def snapshots(self, dataset: str) -> list[SnapshotInfo]:
        """The newest first."""
        return [_made(SnapshotInfo, said) for said in self._ask("GET", f"/v1/datasets/{dataset}/snapshots").json()]

    def rows(
        self, dataset: str, *, table: TableName = "clips", where: Where | None = None, columns: Sequence[str] | None = None,
        order: str | None = None, snapshot: Which = None, page: int = 1000,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """All rows under a filter, page by page. All pages are of one snapshot, also when a newer one is committed meanwhile."""
        asked = {"table": table, "where": where, "columns": columns and list(columns), "order": order, "limit": page}
        while True:
            answer = self._filter(dataset, asked, snapshot).json()
            snapshot = answer["snapshot"]
            yield from answer["rows"]
            if answer["next"] is None:
                return
            asked["after"] = answer["next"]

    def count(
        self, dataset: str, where: Where | None = None, *, table: TableName = "clips", snapshot: Which = None
    ) -> int:
        """How many rows a filter leaves, exactly."""
        asked = {"table": table, "where": where, "limit": 1, "count": True, "columns": ["uri"]}
        return int(self._filter(dataset, asked, snapshot).json()["matching"])

    def table(
        self, dataset: str, *, table: TableName = "clips", where: Where | None = None, columns: Sequence[str] | None = None,
        order: str | None = None, snapshot: Which = None,
    ) -> pa.Table:  # fmt: skip
        """The same as `rows`, as one Arrow table. For whole tables `files` is the shorter way."""
        if snapshot is None:
            snapshot = self.snapshots(dataset)[0].number
        asked = {"table": table, "where": where, "columns": columns and list(columns), "order": order, "limit": 1000}
        parts = []
        while True:
            answer = self._filter(dataset, asked, snapshot, {"accept": ARROW})
            parts.append(pa.ipc.open_stream(answer.content).read_all())
            if "x-next-cursor" not in answer.headers:
                return pa.concat_tables(parts)
            asked["after"] = answer.headers["x-next-cursor"]

    def files(self, dataset: str, snapshot: Which = None) -> dict[str, list[str]]:
        """Table -> exactly its Parquet files."""
        found = self._ask("GET", f"/v1/datasets/{dataset}/files", params=_at(snapshot)).json()["files"]
        return {str(table): list(uris) for table, uris in found.items()}

    def what_if(
        self, dataset: str, thresholds: Mapping[str, float], snapshot: Which = None, estimate: bool = False
    ) -> WhatIf:
        """thresholds: rule -> its other threshold. estimate: never scan; `more` then has `sampled` and `intervals`."""
        params = {**thresholds, **_at(snapshot), "estimate": estimate}
        return _made(WhatIf, self._ask("GET", f"/v1/datasets/{dataset}/whatif", params=params).json())

    def funnel(self, dataset: str, snapshot: Which = None) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/v1/datasets/{dataset}/funnel", params=_at(snapshot)).json()
        return found

    def tags(self, dataset: str) -> list[TagInfo]:
        """By name."""
        return [_made(TagInfo, said) for said in self._ask("GET", f"/v1/datasets/{dataset}/tags").json()]

    def tag(self, dataset: str, name: str, snapshot: int) -> TagInfo:
        """Name a snapshot; saying it again changes nothing, and a tag never moves."""
        body = {"name": name, "snapshot": snapshot}
        return _made(TagInfo, self._ask("POST", f"/v1/datasets/{dataset}/tags", json=body, again=True).json())

    def untag(self, dataset: str, name: str) -> None:
        self._ask("DELETE", f"/v1/datasets/{dataset}/tags/{name}")

    def diff(self, dataset: str, before: int | str, after: int | str) -> dict[str, Any]:
        """Kept clips added and removed between two snapshots, by reason."""
        params = {"from": before, "to": after}
        found: dict[str, Any] = self._ask("GET", f"/v1/datasets/{dataset}/diff", params=params).json()
        return found

    def search(
        self, dataset: str, text: str, *, limit: int = 20, fate: Literal["kept", "all"] = "kept", snapshot: Which = None
    ) -> dict[str, Any]:  # fmt: skip
        """The clips nearest to a text in `clips`, best first; `note` says how far to trust them."""
        params = {"text": text, "limit": limit, "fate": fate, **_at(snapshot)}
        found: dict[str, Any] = self._ask("GET", f"/v1/datasets/{dataset}/search", params=params).json()
        return found

    def neighbours(
        self, clip_id: str, *, limit: int = 20, fate: Literal["kept", "all"] = "all", dataset: str | None = None,
        snapshot: Which = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The clips most like a clip in `clips`, best first, copies among them."""
        params: dict[str, Any] = {"limit": limit, "fate": fate, **_at(snapshot)}
        if dataset is not None:
            params["dataset"] = dataset
        found: dict[str, Any] = self._ask("GET", f"/v1/clips/{clip_id}/neighbours", params=params).json()
        return found

    def clusters(self, dataset: str, snapshot: Which = None) -> Iterator[dict[str, Any]]:
        """All concept clusters, the largest first, page by page."""
        params: dict[str, Any] = {"limit": 100, **_at(snapshot)}
        while True:
            answer = self._ask("GET", f"/v1/datasets/{dataset}/clusters", params=params).json()
            params["snapshot"] = answer["snapshot"]
            yield from answer["clusters"]
            if answer["next"] is None:
                return
            params["after"] = answer["next"]

    # --- training runs -------------------------------------------------------------------------------------------

    def runs(self, limit: int = 100) -> list[RunInfo]:
        """The newest first."""
        found = self._ask("GET", "/v1/runs", params={"limit": limit}).json()["runs"]
        return [_made(RunInfo, said) for said in found]

    def run(self, run_id: str) -> RunInfo:
        """`more` has its recipe, its starts, its checkpoints and what its log says else."""
        return _made(RunInfo, self._ask("GET", f"/v1/runs/{run_id}").json())

    def metrics(
        self, run_id: str, *, event: Literal["step", "validation"] = "step", names: Sequence[str] | None = None, after: int = -1
    ) -> pa.Table:  # fmt: skip
        """Numbers by step, later than `after`: one column a name, null where none was logged."""
        params: dict[str, Any] = {"event": event, "after": after, "limit": 10_000}
        if names is not None:
            params["names"] = ",".join(names)
        parts = []
        while True:
            answer = self._ask("GET", f"/v1/runs/{run_id}/metrics", params=params, headers={"accept": ARROW})
            parts.append(pa.ipc.open_stream(answer.content).read_all())
            if "x-next-cursor" not in answer.headers:
                return pa.concat_tables(parts, promote_options="default")
            params["after"] = answer.headers["x-next-cursor"]

    def samples(self, run_id: str) -> list[dict[str, Any]]:
        """Pictures and videos that a run made: id, path, step, bytes."""
        params: dict[str, Any] = {}
        found: list[dict[str, Any]] = []
        while True:
            answer = self._ask("GET", f"/v1/runs/{run_id}/samples", params=params).json()
            found += answer["samples"]
            if answer["next"] is None:
                return found
            params["after"] = answer["next"]

    def sample(self, run_id: str, sample_id: str) -> bytes:
        """The bytes of one of them."""
        return self._ask("GET", f"/v1/runs/{run_id}/samples/{sample_id}").content

    # --- one clip ------------------------------------------------------------------------------------------------

    def clip(self, clip_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/v1/clips/{clip_id}").json()
        return found

    def _filter(
        self, dataset: str, asked: dict[str, Any], snapshot: Which, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        body = {name: value for name, value in asked.items() if value is not None}
        path = f"/v1/datasets/{dataset}/filter"
        return self._ask("POST", path, json=body, params=_at(snapshot), headers=headers, again=True)

    def _ask(
        self, method: str, path: str, *, json: Any = None, params: Any = None, headers: dict[str, str] | None = None,
        again: bool = False,
    ) -> httpx.Response:  # fmt: skip
        """again: whether asking twice does no more than asking once; reading never does."""
        for tried in range(1, TRIES + 1):
            may_repeat = (again or method == "GET") and tried < TRIES
            try:
                answer = self._http.request(
                    method, path, json=json, params=params, headers=self._headers | (headers or {})
                )
            except httpx.TransportError:
                if not may_repeat:
                    raise
                time.sleep(0.2 * 2**tried)
                continue
            if answer.status_code in (429, 503) and may_repeat:
                time.sleep(min(float(answer.headers.get("retry-after", 1.0)), MOST_WAIT_SECONDS))
                continue
            if answer.is_error:
                raise _refusal(answer)
            return answer
        raise AssertionError("the last try returns or raises")


def _at(snapshot: Which) -> dict[str, int | str]:
    if snapshot is None:
        return {}
    return {"tag" if isinstance(snapshot, str) else "snapshot": snapshot}


def _refusal(answer: httpx.Response) -> ServiceError:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.reason_phrase
    return ServiceError(answer.status_code, detail, answer.headers.get("x-request-id", ""))
