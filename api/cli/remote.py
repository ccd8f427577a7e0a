"""Commands that ask a service: `--server URL`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import httpx
import typer

from api.client import Client, ServiceError, SnapshotInfo
from curation.clips.errors import UnknownSnapshot, WrongCall

Server = Annotated[
    str | None,
    typer.Option(help="Ask a service instead of opening the lake; CINEMILL_TOKEN is shown to it.", metavar="URL"),
]


@contextmanager
def connected(server: str) -> Iterator[Client]:
    """A client of the service; its refusals are wrong calls, its absence says where nobody answers."""
    try:
        with Client(server) as service:
            yield service
    except ServiceError as refusal:
        raise WrongCall(f"{server} refuses: {refusal.detail}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WrongCall(
            f"no service answers at {server} ({error}); `cinemill serve` starts one, --server names another"
        ) from None


def only_dataset(service: Client, dataset: str | None) -> str:
    """The data set named, or the only one there is."""
    if dataset is not None:
        return dataset
    names = service.datasets()
    if not names:
        raise UnknownSnapshot("nothing was curated there yet")
    if len(names) > 1:
        raise UnknownSnapshot(f"the service has several data sets; name one by --dataset: {', '.join(names)}")
    return names[0]


def chosen_by(service: Client, dataset: str | None, snapshot: int | str | None) -> SnapshotInfo:
    """The snapshot of a number or tag, the newest by default. Raises `UnknownSnapshot`."""
    name = only_dataset(service, dataset)
    told = service.snapshots(name)
    if isinstance(snapshot, str):
        snapshot = next((tag.snapshot for tag in service.tags(name) if tag.name == snapshot), -1)
    for each in told:
        if snapshot in (None, each.number):
            return each
    raise UnknownSnapshot(
        f"no such snapshot of {name}; there are {', '.join(str(each.number) for each in reversed(told))}"
    )
