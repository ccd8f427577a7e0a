"""What each stage of a job took in and gave out: our own counters, folded from the lines that the work writes."""

from typing import Any

import pyarrow.compute as pc

from curation.clips import Snapshot
from curation.ledger import FATES, funnel

Counters = dict[str, dict[str, Any]]
"""By stage: in, out, done, total, seconds, cpu_seconds, gpu_seconds, bytes, rejected {reason: number}, cost; what is known."""
CPU_PARTS = ("early_seconds", "decode_seconds", "model_seconds")  # of curation's stage `measure`, in CPU seconds


def fold(counters: Counters, line: dict[str, Any]) -> Counters:
    """The counters after one line of progress. Lines tell totals so far, so the newest of a stage replaces what was."""
    stage = str(line.get("stage", ""))[:100]
    if not stage:
        return counters
    now: dict[str, Any] = {name: line[name] for name in ("done", "total", "seconds") if _is_number(line.get(name))}
    if "done" in now:
        now["in"] = now.get("total", now["done"])
        now["out"] = now["done"]
    counts, costs, numbers = (
        {k: v for k, v in (line.get(name) or {}).items() if _is_number(v)} for name in ("counts", "costs", "numbers")
    )
    if any(part in costs for part in CPU_PARTS):
        now["cpu_seconds"] = sum(costs.get(part, 0.0) for part in CPU_PARTS)
    for name in ("cpu_seconds", "gpu_seconds", "bytes"):
        if name in costs:
            now[name] = costs[name]
    if stage == "decide" and "clips_in" in counts:
        now |= {"in": counts["clips_in"], "out": counts.get("clips_kept", 0)}
    return counters | {stage: now | ({"counts": counts} if counts else {}) | ({"numbers": numbers} if numbers else {})}


def committed_counters(snapshot: Snapshot) -> Counters:
    """What the commit itself tells: bytes that came in, videos and clips that left and why. From the ledger, so it is exact."""
    counts = snapshot.commit.counts
    fates = {fate: counts.get(f"videos_{fate}", 0) for fate in FATES if fate != "kept"}
    return {
        "identify": {
            "in": counts.get("videos_in", 0), "out": counts.get("videos_kept", 0),
            "rejected": {fate: number for fate, number in fates.items() if number},
            "bytes": pc.sum(snapshot.table("videos", ["bytes"])["bytes"]).as_py() or 0,
        },
        "decide": {
            "in": counts.get("clips_in", 0), "out": counts.get("clips_kept", 0),
            "rejected": {step.rule: step.rejected for step in funnel(snapshot) if step.rejected},
        },
    }  # fmt: skip


def priced(counters: Counters, per_cpu_hour: float | None, per_gpu_hour: float | None) -> Counters:
    """The counters with the cost of what a stage spent, where a price is known."""
    found = {}
    for stage, now in counters.items():
        parts = (("cpu_seconds", per_cpu_hour), ("gpu_seconds", per_gpu_hour))
        costs = [now[name] / 3600 * price for name, price in parts if name in now and price is not None]
        found[stage] = now | ({"cost": round(sum(costs), 6)} if costs else {})
    return found


def merge(before: Counters, more: Counters) -> Counters:
    """Stage by stage, the later word of each counter."""
    return {stage: before.get(stage, {}) | more.get(stage, {}) for stage in dict.fromkeys([*before, *more])}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
