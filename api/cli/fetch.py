"""`cinemill fetch`: footage from the web into a folder."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from api.cli.curation import Json


def fetch_command(
    sources: Annotated[
        list[str],
        typer.Argument(help="https:// URLs, or .csv/.parquet lists of them in a column uri.", metavar="URL..."),
    ],
    out: Annotated[str, typer.Option(help="Where the files and their list go.", metavar="FOLDER")] = "footage",
    connections: Annotated[int, typer.Option(min=1, max=64, help="Files that are fetched at the same time.")] = 8,
    max_gib: Annotated[float, typer.Option(min=0.0, help="A file may have so many GiB.")] = 20.0,
    max_seconds: Annotated[float, typer.Option(min=1.0, help="A file may take so long.")] = 3600.0,
    as_json: Json = False,
) -> None:
    """Footage from the web. What is there is not fetched again; run it again and only what failed is tried.

    Only https, only public addresses, three redirects at most. OUT/footage.parquet lists every URL with the columns of its list;
    what could not be had is in it with the reason, and is quarantined by `cinemill curate`.

    Example: cinemill fetch footage.csv --out footage, then: cinemill curate footage/footage.parquet
    """
    import sys
    import time

    from api.cli.progress import tell_service
    from curation.sources.fetch import fetch
    from curation.sources.web import Fetcher, Limits

    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"), console=Console(stderr=True), disable=as_json or not sys.stderr.isatty(),
    )  # fmt: skip
    limits, started = Limits(bytes=int(max_gib * 2**30), seconds=max_seconds), time.monotonic()
    with bars, Fetcher(limits) as fetcher:
        task = bars.add_task("fetching", total=None, note="")

        def show(done: int, total: int, size: int) -> None:
            bars.update(task, completed=done, total=total, note=f"{size / 2**20:,.0f} MiB")
            tell_service("fetch", done, total, time.monotonic() - started, costs={"bytes": size})

        told = fetch(sources, out, fetcher=fetcher, connections=connections, progress=show)
    if as_json:
        print(json.dumps(vars(told)))
        return
    print(f"{told.list}: {told.urls} URLs = {told.fetched} fetched + {told.there} there + {len(told.failed)} failed")
    for url, why in sorted(told.failed.items())[:20]:
        print(f"  {url}: {why}")
    print(f"next: cinemill curate {told.list}")
