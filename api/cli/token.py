"""`cinemill token`: who may use a service that others can reach."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from api.auth import Token, TokenStore

token_app = typer.Typer(help="Personal access tokens of a service.", no_args_is_help=True)
DataOption = Annotated[
    str | None, typer.Option("--data", help="The lake of the service.", metavar="URI", show_default="data")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@token_app.command("create")
def create_command(
    name: Annotated[str, typer.Argument(help="Whose it is, or what uses it.")],
    scope: Annotated[
        list[str], typer.Option(help="read, annotate, submit or admin; may stand several times.", metavar="SCOPE")
    ] = ["read"],  # noqa: B006  # typer copies it
    days: Annotated[float, typer.Option(min=0.001, max=366, help="Days until it ends.")] = 90.0,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it, this once. Callers send it as `Authorization: Bearer TOKEN`.

    Whoever may submit jobs may run code on the machines that run them.
    """
    from curation.clips import WrongCall

    if not 0 < len(name) <= 100:
        raise WrongCall("a token's name has 1 to 100 characters")
    try:
        token, secret = _store(data).create(name, scope, days)  # type: ignore[arg-type]  # checked there
    except ValueError as error:
        raise WrongCall(f"--scope: {error}") from None
    print(json.dumps(_told(token) | {"token": secret}) if as_json else secret)


@token_app.command("list")
def list_command(data: DataOption = None, as_json: JsonOption = False) -> None:
    """All tokens, the newest first, without their secrets."""
    tokens = _store(data).list()
    if as_json:
        print(json.dumps([_told(token) for token in tokens]))
        return
    for token in tokens:
        told = _told(token)
        print(
            f"{token.id}  {token.prefix}...  {told['state']:8}  to {told['expires_at'][:10]}  {token.scopes}  {token.name}"
        )


@token_app.command("revoke")
def revoke_command(
    token_id: Annotated[str, typer.Argument(help="The id that `token list` shows.")], data: DataOption = None
) -> None:
    """End a token now; a running service refuses it from its next request on."""
    from curation.clips import WrongCall

    token = _store(data).revoke(token_id)
    if token is None:
        raise WrongCall(f"no token {token_id!r}; `cinemill token list` shows their ids")
    print(f"{token.prefix}... ({token.name}) is revoked")


def _store(data: str | None) -> "TokenStore":
    from api.auth import TokenStore
    from api.cli.service import read_settings
    from api.database import JobStore

    return TokenStore(JobStore(read_settings(data=data).database).engine)


def _told(token: "Token") -> dict[str, Any]:
    def moment(seconds: float | None) -> str | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

    now = datetime.now(UTC).timestamp()
    state = "revoked" if token.revoked_at is not None else "valid" if token.is_valid(now) else "ended"
    return {
        "id": token.id, "name": token.name, "prefix": token.prefix, "scopes": token.scopes.split(), "state": state,
        "created_at": moment(token.created_at), "expires_at": moment(token.expires_at),
        "revoked_at": moment(token.revoked_at),
    }  # fmt: skip
