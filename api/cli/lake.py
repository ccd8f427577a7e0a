"""`cinemill manifest`, the commands that change a lake or write copies of it: tags, rights, takedowns, upkeep, exports."""

import json
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from api.cli.curation import Catalog, Json, Out
from api.cli.options import Dataset, Which, open_lake
from curation.clips.errors import WrongCall

Hours = Annotated[float, typer.Option(help="Younger files may belong to a commit that is being made.")]


def tag_command(
    name: Annotated[str | None, typer.Argument(help="The tag; a letter first. Without one, tags are listed.")] = None,
    out: Out = "lake", dataset: Dataset = None, snapshot: Which = None, catalog: Catalog = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Name a snapshot: URI#DATASET@NAME finds it, and expiry keeps it. A tag never moves."""
    lake = open_lake(out, catalog)
    if name is not None:
        chosen = lake.snapshot(dataset, snapshot)
        if remove:
            lake.log.untag(chosen.dataset, name)
        else:
            lake.tag(chosen, name)
    tags = [{"dataset": t.dataset, "name": t.name, "number": t.number} for t in lake.log.tags()]
    print(json.dumps(tags) if as_json else "\n".join(f"{t['dataset']}@{t['name']}  {t['number']}" for t in tags))


def reproduce_command(
    out: Out = "lake", dataset: Dataset = None, snapshot: Which = None, catalog: Catalog = None, as_json: Json = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the footage again, too, in a lake that is thrown away.")
    ] = False,
) -> None:  # fmt: skip
    """Decide again from the snapshot's measurements, or from its footage, and compare with what it says. Exit code 1 if they differ."""
    from curation.redecide import compare, measure_again, redecide

    chosen = open_lake(out, catalog).snapshot(dataset, snapshot)
    again = compare(chosen.table("decisions").to_pylist(), measure_again(chosen) if measure else redecide(chosen))
    if as_json:
        print(json.dumps({"snapshot": chosen.name, "same": again.same} | asdict(again)))
    else:
        print(
            f"{chosen.name}: {again.rows} decisions, {again.kept} kept clips "
            + ("the same" if again.same else "in both")
        )
        for sign, names in (("-", again.only_before), ("+", again.only_now), ("!", again.different)):
            for name in names:
                print(f"{sign} {name}")
    if not again.same:
        raise typer.Exit(1)


def takedown_command(
    source: Annotated[str, typer.Argument(help="A URI, a video_id, or a source_id.")],
    why: Annotated[str, typer.Option(help="Kept with the source's name.")] = "asked for",
    runs: Annotated[list[str] | None, typer.Option(help="A folder with training runs; may be given again.", metavar="FOLDER")] = None,
    out: Out = "lake", catalog: Catalog = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Take a source out of every data set, keep it out, and name the training runs that saw it."""
    from curation.takedown import take_down

    done = take_down(open_lake(out, catalog), source, why, runs or ())
    if as_json:
        print(done.as_json())
        return
    print(f"{len(done.video_ids)} videos taken down; new snapshots: {', '.join(done.snapshots) or 'none needed'}")
    for run in done.runs:
        how = run.unknown or (
            f"by its weights from {run.through}" if run.through else f"{len(run.clips)} clips of {run.snapshot}"
        )
        print(f"{'cannot tell' if run.unknown else 'saw it'}: {run.run}: {how}")
    print(
        "next: cinemill manifest expire, then sweep, remove it from older snapshots; cut clips and strips lie where they lay"
    )


def rights_command(
    file: Annotated[str, typer.Argument(help="A .csv or .parquet list with a column uri, sha256 or file.")],
    out: Out = "lake", catalog: Catalog = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Write source_id, licence, source_terms and attribution of a list to the videos of a lake."""
    from curation.rights import add_rights

    lake = open_lake(out, catalog)
    changed, commits = add_rights(lake, file)
    names = [f"{lake.uri}#{commit.dataset}@{commit.number}" for commit in commits]
    words = {"videos": changed, "snapshots": names}
    print(json.dumps(words) if as_json else f"{changed} videos changed; snapshots: {', '.join(names) or 'none needed'}")


def sweep_command(
    out: Out = "lake", hours: Hours = 24.0, catalog: Catalog = None, as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:  # fmt: skip
    """Remove files of killed runs and expired snapshots: those that nothing names any more."""
    from curation.clips.iceberg.upkeep import sweep

    lake = open_lake(out, catalog)
    with lake.committer():
        swept = sweep(lake, hours, dry_run)
    word = "would go" if dry_run else "removed"
    print(json.dumps(asdict(swept)) if as_json else f"{len(swept.files)} files {word}, {swept.bytes / 1e6:.1f} MB")


def expire_command(
    keep: Annotated[int, typer.Option(help="So many newest snapshots of every data set stay, and all with a tag.")],
    out: Out = "lake", hours: Hours = 24.0, catalog: Catalog = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Forget old snapshots. Their files go by `sweep`."""
    from curation.clips.iceberg.upkeep import expire

    lake = open_lake(out, catalog)
    with lake.committer():
        gone = expire(lake, keep, hours)
    print(
        json.dumps({"expired": gone})
        if as_json
        else f"{len(gone)} snapshots expired: {', '.join(map(str, gone)) or 'none'}"
    )


def compact_command(
    out: Out = "lake", megabytes: Annotated[int, typer.Option(help="Size of a file that is large enough.")] = 256,
    catalog: Catalog = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Write small and overlapping files together, sorted; the next commit reads the new ones, snapshots there are keep theirs."""
    from curation.clips.iceberg.compaction import compact

    lake = open_lake(out, catalog)
    with lake.committer():
        done = compact(lake, megabytes)
    print(
        json.dumps([asdict(d) for d in done])
        if as_json
        else "\n".join(f"{d.table}: {d.before} files -> {d.after}" for d in done)
    )


def export_clips_command(
    folder: Annotated[str, typer.Argument(help="Where to write: a folder or the URI of a bucket.")],
    kind: Annotated[Literal["webdataset", "videofolder"], typer.Option("--format", help="webdataset: tar shards. videofolder: for `datasets`.")] = "webdataset",
    out: Out = "lake", dataset: Dataset = None, snapshot: Which = None, catalog: Catalog = None,
    shard_megabytes: Annotated[int, typer.Option(help="A tar shard is at most so large.")] = 1024, as_json: Json = False,
) -> None:  # fmt: skip
    """The kept clips themselves, with captions, facts and rights; they must have been cut (`cinemill curate --cut`)."""
    from curation.export.video_folder import export_video_folder
    from curation.export.webdataset import export_webdataset

    if shard_megabytes < 1:
        raise WrongCall(f"--shard-megabytes {shard_megabytes} must be at least 1")
    chosen = open_lake(out, catalog).snapshot(dataset, snapshot)
    if kind == "webdataset":
        index = export_webdataset(chosen, folder, shard_megabytes << 20)
        said = f"{index['clips']} clips in {len(index['shards'])} shards"
    else:
        index = export_video_folder(chosen, folder)
        said = ", ".join(f"{count} clips in {split}" for split, count in index["clips"].items())
    if index["left_out"]:
        said += f"; {index['left_out']} kept clips have no file and were left out"
    print(json.dumps(index) if as_json else f"{folder}: {said}")
