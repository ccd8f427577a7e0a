"""`cinemill curate` and the commands that look at footage: probe, strip, shots, explain, recipe."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from rich.console import Console

from api.cli.progress import CurationProgress
from curation.clips import Lake, UnreadableVideo, WrongCall
from curation.clips.errors import UnknownSnapshot

Out = Annotated[str, typer.Option(help="The lake: a folder, or the URI of a bucket.", metavar="URI")]
Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]
Catalog = Annotated[str | None, typer.Option(help="Database URL of the catalog; needed for a bucket.", metavar="URL")]


def curate_command(
    sources: Annotated[
        list[str], typer.Argument(help="Videos, folders (recursive), or .csv/.parquet lists with a uri column.")
    ],
    recipe: Annotated[
        str,
        typer.Option(help="demo, moviegen_256, moviegen_768, moviegen_sft, moviegen_funnel, or a .yaml/.toml file."),
    ] = "demo",
    out: Out = "lake",
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data set; the recipe's by default.", metavar="NAME")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray; one is started on this machine's loopback by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many videos.")] = None,
    sample: Annotated[
        str | None, typer.Option(help="Only a share of the videos, by hash of their URI.", metavar="SEED:SHARE")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")
    ] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try unreadable videos again.")
    ] = False,
    cut: Annotated[
        Literal["copy", "exact"] | None,
        typer.Option(
            help="Write the kept clips to OUT/clips, after the commit. copy: no re-encoding; a file begins at a keyframe and the "
            "index OUT/clips/DATASET@NUMBER.parquet says which of its frames are the clip. exact: H.264 and AAC, from the clip's "
            "first frame to its last."
        ),
    ] = None,
    catalog: Catalog = None,
    as_json: Json = False,
    run: Annotated[str | None, typer.Option(help="A name that the commit of this run carries.", metavar="NAME")] = None,
    progress_file: Annotated[Path | None, typer.Option(hidden=True, envvar="CINEMILL_PROGRESS")] = None,
) -> None:
    """Footage into clips into a manifest.

    Every video and every clip gets exactly one row that says what became of it. Run it again and only what is new is done; kill it,
    run it again, and it continues.

    cinemill curate ~/footage --recipe moviegen_768 --out s3://bucket/lake --catalog postgresql://...

    cinemill curate ~/footage --cut copy    # also a file for every kept clip
    """
    from curation.cut import cut_clips, index_uri, require_one_way
    from curation.pipeline import curate, plan_run
    from curation.recipes import load_recipe

    chosen = load_recipe(recipe)
    plan = plan_run(sources, chosen, out, dataset, limit, sample, catalog)
    if cut is not None:
        require_one_way(plan.lake, cut)
    if dry_run:
        words = {
            "videos": len(plan.footage),
            "files_passed_over": plan.passed_over,
            "dataset": plan.dataset,
            "recipe": chosen.name,
            "recipe_hash": chosen.hash,
            "scores": "ladder" if plan.ladder else "full",
            "out": plan.lake.uri,
            "cut": cut,
        }
        print(json.dumps(words) if as_json else "\n".join(f"{k:>18}  {v}" for k, v in words.items()))
        return
    with CurationProgress(progress_file, quiet=as_json) as progress:
        commit = curate(
            sources, chosen, out, dataset, address, limit, sample, retry_quarantined, catalog, progress, run
        )
        snapshot = plan.lake.snapshot(commit.dataset, commit.number)
        files = None if cut is None else cut_clips(snapshot, cut, address, progress).to_pylist()
    name = f"{plan.lake.uri}#{commit.dataset}@{commit.number}"
    if as_json:
        words = {"snapshot": name, "number": commit.number, "dataset": commit.dataset, "counts": commit.counts}
        if files is not None:
            words["cut"] = {"index": index_uri(snapshot)} | _cut_counts(files)
        print(json.dumps(words))
        return
    c = commit.counts
    print(f"snapshot {name}")
    for kind in ("videos", "clips"):
        print(
            f"{kind:>8}: {c[f'{kind}_in']} in = {c[f'{kind}_kept']} kept + {c[f'{kind}_rejected']} rejected "
            f"+ {c[f'{kind}_duplicate']} duplicate + {c[f'{kind}_quarantined']} quarantined"
        )
    if files is not None:
        n = _cut_counts(files)
        print(f"    cut: {n['copy']} copied + {n['exact']} encoded + {n['failed']} failed; {index_uri(snapshot)}")
    if plan.passed_over:
        print(f"{plan.passed_over} files that are no videos were passed over")
    print(f"next: cinemill manifest show --out {out}    cinemill serve --data {out}")


def _cut_counts(files: list[dict[str, Any]]) -> dict[str, int]:
    ways = [row["way"] if row["error"] is None else "failed" for row in files]
    return {way: ways.count(way) for way in ("copy", "exact", "failed")}


def _read(action: Any, file: str) -> Any:
    try:
        return action(file)
    except UnreadableVideo as error:
        raise WrongCall(f"{file}: {error}") from error


def probe_command(file: Annotated[str, typer.Argument(help="A video.")], as_json: Json = False) -> None:
    """What a container and its first frame say: codec, displayed size, rotation, time base."""
    from curation.clips.frames import probe

    facts = vars(_read(probe, file))
    if as_json:
        print(json.dumps(facts, default=str))
    else:
        print("\n".join(f"{name:>20}  {value}" for name, value in facts.items()))


def strip_command(
    file: Annotated[str, typer.Argument(help="A video.")],
    out: Annotated[str, typer.Option(help="Where to write the strip.", metavar="STRIP.PARQUET")] = "strip.parquet",
) -> None:
    """Decode a video once and write its strip: a row per frame, the numbers every cheap filter is computed from."""
    from curation.clips.strip import make_strip, write_strips

    decoded = _read(lambda path: make_strip(path, looks=False), file)
    write_strips(out, [decoded.strip])
    print(f"{out}: {len(decoded.strip)} frames, {decoded.strip.clock.duration_seconds:.3f} s")


def shots_command(
    file: Annotated[str, typer.Argument(help="A video.")],
    detector: Annotated[
        str,
        typer.Option(help="strip (ours), strip+transnet, transnet, or adaptive, content, threshold (PySceneDetect's)."),
    ] = "strip",
    as_json: Json = False,
) -> None:
    """Where the shots of a video begin: hard cuts, and dissolves and fades (PySceneDetect's detectors give cuts only)."""
    from curation.clips.strip import make_strip
    from curation.shots.detectors import find_shots, require
    from curation.shots.lengths import shot_spans

    require(detector)
    decoded = _read(lambda path: make_strip(path, looks=False), file)
    strip = decoded.strip
    found = find_shots(detector, file, strip, decoded.facts.stream_index, referee_budget=len(strip)).transitions
    cuts = [{"frame": c.frame, "seconds": round(c.seconds, 6), "score": round(c.score, 4)} for c in found.cuts]
    gradual = [
        {
            "start_frame": g.start_frame,
            "end_frame": g.end_frame,
            "start_seconds": round(g.start_seconds, 6),
            "end_seconds": round(g.end_seconds, 6),
            "kind": g.kind,
        }
        for g in found.gradual
    ]
    if as_json:
        print(
            json.dumps({"stream": decoded.facts.stream_index, "frames": len(strip), "cuts": cuts, "gradual": gradual})
        )
        return
    spans = shot_spans(len(strip), [c.frame for c in found.cuts], [(g.start_frame, g.end_frame) for g in found.gradual])
    print(f"{len(spans)} shot{'s' if len(spans) != 1 else ''} in {len(strip)} frames")
    lines = [
        (c.frame, f"  cut at frame {c.frame:>6}  {c.seconds:>10.3f} s  score {c.score:.2f}") for c in found.cuts
    ] + [
        (
            g.start_frame,
            f"  {g.kind} of frames {g.start_frame} to {g.end_frame}  {g.start_seconds:.3f}-{g.end_seconds:.3f} s",
        )
        for g in found.gradual
    ]
    for _, line in sorted(lines):
        print(line)


def recipe_command(
    name: Annotated[str | None, typer.Argument(help="A recipe's name or file; all names without it.")] = None,
) -> None:
    """Print a recipe as YAML, with the source of every threshold: the start of one of your own."""
    from curation.recipes import RECIPES, load_recipe

    if name is None:
        for known in RECIPES:
            print(f"{known:<14} {load_recipe(known).description}")
        return
    print(
        yaml.safe_dump(load_recipe(name).model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120),
        end="",
    )


def explain_command(
    what: Annotated[str, typer.Argument(help="A video file that was curated, or a clip_id.", metavar="FILE|CLIP_ID")],
    out: Out = "lake",
    dataset: Annotated[str | None, typer.Option(help="The data set; all of them by default.", metavar="NAME")] = None,
    catalog: Catalog = None,
) -> None:
    """Why a video or a clip was kept or left, in sentences with numbers."""
    from curation.story import tell

    if not Lake.exists(out):
        raise UnknownSnapshot(f"{out} is not a lake: no catalog there")
    lake = Lake(out, catalog)
    console = Console(highlight=False, soft_wrap=True)
    for line in tell(lake, what, dataset):
        console.print(line, markup=False)
