"""`cinemill serve`: the service on this machine."""

import sys
from typing import Annotated

import typer


def serve_command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    data: Annotated[str | None, typer.Option(help="The lake to show and to curate into: a folder or a bucket's URI.")] = None,
) -> None:
    """Serve the REST interface and the dashboard: data sets, funnels, clips that play, and jobs."""
    import socket

    import uvicorn

    from api.app import create_app
    from api.settings import Settings

    asked: dict[str, str | int] = {"host": host, "port": port}
    settings = Settings(**asked | ({"data": data} if data is not None else {}))  # type: ignore[arg-type]
    if not settings.is_loopback:
        print(
            f"warning: listening on {host}: everybody who reaches it can read the lake and start jobs; there is no login. "
            "Other host names must be allowed by CINEMILL_ALLOWED_HOSTS.",
            file=sys.stderr,
        )
    config = uvicorn.Config(
        create_app(settings), host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=5
    )
    try:
        listening = config.bind_socket()
    except SystemExit:
        raise typer.BadParameter(f"cannot listen on {host}:{port}; is another service there? --port 0 takes a free one") from None
    bound = listening.getsockname()[1]
    shown = f"[{host}]" if listening.family == socket.AF_INET6 else host
    print(f"Cinemill serves {settings.data} on http://{shown}:{bound}/ (Ctrl-C stops it; running jobs go on)", flush=True)
    uvicorn.Server(config).run(sockets=[listening])
