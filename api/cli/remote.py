"""Commands that ask a service: `--server URL`."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from api.client import Client, ServiceError
from curation.clips.errors import WrongCall


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
