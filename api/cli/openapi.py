"""`cinemill openapi`: the interface of the service, written down."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer


def openapi_command(
    file: Annotated[Path | None, typer.Argument(help="Where to write; without it, it is printed.")] = None,
) -> None:
    """Write the OpenAPI 3.1 document of this version. docs/openapi.json is one; a test compares."""
    from api.app import create_app
    from api.cli.service import read_settings
    from curation.clips import WrongCall

    with tempfile.TemporaryDirectory() as folder:
        document = create_app(read_settings(data=folder)).openapi()
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if file is None:
        print(text, end="")
        return
    try:
        file.write_text(text)
    except OSError as error:
        raise WrongCall(f"cannot write {file}: {error.strerror}") from None
