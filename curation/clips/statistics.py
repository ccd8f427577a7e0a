"""What is counted once, at the commit, so that no question about a snapshot's scores needs a scan: masks, histograms, a sample.

All three merge: the statistics of two sets without a common clip add up to those of their union, exactly, in any order.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.clips.storage import exists, filesystem, join, read_bytes, write_bytes

NUM_BINS = 256
SAMPLE = 50_000  # clips: an estimated share is off by half a percentage point at most, 95 times of 100
FOLDER = "statistics"
VERSION = 2  # statistics of another version are not read; the rows are scanned instead
SHOT_SIGNALS = {
    "shots.scene_length": "shot_seconds",
    "shots.clip_length": "duration_seconds",
    "shots.scene_rank": "shot_rank",
}  # of the rules that every recipe has and none writes out
NOT_SCORES = ("start_", "end_", "time_base", "crop_", "stream_")
FROM_DECISIONS = ("fate", "rule", "failed_rules", "unmeasured")


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Clips that are alike to every rule: the same rules failed, the same could not be asked, the same fate.

    microseconds: of these clips together, whole, so that sums are exact.
    """

    failed_rules: tuple[str, ...]
    unmeasured: tuple[str, ...]
    fate: str
    clips: int
    microseconds: int

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        return (self.failed_rules, self.unmeasured, self.fate)


@dataclass(frozen=True, kw_only=True)
class Bins:
    """A score in at most 256 bins of width 2**exponent: bin i holds [(first + i) width, (first + i + 1) width).

    Widths are powers of two and bins begin at multiples of them, so that two sets of bins merge without error. counts: all clips;
    kept: those kept; alone: those that rules on this score reject, and nothing else. Null scores (and NaN or infinite ones) are
    counted apart, in `unmeasured`.
    """

    exponent: int
    first: int
    counts: tuple[int, ...]
    kept: tuple[int, ...]
    alone: tuple[int, ...]
    low: float | None
    high: float | None
    unmeasured: int

    @property
    def edges(self) -> list[float]:
        """float64 [bins + 1]; empty where nothing was measured."""
        return [math.ldexp(self.first + i, self.exponent) for i in range(len(self.counts) + 1)] if self.counts else []

    @staticmethod
    def empty(unmeasured: int) -> "Bins":
        return Bins(exponent=0, first=0, counts=(), kept=(), alone=(), low=None, high=None, unmeasured=unmeasured)

    @staticmethod
    def of(values: np.ndarray, kept: np.ndarray, alone: np.ndarray) -> "Bins":
        """values: float64 [N], NaN where unmeasured. kept, alone: bool [N]."""
        measured = np.isfinite(values)
        known = values[measured]
        missing = int(len(values) - len(known))
        if not len(known):
            return Bins.empty(missing)
        low, high = float(known.min()), float(known.max())
        exponent = _exponent(low, high)
        places = np.floor(np.ldexp(known, -exponent)).astype(np.int64)
        first = int(places.min())
        count = int(places.max()) - first + 1
        return Bins(
            exponent=exponent,
            first=first,
            counts=tuple(np.bincount(places - first, minlength=count).tolist()),
            kept=tuple(np.bincount(places[kept[measured]] - first, minlength=count).tolist()),
            alone=tuple(np.bincount(places[alone[measured]] - first, minlength=count).tolist()),
            low=low,
            high=high,
            unmeasured=missing,
        )

    def merged(self, other: "Bins") -> "Bins":
        missing = self.unmeasured + other.unmeasured
        parts = [part for part in (self, other) if part.counts]
        if not parts:
            return Bins.empty(missing)
        low, high = min(part.low or 0.0 for part in parts), max(part.high or 0.0 for part in parts)
        exponent = _exponent(low, high)
        first = math.floor(math.ldexp(low, -exponent))
        length = math.floor(math.ldexp(high, -exponent)) - first + 1
        sums = {"counts": [0] * length, "kept": [0] * length, "alone": [0] * length}
        for part in parts:
            for name, into in sums.items():
                for i, count in enumerate(getattr(part, name)):
                    into[((part.first + i) >> (exponent - part.exponent)) - first] += count
        return Bins(
            exponent=exponent, first=first, low=low, high=high, unmeasured=missing,
            **{name: tuple(counts) for name, counts in sums.items()},
        )  # fmt: skip


def _exponent(low: float, high: float) -> int:
    """Of the smallest power of two whose multiples cut [low, high] into at most 256 bins; it never falls when the range grows."""
    span = max(high - low, max(abs(low), abs(high)) * 2.0**-40, 2.0**-40)
    exponent = math.frexp(span)[1] - 9
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= NUM_BINS:
        exponent += 1
    return exponent


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of the clips of one snapshot.

    histograms: every score in bins; octaves: the binary logarithm of every score that is above 0, for those that span decades.
    sample: the 50,000 clips of lowest clip_id (a hash), with scores, fate and rules, by clip_id.
    """

    clips: int
    masks: tuple[Mask, ...]
    histograms: dict[str, Bins]
    octaves: dict[str, Bins]
    sample: pa.Table

    def passing(self, without: Collection[str] = ()) -> int:
        """Exactly how many clips fail no rule when the rules named in `without` are not asked; unmeasured is not failed."""
        return sum(mask.clips for mask in self.masks if not set(mask.failed_rules) - set(without))

    def kept(self) -> int:
        return sum(mask.clips for mask in self.masks if mask.fate == "kept")

    def seconds(self, fate: str) -> float:
        return sum(mask.microseconds for mask in self.masks if mask.fate == fate) / 1e6

    def rejected_together(self) -> dict[tuple[str, str], int]:
        """(rule, rule) -> clips that fail both; a rule with itself: clips that fail it. Names of a pair are in order."""
        found: dict[tuple[str, str], int] = {}
        for mask in self.masks:
            for i, one in enumerate(sorted(mask.failed_rules)):
                for other in sorted(mask.failed_rules)[i:]:
                    found[one, other] = found.get((one, other), 0) + mask.clips
        return found

    @staticmethod
    def of(rows: pa.Table, signals: Mapping[str, str]) -> "Statistics":
        """rows: clips with clip_id, duration_seconds, scores, and fate, rule, failed_rules and unmeasured of their decisions.

        signals: rule -> the score it compares; rules that compare none (copies, balance) are not in it.
        """
        kept = np.asarray(pc.equal(rows["fate"], "kept"), bool)
        alone = _rejected_by_one(rows, signals)
        nobody = np.zeros(rows.num_rows, bool)
        histograms, octaves = {}, {}
        for name in score_columns(rows.schema):
            values = _numbers(rows[name])
            histograms[name] = Bins.of(values, kept, alone.get(name, nobody))
            logarithms = np.log2(values, out=np.full(len(values), np.nan), where=values > 0)
            octaves[name] = Bins.of(logarithms, kept, alone.get(name, nobody))
        sample = rows.sort_by("clip_id").slice(0, SAMPLE).combine_chunks()
        return Statistics(
            clips=rows.num_rows, masks=_masks(rows), histograms=histograms, octaves=octaves, sample=sample
        )

    @staticmethod
    def merged(parts: Iterable["Statistics"]) -> "Statistics":
        """Of sets that share no clip; a score that a part lacks is unmeasured there. Raises ValueError for no parts."""
        total: Statistics | None = None
        for part in parts:
            total = part if total is None else total._plus(part)
        if total is None:
            raise ValueError("nothing to merge: give the statistics of at least one set of clips")
        return total

    def _plus(self, other: "Statistics") -> "Statistics":
        masks = {mask.key: mask for mask in self.masks}
        for mask in other.masks:
            old = masks.get(mask.key)
            masks[mask.key] = mask if old is None else _sum(old, mask)
        both = pa.concat_tables([self.sample, other.sample], promote_options="permissive")
        return Statistics(
            clips=self.clips + other.clips,
            masks=tuple(sorted(masks.values(), key=lambda mask: mask.key)),
            histograms=_added(self.histograms, other.histograms, self.clips, other.clips),
            octaves=_added(self.octaves, other.octaves, self.clips, other.clips),
            sample=both.sort_by("clip_id").slice(0, SAMPLE).combine_chunks(),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statistics):
            return NotImplemented
        same = (self.clips, self.masks) == (other.clips, other.masks)
        same &= (self.histograms, self.octaves) == (other.histograms, other.octaves)
        return same and self.sample.select(sorted(self.sample.column_names)).equals(
            other.sample.select(sorted(other.sample.column_names))
        )

    __hash__ = None  # type: ignore[assignment]  # it holds a table


def rule_signals(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Rule -> the score it compares, of a recipe as a commit keeps it."""
    return SHOT_SIGNALS | {rule["name"]: rule["signal"] for rule in recipe.get("rules", ())}


def score_columns(schema: pa.Schema) -> list[str]:
    """Numbers that can be compared with a threshold, in order of name: scores, and durations and sizes."""
    numeric = [f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    return sorted(name for name in numeric if not name.startswith(NOT_SCORES))


def _added(one: Mapping[str, Bins], other: Mapping[str, Bins], clips: int, other_clips: int) -> dict[str, Bins]:
    """A score that one of them lacks is unmeasured there."""
    return {
        name: one.get(name, Bins.empty(clips)).merged(other.get(name, Bins.empty(other_clips)))
        for name in sorted({*one, *other})
    }


def _rejected_by_one(rows: pa.Table, signals: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Score -> bool [N]: the clip fails rules on this score, and no rule on another."""
    sets = pc.binary_join(pc.fill_null(rows["failed_rules"], []), "\n").combine_chunks().dictionary_encode()
    codes = np.asarray(sets.indices)
    of_set = [
        {signals.get(rule) for rule in text.split("\n")} if text else set() for text in sets.dictionary.to_pylist()
    ]
    only = np.array([next(iter(found)) if len(found) == 1 else None for found in of_set], object)
    return {name: np.equal(only, name).astype(bool)[codes] for name in {name for name in only if name is not None}}


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _sum(one: Mask, other: Mask) -> Mask:
    return Mask(
        failed_rules=one.failed_rules,
        unmeasured=one.unmeasured,
        fate=one.fate,
        clips=one.clips + other.clips,
        microseconds=one.microseconds + other.microseconds,
    )


def _masks(rows: pa.Table) -> tuple[Mask, ...]:
    micro = pc.cast(pc.round(pc.multiply(pc.fill_null(rows["duration_seconds"], 0.0), 1e6)), pa.int64())
    joined = {name: pc.binary_join(pc.fill_null(rows[name], []), "\n") for name in ("failed_rules", "unmeasured")}
    table = pa.table({**joined, "fate": rows["fate"], "microseconds": micro})
    groups = table.group_by(["failed_rules", "unmeasured", "fate"]).aggregate(
        [("microseconds", "sum"), ([], "count_all")]
    )
    masks = [
        Mask(
            failed_rules=tuple(row["failed_rules"].split("\n")) if row["failed_rules"] else (),
            unmeasured=tuple(row["unmeasured"].split("\n")) if row["unmeasured"] else (),
            fate=row["fate"],
            clips=row["count_all"],
            microseconds=row["microseconds_sum"],
        )
        for row in groups.to_pylist()
    ]
    return tuple(sorted(masks, key=lambda mask: mask.key))


# --- the files of one snapshot --------------------------------------------------------------------------------------


def write(lake_uri: str, key: str, found: Statistics) -> None:
    """Two small files in the lake, the sample first: the other makes them count as there."""
    sink = pa.BufferOutputStream()
    pq.write_table(found.sample, sink, compression="zstd")
    write_bytes(join(lake_uri, FOLDER, f"{key}.parquet"), sink.getvalue().to_pybytes())
    told = {
        "version": VERSION,
        "clips": found.clips,
        "masks": [vars(mask) for mask in found.masks],
        "histograms": {name: vars(bins) for name, bins in found.histograms.items()},
        "octaves": {name: vars(bins) for name, bins in found.octaves.items()},
    }
    write_bytes(join(lake_uri, FOLDER, f"{key}.json"), json.dumps(told).encode())


def read(lake_uri: str, key: str) -> Statistics | None:
    """None where the commit wrote none, or of another version."""
    return _read(lake_uri, key) if exists(join(lake_uri, FOLDER, f"{key}.json")) else None


@lru_cache(maxsize=8)  # they never change, and every request opens its snapshot anew
def _read(lake_uri: str, key: str) -> Statistics | None:
    told: Mapping[str, Any] = json.loads(read_bytes(join(lake_uri, FOLDER, f"{key}.json")))
    if told["version"] != VERSION:
        return None
    system, path = filesystem(join(lake_uri, FOLDER, f"{key}.parquet"))
    return Statistics(
        clips=told["clips"],
        masks=tuple(Mask(**_tuples(mask)) for mask in told["masks"]),
        histograms={name: Bins(**_tuples(bins)) for name, bins in told["histograms"].items()},
        octaves={name: Bins(**_tuples(bins)) for name, bins in told["octaves"].items()},
        sample=pq.read_table(path, filesystem=system),
    )


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
