"""`cinemill jobs`: hand work to a service, look at it, stop it; and what a curation would take."""

import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from api.cli.curation import Json
from curation.clips.errors import WrongCall

HELP = """Hand work to a running service, watch it, stop it.

  cinemill jobs submit curate sources=/data/footage recipe=demo --watch

  cinemill jobs submit train model=tae dataset=demo out=tae recipe=tae_demo

  cinemill jobs estimate ~/footage --recipe moviegen_256 --workers 64
"""
RECONNECT_SECONDS = 600.0  # how long a service may be away while it is watched

jobs_app = typer.Typer(help=HELP, no_args_is_help=True)
Server = Annotated[str, typer.Option(help="Where the service listens.", metavar="URL", envvar="CINEMILL_SERVER")]
JobId = Annotated[str, typer.Argument(metavar="JOB")]
HERE = "http://127.0.0.1:8000"


@jobs_app.command("submit")
def submit_command(
    kind: Annotated[
        str, typer.Argument(help="curate, rethreshold, encode, train, generate, evaluate, export, estimate.")
    ],
    fields: Annotated[
        list[str] | None,
        typer.Argument(help="What /v1/openapi.json lists for the kind; values may be JSON.", metavar="NAME=VALUE..."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key is the same job.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    server: Server = HERE,
    as_json: Json = False,
) -> None:
    """Submit a job.

    Example: cinemill jobs submit curate sources=/data/footage recipe=demo dataset=first limit=100
    """
    request: dict[str, Any] = {"kind": kind}
    for field in fields or ():
        name, sign, value = field.partition("=")
        if not sign:
            raise WrongCall(f"{field!r} must be NAME=VALUE")
        if name == "sources":
            request.setdefault("sources", []).extend(_value(value) if value.startswith("[") else [value])
        else:
            request[name] = _value(value)
    # a key of our own makes the retry of a lost answer safe
    job = _ask(server, "POST", "/v1/jobs", request, {"idempotency-key": key or secrets.token_hex(16)})
    if watch:
        return _watch(server, job["id"], as_json)
    print(json.dumps(job) if as_json else f"{job['id']}  {job['state']}\nnext: cinemill jobs watch {job['id']}")


@jobs_app.command("list")
def list_command(
    state: Annotated[list[str] | None, typer.Option(help="Only of this state; may be repeated.")] = None,
    server: Server = HERE,
    as_json: Json = False,
) -> None:
    """The newest jobs."""
    query = "".join(f"&state={name}" for name in state or ())
    jobs = _ask(server, "GET", f"/v1/jobs?limit=100{query}")
    if as_json:
        print(json.dumps(jobs))
        return
    table = Table("job", "kind", "state", "owner", "attempts", "created (UTC)", "what", box=None)
    for job in jobs:
        what = job["error"] or (f"snapshot {job['snapshot']}" if job["snapshot"] else "")
        created = job["created_at"][:19].replace("T", " ")
        table.add_row(job["id"], job["kind"], job["state"], job["owner"], str(job["attempts"]), created, what[:80])
    Console().print(table)


@jobs_app.command("show")
def show_command(job: JobId, server: Server = HERE, as_json: Json = False) -> None:
    """Everything about a job: what was asked for, its counters by stage, its error or its result."""
    found = _ask(server, "GET", f"/v1/jobs/{job}")
    print(json.dumps(found) if as_json else json.dumps(found, indent=2))


@jobs_app.command("cancel")
def cancel_command(job: JobId, server: Server = HERE) -> None:
    """Ask a job to stop; what does not stop by itself is terminated after a while."""
    found = _ask(server, "POST", f"/v1/jobs/{job}/cancel")
    print(f"{job}  {found['state']}{', asked to stop' if found['state'] != 'cancelled' else ''}")


@jobs_app.command("watch")
def watch_command(job: JobId, server: Server = HERE, as_json: Json = False) -> None:
    """Follow a job until it has ended, also over a restart of the service. Exit code 0 if it succeeded, 1 if not."""
    _watch(server, job, as_json)


@jobs_app.command("estimate")
def estimate_command(
    sources: Annotated[list[str], typer.Argument(help="As for `cinemill curate`.")],
    recipe: Annotated[str, typer.Option(help="As for `cinemill curate`.")] = "demo",
    limit: Annotated[int | None, typer.Option(help="Only the first so many videos.")] = None,
    sample: Annotated[str | None, typer.Option(help="As for `cinemill curate`.", metavar="SEED:SHARE")] = None,
    probe: Annotated[
        int, typer.Option(min=2, max=200, help="Videos that are curated to learn the cost, at most.")
    ] = 200,
    probe_seconds: Annotated[float, typer.Option(min=1.0, help="Seconds of footage among them, at most.")] = 1800.0,
    workers: Annotated[int, typer.Option(min=1, help="Cores that the hours are told for.")] = 16,
    price_per_cpu_hour: Annotated[float | None, typer.Option(min=0.0, help="In any currency.")] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray; one is started by default.")] = None,
    as_json: Json = False,
    progress_file: Annotated[Path | None, typer.Option(hidden=True, envvar="CINEMILL_PROGRESS")] = None,
) -> None:
    """What curating this footage would take, here and now: a probe of it is curated and thrown away. Writes nothing.

    Example: cinemill jobs estimate ~/footage --recipe moviegen_256 --workers 64 --price-per-cpu-hour 0.04
    """
    from api.cli.progress import CurationProgress
    from api.estimate import estimate
    from curation.recipes import load_recipe

    with CurationProgress(progress_file, quiet=as_json) as progress:
        found = estimate(
            sources, load_recipe(recipe), limit=limit, sample=sample, most=probe, most_seconds=probe_seconds,
            address=address, progress=progress,
        )  # fmt: skip
    hours = found["cpu_hours"]
    found |= {"workers": workers, "hours": {name: value / workers for name, value in hours.items()}}
    if price_per_cpu_hour is not None:
        found["cost"] = {name: value * price_per_cpu_hour for name, value in hours.items()}
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['videos']} videos; {found['probed']} of them curated ({found['probe_seconds']:.0f} s of footage)")
    print(f"{found['cpu_seconds_per_second']:.2f} CPU seconds for a second of footage")
    for name, unit in (
        ("footage_hours", "h of footage"),
        ("cpu_hours", "CPU-hours"),
        ("hours", f"h on {workers} cores"),
        ("cost", "cost"),
    ):
        if name in found:
            print(
                f"{found[name]['value']:12.3f} {unit:<16} {found[name]['low']:.3f} to {found[name]['high']:.3f} (95 %)"
            )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _headers() -> dict[str, str]:
    from api.settings import access_token

    token = access_token()
    return {} if token is None else {"authorization": f"Bearer {token}"}


def _ask(server: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    """The answer of a service; its refusals are wrong calls, its absence says where nobody answers."""
    import httpx

    try:
        answer = httpx.request(
            method, server.rstrip("/") + path, json=body, headers=_headers() | (headers or {}), timeout=60.0
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WrongCall(
            f"no service answers at {server} ({error}); `cinemill serve` starts one, --server names another"
        ) from None
    if answer.is_error:
        raise WrongCall(f"{server} refuses: {_detail(answer)}")
    return answer.json()


def _detail(answer: Any) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _watch(server: str, job_id: str, as_json: bool) -> None:
    for kind, data in _events(server, job_id):
        if as_json:
            print(json.dumps({"event": kind, **data}), flush=True)
        elif kind == "progress":
            counts = ", ".join(f"{value} {name}" for name, value in (data.get("counts") or {}).items() if value)
            print(f"{data.get('stage')} {data.get('done')}/{data.get('total')}  {counts}", flush=True)
        elif kind == "state":
            print(f"{data['state']}  {data.get('error') or ''}".rstrip(), flush=True)
    ended = _ask(server, "GET", f"/v1/jobs/{job_id}")
    if ended["state"] != "succeeded":
        raise typer.Exit(1)


def _events(server: str, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, data) from the first event to the last; a connection that breaks is taken up where it was."""
    import httpx

    last, heard = 0, time.monotonic()
    while True:
        try:
            headers = _headers() | {"last-event-id": str(last)}
            with httpx.stream(
                "GET", f"{server.rstrip('/')}/v1/jobs/{job_id}/events", headers=headers, timeout=60.0
            ) as answer:
                if answer.is_error and answer.status_code != 503:
                    answer.read()
                    raise WrongCall(f"{server} refuses: {_detail(answer)}")
                fields: dict[str, str] = {}
                for line in answer.iter_lines() if not answer.is_error else ():
                    heard = time.monotonic()
                    name, _, value = line.partition(": ")
                    if line:
                        fields[name] = value
                    elif "id" in fields:
                        last = int(fields["id"])
                        yield fields["event"], json.loads(fields["data"])
                        fields = {}
            state = _ask(server, "GET", f"/v1/jobs/{job_id}")["state"]
            if state in ("succeeded", "failed", "cancelled"):
                return
        except httpx.HTTPError:
            if time.monotonic() - heard > RECONNECT_SECONDS:
                raise WrongCall(f"{server} has not answered for {RECONNECT_SECONDS:.0f} s") from None
            print("the service does not answer; waiting for it", file=sys.stderr)
        time.sleep(1.0)
