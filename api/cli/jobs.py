"""`cinemill jobs`: hand work to a service, look at it, stop it; and what a curation would take."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from api.cli.curation import Json
from api.cli.remote import connected
from api.client import Client, told
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
    with connected(server) as service:
        job = service.submit(key, **request)
        if watch:
            return _watch(service, job.id, as_json)
    print(json.dumps(told(job)) if as_json else f"{job.id}  {job.state}\nnext: cinemill jobs watch {job.id}")


@jobs_app.command("list")
def list_command(
    state: Annotated[list[str] | None, typer.Option(help="Only of this state; may be repeated.")] = None,
    server: Server = HERE,
    as_json: Json = False,
) -> None:
    """The newest jobs."""
    with connected(server) as service:
        jobs = service.jobs(*(state or ()))
    if as_json:
        print(json.dumps([told(job) for job in jobs]))
        return
    table = Table("job", "kind", "state", "owner", "attempts", "created (UTC)", "what", box=None)
    table.columns[0].min_width = 16  # a name that is cut off names nothing
    for job in jobs:
        what = job.error or (f"snapshot {job.snapshot}" if job.snapshot else "")
        created = job.created_at[:19].replace("T", " ")
        table.add_row(job.id, job.kind, job.state, job.owner, str(job.attempts), created, what[:80])
    Console().print(table)


@jobs_app.command("show")
def show_command(job: JobId, server: Server = HERE, as_json: Json = False) -> None:
    """Everything about a job: what was asked for, its counters by stage, its error or its result."""
    with connected(server) as service:
        found = told(service.job(job))
    print(json.dumps(found) if as_json else json.dumps(found, indent=2))


@jobs_app.command("cancel")
def cancel_command(job: JobId, server: Server = HERE) -> None:
    """Ask a job to stop; what does not stop by itself is terminated after a while."""
    with connected(server) as service:
        state = service.cancel(job).state
    print(f"{job}  {state}{', asked to stop' if state != 'cancelled' else ''}")


@jobs_app.command("watch")
def watch_command(job: JobId, server: Server = HERE, as_json: Json = False) -> None:
    """Follow a job until it has ended, also over a restart of the service. Exit code 0 if it succeeded, 1 if not."""
    with connected(server) as service:
        _watch(service, job, as_json)


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


def _watch(service: Client, job_id: str, as_json: bool) -> None:
    for event in service.events(job_id, patience=RECONNECT_SECONDS):
        kind, data = event.kind, event.data
        if as_json:
            print(json.dumps({"event": kind, **data}), flush=True)
        elif kind == "progress":
            counts = ", ".join(f"{value} {name}" for name, value in (data.get("counts") or {}).items() if value)
            print(f"{data.get('stage')} {data.get('done')}/{data.get('total')}  {counts}", flush=True)
        elif kind == "state":
            print(f"{data['state']}  {data.get('error') or ''}".rstrip(), flush=True)
    if service.job(job_id).state != "succeeded":
        raise typer.Exit(1)
