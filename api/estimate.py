"""What curating some footage would take: from a probe that is really curated, with an interval.

Double sampling with a ratio estimator (Cochran, Sampling Techniques, 1977, section 12.9): containers of many videos are asked for their
length, few of those videos are curated, and CPU seconds per second of footage carry over to the rest.
"""

import hashlib
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.clips import UnreadableVideo, WrongCall
from curation.clips.frames import probe
from curation.clips.storage import local_copy
from curation.measure import START_SECONDS, claimed_seconds, facts_row, twice
from curation.pipeline import Progress, curate, plan_run
from curation.prison import Prison
from curation.recipes import Recipe

LOOKS = 500  # containers that are opened at most; 6 ms each on local disks
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Range:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Range":
        return Range(value=self.value * factor, low=self.low * factor, high=self.high * factor)


def estimate(
    sources: Sequence[str],
    recipe: Recipe,
    *,
    limit: int | None = None,
    sample: str | None = None,
    most: int = 200,
    most_seconds: float = 1800.0,
    address: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Curate up to `most` videos (`most_seconds` of footage) into a lake that is thrown away, and scale up.

    Returns videos, looked_at, probed, probe_seconds (of footage), cpu_seconds_per_second, footage_hours and cpu_hours (`Range`s).
    CPU seconds are those of decoding, filters and models, as curation's workers measure them. Raises WrongCall.
    """
    with tempfile.TemporaryDirectory(prefix="cinemill-estimate-") as folder:
        plan = plan_run(sources, recipe, str(Path(folder, "lake")), None, limit, sample)
        uris = sorted((footage.uri for footage in plan.footage), key=_draw)
        seconds = _lengths(uris[:LOOKS])
        probed = _chosen(seconds, most, most_seconds)
        listed = Path(folder, "probe.parquet")
        pq.write_table(pa.table({"uri": probed}), listed)
        same_scores = recipe.model_copy(update={"scores": "ladder" if plan.ladder else "full"})
        lake = plan.lake
        commit = curate([str(listed)], same_scores, lake.uri, plan.dataset, address, progress=progress)
        spent = {row["uri"]: _cpu_seconds(row) for row in lake.snapshot(commit.dataset).table("videos").to_pylist()}
    known = [seconds[uri] for uri in probed]
    hours, total = scale_up(len(uris), list(seconds.values()), known, [spent[uri] for uri in probed])
    return {
        "videos": len(uris), "looked_at": len(seconds), "probed": len(probed), "probe_seconds": sum(known),
        "cpu_seconds_per_second": sum(spent.values()) / max(sum(known), 1e-9),
        "footage_hours": vars(hours.times(1 / 3600)), "cpu_hours": vars(total.times(1 / 3600)),
    }  # fmt: skip


def scale_up(
    population: int, looked: Sequence[float], lengths: Sequence[float], spent: Sequence[float]
) -> tuple[Range, Range]:
    """Seconds of footage, and CPU seconds, of a whole population.

    looked: lengths of a random sample; lengths and spent: of a random part of that sample, what it is long and what it took.
    """
    n_looked, n = len(looked), len(lengths)
    mean = statistics.fmean(looked)
    ratio = sum(spent) / sum(lengths) if sum(lengths) else 0.0
    residuals = [cost - ratio * length for cost, length in zip(spent, lengths, strict=True)]
    around_line = sum(r * r for r in residuals) / max(1, n - 1)
    of_cost = statistics.variance(spent) if n > 1 else 0.0
    of_length = statistics.variance(looked) if n_looked > 1 else 0.0
    unseen = 1 / n_looked - 1 / population
    error = math.sqrt(max(0.0, unseen * of_cost + (1 / n - 1 / n_looked) * around_line))
    footage = _around(population * mean, population * math.sqrt(unseen * of_length) * _student(n_looked - 1))
    return footage, _around(population * mean * ratio, population * error * _student(n - 1), least=sum(spent))


def _around(value: float, margin: float, least: float = 0.0) -> Range:
    return Range(value=value, low=max(min(least, value), value - margin), high=value + margin)


def _student(degrees: int) -> float:
    """Student's t for a 95 % interval, by the Cornish-Fisher expansion around the normal one (1 % off at 4 degrees)."""
    z, v = statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE / 2), max(1, degrees)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


def _draw(uri: str) -> bytes:
    return hashlib.sha256(f"estimate/{uri}".encode()).digest()


def _lengths(uris: Sequence[str]) -> dict[str, float]:
    """Seconds that containers claim; 0 for what cannot be opened."""
    prison, found = Prison(), {}
    for uri in uris:
        try:
            with local_copy(uri) as path:
                facts = facts_row(twice(lambda _: prison.run(probe, path, seconds=START_SECONDS))[0])
                found[uri] = claimed_seconds(facts | {"bytes": Path(path).stat().st_size})
        except (UnreadableVideo, OSError, WrongCall):
            found[uri] = 0.0
    return found


def _chosen(seconds: dict[str, float], most: int, most_seconds: float) -> list[str]:
    """The first of the draw, as many as fit: at least two, so that they can be compared."""
    chosen: list[str] = []
    total = 0.0
    for uri, length in seconds.items():
        if len(chosen) >= most or (len(chosen) >= 2 and total + length > most_seconds):
            break
        chosen.append(uri)
        total += length
    return chosen


def _cpu_seconds(row: dict[str, Any]) -> float:
    return sum(row[name] or 0.0 for name in ("early_seconds", "decode_seconds", "model_seconds"))
