"""`cinemill manifest`: look into a lake."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Annotated

import pyarrow.csv
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from api.cli import lake
from api.cli.curation import Catalog, Json, Out
from api.cli.options import Dataset, Which, open_lake
from api.cli.remote import Server, chosen_by, connected, only_dataset
from api.client import SnapshotInfo
from curation.clips import Commit, Snapshot
from curation.clips.errors import WrongCall
from curation.clips.schema import TABLES
from curation.ledger import FunnelStep, LadderStep

manifest_app = typer.Typer(help="Look into a lake: its data sets, snapshots, files and ledgers.", no_args_is_help=True)
manifest_app.command("tag")(lake.tag_command)
manifest_app.command("reproduce")(lake.reproduce_command)
manifest_app.command("takedown")(lake.takedown_command)
manifest_app.command("rights")(lake.rights_command)
manifest_app.command("compact")(lake.compact_command)
manifest_app.command("expire")(lake.expire_command)
manifest_app.command("sweep")(lake.sweep_command)
manifest_app.command("export-clips")(lake.export_clips_command)


@manifest_app.command("list")
def list_command(out: Out = "lake", catalog: Catalog = None, server: Server = None, as_json: Json = False) -> None:
    """Every snapshot of every data set."""
    commits: Sequence[Commit | SnapshotInfo]
    if server:
        with connected(server) as service:
            commits = sorted(
                (c for name in service.datasets() for c in service.snapshots(name)), key=lambda c: c.number
            )
    else:
        commits = open_lake(out, catalog).commits()
    if as_json:
        print(json.dumps([{"number": c.number, "dataset": c.dataset, "created_at": _moment(c).isoformat(), "recipe_hash": c.recipe_hash,
                           "code_version": c.code_version, "counts": c.counts} for c in commits]))  # fmt: skip
        return
    table = Table("snapshot", "data set", "when (UTC)", "videos", "clips", "kept", "recipe", box=None)
    for c in commits:
        table.add_row(
            str(c.number), c.dataset, f"{_moment(c):%Y-%m-%d %H:%M:%S}", str(c.counts["videos_in"]), str(c.counts["clips_in"]),
            str(c.counts["clips_kept"]), c.recipe_hash[:12],
        )  # fmt: skip
    Console().print(table)


def _moment(commit: Commit | SnapshotInfo) -> datetime:
    told = commit.created_at
    return datetime.fromisoformat(told) if isinstance(told, str) else told


@manifest_app.command("show")
def show_command(
    out: Out = "lake", dataset: Dataset = None, snapshot: Which = None, catalog: Catalog = None, server: Server = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """The funnel of a snapshot: what each rule took, in recipe order, and why videos left."""
    from curation.ledger import counts, funnel, ladder

    if server:
        with connected(server) as service:
            told = service.funnel(only_dataset(service, dataset), snapshot)
        name = f"{server}#{told['dataset']}@{told['snapshot']}"
        tally = {kind: told[kind] for kind in ("videos", "clips")}
        if as_json:
            print(json.dumps({"snapshot": name, "counts": tally, "funnel": told["steps"]}))
        else:
            names = [each.name for each in fields(FunnelStep)]
            _print_funnel(name, tally, [FunnelStep(**{each: step[each] for each in names}) for step in told["steps"]])
        return
    chosen = open_lake(out, catalog).snapshot(dataset, snapshot)
    steps, tally, rungs = funnel(chosen), counts(chosen), ladder(chosen)
    if as_json:
        print(
            json.dumps(
                {
                    "snapshot": chosen.name,
                    "counts": tally,
                    "funnel": [vars(step) for step in steps],
                    "ladder": [vars(step) for step in rungs],
                }
            )
        )
        return
    _print_funnel(chosen.name, tally, steps)
    console = Console()
    if rungs:
        console.print(ladder_table(rungs))
    reasons = Counter(
        row["reason"] for row in chosen.table("ledger").to_pylist() if row["kind"] == "video" and row["reason"]
    )
    for reason, number in reasons.most_common():
        console.print(f"{number} x {reason}", markup=False)


def _print_funnel(name: str, tally: Mapping[str, Mapping[str, int]], steps: Sequence[FunnelStep]) -> None:
    console = Console()
    console.print(f"[bold]{name}[/bold]", highlight=False)
    for kind, fates in tally.items():
        console.print(
            f"{kind}: {fates['in']} in = " + " + ".join(f"{n} {fate}" for fate, n in fates.items() if fate != "in")
        )
    table = Table("rule", "keeps when", "entered", "left", "only by this", "go on", box=None)
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for step in steps:
        keeps = (
            f"{step.signal or 'similarity'} {step.comparison} {step.threshold:g}"
            if step.threshold is not None
            else "drawn, by orientation"
            if step.rule == "content.orientation"
            else "drawn, 1/sqrt(size)"
        )
        table.add_row(
            step.rule, keeps, *(str(n) for n in (step.entered, step.rejected, step.only_this_rule, step.left))
        )
    console.print(table)


def ladder_table(rungs: Sequence[LadderStep]) -> Table:
    """What each rung of the ladder stopped, cost and saved."""
    table = Table("rung", "stopped", "CPU s spent", "CPU s saved, about", "audited", "of these wrong", box=None)
    for step in rungs:
        table.add_row(
            step.rung, str(step.stopped), f"{step.spent:.1f}", f"{step.saved:.0f}", str(step.audited), str(step.wrong)
        )
    return table


@manifest_app.command("files")
def files_command(
    out: Out = "lake", dataset: Dataset = None, snapshot: Which = None, catalog: Catalog = None,
    table: Annotated[str, typer.Option(help=f"One of {', '.join(TABLES)}.")] = "clips", server: Server = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Exactly the Parquet files of a snapshot: what pandas, DuckDB, Spark or Ray Data read."""
    if table not in TABLES:
        raise WrongCall(f"unknown table {table!r}; there are {', '.join(TABLES)}")
    if server:
        with connected(server) as service:
            found = chosen_by(service, dataset, snapshot)
            name, files = f"{server}#{found.dataset}@{found.number}", service.files(found.dataset, found.number)[table]
    else:
        chosen = open_lake(out, catalog).snapshot(dataset, snapshot)
        name, files = chosen.name, chosen.files(table)
    print(json.dumps({"snapshot": name, "table": table, "files": files}) if as_json else "\n".join(files))


@manifest_app.command("diff")
def diff_command(
    before: Annotated[str, typer.Argument(help="Number or tag of the older snapshot.")],
    after: Annotated[str, typer.Argument(help="Number or tag of the newer snapshot.")],
    out: Out = "lake", dataset: Dataset = None, catalog: Catalog = None, server: Server = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Which kept clips two snapshots do not share, and by which rule they left. A service tells the counts."""
    if server:
        with connected(server) as service:
            told = service.diff(only_dataset(service, dataset), before, after)
        if as_json:
            print(json.dumps(told))
            return
        print(f"{server}#{told['dataset']}: {told['before']} -> {told['after']}, {told['kept_in_both']} kept in both")
        for sign, by in (("+", told["added_by"]), ("-", told["removed_by"])):
            print(f"{sign}{sum(by.values())} kept clips" + "".join(f"\n    {n} x {rule}" for rule, n in by.items()))
        return
    here = open_lake(out, catalog)
    old, new = (here.snapshot(dataset, int(which) if which.isdigit() else which) for which in (before, after))
    old_rows, new_rows = _clip_fates(old), _clip_fates(new)
    added = [
        c for c, (fate, _) in new_rows.items() if fate == "kept" and old_rows.get(c, ("absent", None))[0] != "kept"
    ]
    removed = [
        c for c, (fate, _) in old_rows.items() if fate == "kept" and new_rows.get(c, ("absent", None))[0] != "kept"
    ]
    why_added = Counter(old_rows.get(c, ("absent", None))[1] or "new footage" for c in added)
    why_removed = Counter(new_rows.get(c, ("absent", None))[1] or "no longer in the data set" for c in removed)
    if as_json:
        print(json.dumps({"added": added, "removed": removed, "added_by": why_added, "removed_by": why_removed}))
        return
    print(f"{old.name} -> {new.name}")
    for sign, clips, why in (("+", added, why_added), ("-", removed, why_removed)):
        print(f"{sign}{len(clips)} kept clips" + "".join(f"\n    {n} x {rule}" for rule, n in why.most_common()))


def _clip_fates(snapshot: Snapshot) -> dict[str, tuple[str, str | None]]:
    rows = snapshot.table("decisions", ["kind", "clip_id", "fate", "rule"]).to_pylist()
    return {row["clip_id"]: (row["fate"], row["rule"]) for row in rows if row["kind"] == "clip"}


@manifest_app.command("export")
def export_command(
    file: Annotated[Path, typer.Argument(help="Where to write: .parquet or .csv.")],
    table: Annotated[str, typer.Option(help="ledger, videos or clips.")] = "ledger",
    out: Out = "lake", dataset: Dataset = None, snapshot: Which = None, catalog: Catalog = None, server: Server = None,
) -> None:  # fmt: skip
    """One table of a snapshot as one file; the ledger says what became of every video and clip."""
    if file.suffix not in (".parquet", ".csv"):
        raise WrongCall(f"{file} must end in .parquet or .csv")
    if table not in ("ledger", "videos", "clips"):
        raise WrongCall(f"unknown table {table!r}; export knows ledger, videos and clips")
    if not file.absolute().parent.is_dir():
        raise WrongCall(f"no folder {file.absolute().parent} to write {file.name} into")
    if server:
        with connected(server) as service:
            found = chosen_by(service, dataset, snapshot)
            rows = service.table(found.dataset, table=table, snapshot=found.number)  # type: ignore[arg-type]  # checked above
    else:
        rows = open_lake(out, catalog).snapshot(dataset, snapshot).table(table)
    if file.suffix == ".csv":
        lists = [i for i, column in enumerate(rows.schema) if str(column.type).startswith("list")]
        for i in lists:  # CSV has no lists
            column = [None if v is None else json.dumps(v) for v in rows.column(i).to_pylist()]
            rows = rows.set_column(i, rows.column_names[i], [column])
        pyarrow.csv.write_csv(rows, file)
    else:
        pq.write_table(rows, file)
    print(f"{file}: {rows.num_rows} rows")


@manifest_app.command("relocate")
def relocate_command(
    out: Annotated[str, typer.Option(help="Where the lake lies now.", metavar="FOLDER")] = "lake",
) -> None:
    """After moving a lake's folder: rewrite the absolute paths that Iceberg keeps."""
    from curation.clips.relocate import relocate

    there, rewritten = relocate(out)
    print(
        f"{out}: {rewritten} files rewritten, was at {there}"
        if rewritten
        else f"{out}: nothing to do, it lies where it was"
    )
