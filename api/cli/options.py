"""Options that commands on a lake share."""

from typing import Annotated

import typer

from curation.clips import Lake
from curation.clips.errors import UnknownSnapshot


def _number_or_tag(text: str) -> int | str:
    return int(text) if text.isdigit() else text


Dataset = Annotated[str | None, typer.Option(help="The data set, if the lake holds several.", metavar="NAME")]
Which = Annotated[
    int | None,
    typer.Option(help="The snapshot's number or tag; the newest by default.", metavar="N", parser=_number_or_tag),
]


def open_lake(out: str, catalog: str | None) -> Lake:
    """Raises `UnknownSnapshot` where there is none."""
    if not Lake.exists(out, catalog):
        raise UnknownSnapshot(f"{out} is not a lake: no catalog there; `cinemill curate ... --out {out}` makes one")
    return Lake(out, catalog)
