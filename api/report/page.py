"""One self-contained HTML file from a snapshot and, where there are any, its trained models and a generated clip."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from api.report.contact import contact_sheet
from api.report.drawings import draw_funnel
from api.report.footage import idle, read_footage
from api.report.learning import read_autoencoder, read_flow
from api.report.run_details import spoken_hours
from api.report.sample import read_sample
from curation.clips import open_snapshot
from training.generate import Generated

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds that one stage took when it last did any work, on which number of cores."""

    stage: str
    seconds: float


def build_report(
    path: Path,
    snapshot: str,
    *,
    tae: Path | None = None,
    video: Path | None = None,
    made: Generated | None = None,
    timings: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the page. What is not there yet (no autoencoder, no transformer, no clip) is left out of it.

    tae, video: folders of finished training runs. timings: seconds by stage. progress: called with (clips done, clips).
    """
    content = gather(snapshot, tae=tae, video=video, made=made, timings=timings, progress=progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(render(content), encoding="utf-8")
    os.replace(partial, path)
    return path


def gather(
    snapshot: str,
    *,
    tae: Path | None = None,
    video: Path | None = None,
    made: Generated | None = None,
    timings: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """What `render` needs, read from the lake and the runs; the arguments of `build_report`."""
    opened = open_snapshot(snapshot)
    footage = read_footage(opened, progress)
    return {
        "snapshot": opened,
        "recipe": opened.commit.recipe.get("name", opened.dataset),
        "now": datetime.now(UTC),
        "version": version("cinemill"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "footage": footage,
        "funnel": draw_funnel(footage.steps, footage.sums["clips"]["in"]),
        "idle": idle(footage.steps),
        "contact": contact_sheet(opened, footage),
        "tae": read_autoencoder(tae) if tae else None,
        "flow": read_flow(video) if video else None,
        "sample": read_sample(made, opened, tae, video) if made and tae and video else None,
        "timings": [Timing(stage=stage, seconds=seconds) for stage, seconds in (timings or {}).items()],
    }


def render(content: Mapping[str, Any], template: str = "report.html") -> str:
    """The page's HTML; every text of a lake or a person is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, "hours": spoken_hours}
    style = Markup((HERE / "templates" / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, **content)


def report_version() -> str:
    """Changes whenever this package does: an older page is made again."""
    digest = hashlib.sha256()
    for file in sorted(HERE.rglob("*")):
        if file.suffix in (".py", ".html", ".css"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _breakable(name: str) -> Markup:
    """A file name that may be broken after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))
