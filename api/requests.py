"""What a job may ask for, kind by kind; and the check of every path it names against the folders of this service."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, field_validator, model_validator

from api.roots import OutsideRoots, allowed_place, allowed_source
from api.settings import Settings
from curation.clips import Lake

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
LAYOUT = r"^[A-Za-z0-9_=,.-]*$"
Name = Annotated[str, Field(pattern=NAME)]
Path_ = Annotated[str, Field(min_length=1, max_length=4096)]
Snapshot = Annotated[int | None, Field(ge=0, lt=2**31, description="its number; the newest when the job is submitted")]
Model = Literal["tae", "video"]


class Request(BaseModel):
    """What all kinds have."""

    model_config = ConfigDict(extra="forbid")

    priority: int = Field(0, ge=-100, le=100, description="the higher goes first")

    @field_validator("*")
    @classmethod
    def no_nul(cls, value: object) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must not contain a NUL character")
        return value


class _Footage(Request):
    sources: list[Path_] = Field(min_length=1, max_length=1000)
    recipe: Path_ = Field("demo", description="a recipe's name, or its YAML or TOML file")
    limit: int | None = Field(None, ge=1, le=10**9, description="at most so many new videos")
    sample: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.-]{1,64}:(0?\.[0-9]{1,12}|1|1\.0)$", description="SEED:SHARE"
    )


class CurateRequest(_Footage):
    """Footage to curate into a data set of this service's lake."""

    kind: Literal["curate"] = "curate"
    dataset: Name | None = Field(None, description="default: the recipe's name")
    retry_quarantined: bool = False
    cut: Literal["copy", "exact"] | None = Field(None, description="also write a file for every kept clip")


class EstimateRequest(_Footage):
    """What curating this footage would take, from a probe of it that is really curated (and thrown away)."""

    kind: Literal["estimate"] = "estimate"
    probe: int = Field(200, ge=2, le=200, description="videos that are curated to learn the cost, at most")
    probe_seconds: float = Field(1800.0, gt=0, le=36_000, description="seconds of footage in the probe, at most")
    workers: int = Field(16, ge=1, le=100_000, description="cores that the hours are told for")
    price_per_cpu_hour: float | None = Field(None, ge=0, description="default: the service's")


class RethresholdRequest(Request):
    """Another recipe over a data set that there is: what was measured stays, only the decisions are new."""

    kind: Literal["rethreshold"]
    dataset: Name
    recipe: Path_
    into: Name | None = Field(None, description="the data set that is written; default: the same")


class _OnSnapshot(Request):
    dataset: Name
    snapshot: Snapshot = None


class EncodeRequest(_OnSnapshot):
    """Fill a cache with latents and text embeddings."""

    kind: Literal["encode"]
    tae: Path_
    out: Path_ = Field(description="the cache's folder, within the service's outputs")
    recipe: Path_ = "video_demo"


class TrainRequest(_OnSnapshot):
    """Train an autoencoder or a video transformer. A run that is there already goes on from its newest checkpoint."""

    kind: Literal["train"]
    model: Model
    out: Path_ = Field(description="the run's folder, within the service's outputs")
    recipe: Path_ | None = None
    tae: Path_ | None = Field(None, description="of a video transformer: its autoencoder's run")
    start: Path_ | None = Field(None, description="of a video transformer: the run of the stage before")
    cache: Path_ | None = None
    workers: str = Field("1", pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$")
    parallel: str = Field("", max_length=200, pattern=LAYOUT)
    restarts: int = Field(3, ge=0, le=100)

    @model_validator(mode="after")
    def fits_its_model(self) -> "TrainRequest":
        if self.model == "video" and self.tae is None:
            raise ValueError("tae: a video transformer needs its autoencoder's run")
        if self.model == "tae" and (self.tae or self.start or self.cache or self.parallel):
            raise ValueError("tae, start, cache and parallel belong to model=video")
        return self


class GenerateRequest(Request):
    """A video from a prompt."""

    kind: Literal["generate"]
    checkpoint: Path_
    prompt: str = Field(min_length=1, max_length=10_000)
    out: Path_ = Field(pattern=r"\.mp4$", description="the file, within the service's outputs")
    steps: int = Field(50, ge=1, le=1000)
    guidance: float = Field(7.5, ge=0, le=100)
    seed: int = Field(0, ge=0, lt=2**63)
    schedule: Literal["linear-quadratic", "linear"] = "linear-quadratic"
    frames: int | None = Field(None, ge=1, le=100_000)
    height: int | None = Field(None, ge=1, le=100_000)
    width: int | None = Field(None, ge=1, le=100_000)
    fps: float | None = Field(None, gt=0, le=1000)
    tae: Path_ | None = None


class EvaluateRequest(_OnSnapshot):
    """Measure a trained model on a snapshot; the summary is the job's result."""

    kind: Literal["evaluate"]
    model: Model
    checkpoint: Path_
    tae: Path_ | None = None
    samples: int = Field(0, ge=0, le=1000)
    against: Path_ | None = None

    @model_validator(mode="after")
    def fits_its_model(self) -> "EvaluateRequest":
        if self.model == "tae" and (self.tae or self.samples or self.against):
            raise ValueError("tae, samples and against belong to model=video")
        return self


class ExportRequest(_OnSnapshot):
    """One table of a snapshot as one file."""

    kind: Literal["export"]
    out: Path_ = Field(pattern=r"\.(parquet|csv)$", description="the file, within the service's outputs")
    table: Literal["ledger", "videos", "clips"] = "ledger"


class FetchRequest(Request):
    """Footage from the web into a folder of the service's outputs, whose footage.parquet a curation then reads."""

    kind: Literal["fetch"]
    sources: list[Path_] = Field(
        min_length=1, max_length=1000, description="https:// URLs, or lists of them in a column uri"
    )
    out: Path_ = Field(description="the folder, within the service's outputs")
    connections: int = Field(8, ge=1, le=64)
    max_gib: float = Field(20.0, gt=0, le=1000, description="of one file")
    max_seconds: float = Field(3600.0, ge=1, le=86_400, description="for one file")


Asked = (
    FetchRequest | CurateRequest | EstimateRequest | RethresholdRequest | EncodeRequest | TrainRequest | GenerateRequest | EvaluateRequest
    | ExportRequest
)  # fmt: skip
KINDS: dict[str, type[Request]] = {
    "fetch": FetchRequest, "curate": CurateRequest, "estimate": EstimateRequest, "rethreshold": RethresholdRequest, "encode": EncodeRequest,
    "train": TrainRequest, "generate": GenerateRequest, "evaluate": EvaluateRequest, "export": ExportRequest,
}  # fmt: skip


def _kind(value: Any) -> str | None:
    return value.get("kind", "curate") if isinstance(value, dict) else getattr(value, "kind", None)


JobRequest = Annotated[
    Annotated[FetchRequest, Tag("fetch")]
    | Annotated[CurateRequest, Tag("curate")]
    | Annotated[EstimateRequest, Tag("estimate")]
    | Annotated[RethresholdRequest, Tag("rethreshold")]
    | Annotated[EncodeRequest, Tag("encode")]
    | Annotated[TrainRequest, Tag("train")]
    | Annotated[GenerateRequest, Tag("generate")]
    | Annotated[EvaluateRequest, Tag("evaluate")]
    | Annotated[ExportRequest, Tag("export")],
    Discriminator(_kind),
]
"""Any of them, told apart by `kind`, which is curate by default."""
_ANY: TypeAdapter[Any] = TypeAdapter(JobRequest)


def read_request(kind: str, stored: dict[str, Any]) -> Any:
    """The request of a stored job, of an earlier version too."""
    return _ANY.validate_python({**stored, "kind": kind})


def checked(asked: Any, settings: Settings, lake: Lake) -> Any:
    """The request as a job may have it: absolute paths inside the allowed folders, recipes that load, a snapshot's number.

    Raises OutsideRoots for a path, ValueError (WrongCall) for anything else that is wrong.
    """
    found: dict[str, Any] = {}
    inputs = (*settings.allowed_roots, *map(str, settings.output_roots))
    if isinstance(asked, _Footage):
        found["sources"] = [allowed_source(source, inputs) for source in asked.sources]
    if isinstance(asked, FetchRequest):
        found["sources"] = [
            source if source.startswith("https://") else allowed_place(source, inputs) for source in asked.sources
        ]
    for name in ("tae", "start", "cache", "checkpoint", "against"):
        if path := getattr(asked, name, None):
            within = settings.output_roots[0] / path if settings.output_roots and "://" not in path else path
            found[name] = allowed_source(str(within), inputs)
    if isinstance(asked, TrainRequest) and asked.cache is not None:
        found["cache"] = allowed_output(asked.cache, settings)
    if out := getattr(asked, "out", None):
        found["out"] = allowed_output(out, settings)
    if recipe := getattr(asked, "recipe", None):
        if "/" in recipe or Path(recipe).suffix in (".yaml", ".yml", ".toml"):
            recipe = found["recipe"] = allowed_source(recipe, settings.allowed_roots)
        _load_recipe(asked, recipe)
    if isinstance(asked, RethresholdRequest):
        lake.snapshot(asked.dataset)
    if isinstance(asked, _OnSnapshot):  # the same snapshot, however often the job is tried
        found["snapshot"] = lake.snapshot(asked.dataset, asked.snapshot).number
    return asked.model_copy(update=found)


def allowed_output(path: str, settings: Settings) -> str:
    """An absolute path that a job may write: relative ones lie in the first of the output folders. Raises OutsideRoots."""
    roots = settings.output_roots
    if not roots:
        raise OutsideRoots("no folder that jobs may write into is named; set CINEMILL_OUTPUTS")
    try:
        found = (roots[0] / path).resolve()
    except (OSError, RuntimeError, ValueError):
        found = Path("/")
    data = settings.data_folder
    in_lake = data is not None and (found.is_relative_to(data) or data.is_relative_to(found))
    if "://" in path or in_lake or not any(found != root and found.is_relative_to(root.resolve()) for root in roots):
        names = ", ".join(map(str, roots))
        raise OutsideRoots(
            f"{path[:300]!r} is outside the folders that jobs may write into: {names} (CINEMILL_OUTPUTS)"
        )
    return str(found)


def _load_recipe(asked: Any, recipe: str) -> None:
    if isinstance(asked, _Footage | RethresholdRequest):
        from curation.recipes import load_recipe

        load_recipe(recipe)
    elif isinstance(asked, TrainRequest) and asked.model == "tae":
        from training.recipes import load_tae_recipe

        load_tae_recipe(recipe)
    else:
        from training.recipes import load_video_recipe

        load_video_recipe(recipe)
