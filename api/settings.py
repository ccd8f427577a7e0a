"""What the service may do and where it keeps its things; the only reader of environment variables but for a caller's token."""

import hashlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

try:
    VERSION = version("cinemill")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """Every field is also an environment variable: `roots` is `CINEMILL_ROOTS`, lists are separated by commas."""

    model_config = SettingsConfigDict(env_prefix="CINEMILL_", frozen=True, extra="forbid")

    data: str = "data"
    """The lake that is shown and written to: a folder, or a bucket's URI."""
    catalog: str | None = None
    """Database URL of the lake's catalog; a bucket needs one, a folder has its own."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names answered beside the loopback ones and `host`. Others are refused (DNS rebinding)."""

    roots: Annotated[tuple[str, ...], NoDecode] = ()
    """Folders, or prefixes of bucket URIs, that jobs may read. Empty: the folder above `data`, and the working folder."""
    state_dir: Path | None = None
    """Jobs, their logs and previews. None: `.service` in the data folder, or the user's cache if data is in a bucket."""
    cache_dir: Path | None = None
    """Where previews are kept. None: `previews` in the state folder."""
    cache_bytes: int = Field(2 * 2**30, ge=0)
    """Previews beyond this many bytes leave, the least recently used first."""
    preview_workers: int = Field(1, ge=1, le=16)
    preview_seconds: float = Field(60.0, gt=0)
    """A preview that takes longer than this is given up: its worker is killed."""

    ray_address: str | None = None
    """None: jobs are child processes. Else the address of a Ray dashboard, like http://127.0.0.1:8265: jobs are Ray jobs."""
    job_command: Annotated[tuple[str, ...], NoDecode] = (sys.executable, "-m", "api.cli")
    """How jobs call the command line; on a Ray cluster, how it is called there."""
    database_url: str | None = None
    """Where jobs are kept: postgresql://USER@HOST/NAME. None: `jobs.db` in the state folder (SQLite)."""
    outputs: Annotated[tuple[str, ...], NoDecode] = ()
    """Folders that jobs may write runs, caches, clips and exports into. Empty: `runs` beside the data folder."""
    max_running: int = Field(1, ge=1)
    """Jobs that this service runs at the same time; the others wait."""
    max_running_per_owner: int = Field(4, ge=1)
    """Of one owner's jobs, over all services of the database."""
    max_waiting_per_owner: int = Field(1000, ge=1)
    """More are refused with 429."""
    max_attempts: int = Field(3, ge=1)
    """How often a job is tried when machines fail. What fails by its own words or its own code is not tried again."""
    retry_seconds: float = Field(10.0, ge=0)
    """Before the second attempt, about; twice as long before each further one, at most `retry_seconds_max`."""
    retry_seconds_max: float = Field(600.0, ge=0)
    lease_seconds: float = Field(15.0, gt=0)
    """How long running work belongs to a service that gives no sign; then another one with the same database adopts it."""
    price_per_cpu_hour: float | None = Field(None, ge=0)
    price_per_gpu_hour: float | None = Field(None, ge=0)
    """What a job's counters and estimates are priced at, in any currency. None: no costs are told."""
    poll_seconds: float = Field(0.25, gt=0)
    cancel_grace_seconds: float = Field(15.0, ge=0)
    """How long a cancelled job may take to stop by itself, before it is terminated, then killed."""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    """`info` logs every request; logs are JSON lines on stderr."""
    shutdown_seconds: int = Field(5, ge=0)
    """How long requests may still take after Ctrl-C or SIGTERM; jobs go on without the service."""
    max_body_bytes: int = Field(1_000_000, ge=1)
    max_streams: int = Field(64, ge=1)
    max_streams_per_owner: int = Field(32, ge=1)
    """Event streams that may be open, altogether and of one owner; more are refused with 503."""
    table_cache_bytes: int = Field(2**30, ge=0)
    """Tables of snapshots held in memory, at most; the least recently used leave first."""
    vector_cache_bytes: int = Field(2**30, ge=0)
    """Vectors of clips held in memory, for searches; those of a snapshot that take more are read anew by every search."""
    require_tokens: bool = False
    """Ask for a personal access token even on loopback; any other address always asks for one."""
    reads_per_minute: int = Field(3000, ge=1)
    """Requests of one token that only read; more are answered 429."""
    writes_per_minute: int = Field(120, ge=1)
    """Requests of one token that change something."""
    failures_per_minute: int = Field(30, ge=1)
    """Wrong tokens from one address that are answered 401; more are answered 429."""
    query_memory: str = Field("1GiB", pattern=r"^[0-9]+(MiB|GiB)$")
    """What all queries over manifests together may hold in memory; more goes to a temporary folder, up to `query_disk`."""
    query_disk: str = Field("8GiB", pattern=r"^[0-9]+(MiB|GiB)$")
    query_threads: int = Field(2, ge=1)
    query_seconds: float = Field(20.0, gt=0)
    """A query that takes longer than this is interrupted."""
    score_sample: int = Field(50_000, ge=1)
    """Clips whose scores the page is sent; more are sampled, and its figures are then called estimates."""

    @field_validator("roots", "allowed_hosts", "job_command", "outputs", mode="before")
    @classmethod
    def split_commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def data_folder(self) -> Path | None:
        """The lake's folder, or None if it is in a bucket."""
        if self.data.startswith("file://"):
            return Path(self.data.removeprefix("file://")).resolve()
        return None if "://" in self.data else Path(self.data).resolve()

    @property
    def allowed_roots(self) -> tuple[str, ...]:
        """`roots`, or what stands in for them; the root of the file system only if it was asked for by name."""
        if self.roots:
            return tuple(root if "://" in root else str(Path(root).resolve()) for root in self.roots)
        folder = self.data_folder
        usual = [Path.cwd().resolve()] if folder is None else [folder.parent, Path.cwd().resolve()]
        return tuple(dict.fromkeys(str(root) for root in usual if root != Path(root.anchor)))

    @property
    def output_roots(self) -> tuple[Path, ...]:
        """`outputs`, or what stands in for them. None at all for a lake in a bucket, until folders are named."""
        if self.outputs:
            return tuple(Path(folder).resolve() for folder in self.outputs)
        return () if self.data_folder is None else (self.data_folder.parent / "runs",)

    @property
    def database(self) -> Path | str:
        """Where jobs are kept, as `JobStore` takes it."""
        return self.database_url or self.state_folder / "jobs.db"

    @property
    def state_folder(self) -> Path:
        if self.state_dir is not None:
            return self.state_dir.resolve()
        if self.data_folder is not None:
            return self.data_folder / ".service"
        return Path.home() / ".cache" / "cinemill" / hashlib.sha256(self.data.encode()).hexdigest()[:16]

    @property
    def preview_folder(self) -> Path:
        return self.cache_dir.resolve() if self.cache_dir is not None else self.state_folder / "previews"

    @property
    def answered_hosts(self) -> frozenset[str]:
        """Names that the Host header may carry, lower case, without a port."""
        return frozenset(name.lower() for name in (*LOOPBACK_NAMES, self.host, *self.allowed_hosts))

    @property
    def asks_for_tokens(self) -> bool:
        return self.require_tokens or not self.is_loopback

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK_NAMES or self.host.startswith("127.")


def progress_file() -> str | None:
    """The file that the service reads, for a command that a service started."""
    return os.environ.get("CINEMILL_PROGRESS")


def bucket_defaults(uri: str) -> dict[str, str]:
    """Where a lake's bucket is, as readers of Iceberg are told it: endpoint and region of the standard chain, no credentials."""
    found = {
        "s3.endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "s3.region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    return {name: value for name, value in found.items() if value} if uri.startswith("s3://") else {}


def child_environment(**more: str) -> dict[str, str]:
    """The environment a job's process starts with: ours, and `more`."""
    return {**os.environ, **more}
