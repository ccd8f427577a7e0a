"""`cinemill serve`: the service on this machine."""

import contextlib
import fcntl
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from api.settings import Settings


def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", show_default="8000")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The lake to show and to curate into.", metavar="URI", show_default="data")
    ] = None,
) -> None:
    """Serve the dashboard and the REST interface of a lake: data sets, funnels, clips that play, and jobs.

    Other settings are environment variables: CINEMILL_ROOTS (folders that jobs may read), CINEMILL_RAY_ADDRESS (run jobs
    as Ray jobs), CINEMILL_CACHE_DIR, CINEMILL_ALLOWED_HOSTS and more; see api/settings.py. On loopback nobody is asked for a
    token; any other --host needs one with the scope admin first, see `cinemill token create --help`.
    """
    import uvicorn

    from api.app import create_app
    from api.auth import TokenStore
    from api.database import JobStore
    from api.tracing import log_as_json
    from curation.clips import WrongCall

    settings = read_settings(host=host, port=port, data=data)
    service = create_app(settings)

    class Serving(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.state.streams.are_ending = True  # else they would hold the service until its patience ends
            super().handle_exit(sig, frame)

    lock = _claim(settings.state_folder)
    if settings.asks_for_tokens:
        store = JobStore(settings.database)
        if not TokenStore(store.engine).has_admin():
            raise WrongCall(
                f"{settings.host} asks every caller for a token, and there is none with the scope admin yet; make one: "
                f"cinemill token create NAME --scope admin --data {settings.data}"
            )
        store.close()
    log_as_json(sys.stderr, settings.log_level)
    listening = _listen(settings.host, settings.port)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{shown}:{listening.getsockname()[1]}/"
    print(f"Cinemill serves {settings.data} on {url} (Ctrl-C stops it; running jobs go on)", flush=True)
    config = uvicorn.Config(
        service, log_config=None, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):  # how a service ends; uvicorn has put everything away by then
        Serving(config).run(sockets=[listening])
    lock.close()


def read_settings(**asked: Any) -> "Settings":
    """Settings of the environment and what the command line said. Raises WrongCall."""
    from pydantic import ValidationError

    from api.settings import Settings
    from curation.clips import WrongCall

    try:
        return Settings(**{name: value for name, value in asked.items() if value is not None})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise WrongCall(f"setting {'.'.join(str(part) for part in wrong['loc'])}: {wrong['msg']}") from None


def _claim(folder: Path) -> TextIO:
    """Hold the state folder: two services would supervise the same jobs. Raises WrongCall where it cannot be had."""
    from curation.clips import WrongCall

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "service.lock").open("w")
    except OSError as error:
        raise WrongCall(
            f"cannot write to {folder}: {error.strerror}; CINEMILL_STATE_DIR names another folder"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise WrongCall(f"another service runs on {folder}; stop it, or name another CINEMILL_STATE_DIR") from None
    return lock


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises WrongCall where the address is taken, not ours or not to be had."""
    from curation.clips import WrongCall

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise WrongCall(f"cannot listen on {host}:{port} ({error.strerror}); --port 0 takes a free port") from None
    return listening
