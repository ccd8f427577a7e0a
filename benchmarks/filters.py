"""The evidence behind every filter: what it measures, what it costs, and how often it is right. Writes docs/filters.md.

python benchmarks/filters.py [FOLDER] [--out docs/filters.md] [--sources 8] [--no-funnel]

FOLDER holds videos and, for the labelled part, their SOURCES.csv; samples/ by default. Whole single-shot videos are judged by the
thresholds of the recipe moviegen_256, as clips would be. Copies with one fault each are made of the first few fitting videos, and
compared with a plain copy of the same video. Takes about 15 CPU minutes for 800 seconds of video.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):  # run as a file: here, `curation` would be this folder's
    sys.path[0] = os.path.dirname(sys.path[0])

import av
import numpy as np

from benchmarks import degrade, labels
from curation.caption.template import camera_motion
from curation.clips import Lake
from curation.clips.errors import UnreadableVideo
from curation.clips.frames import count_frames
from curation.clips.native_motion import native_motion
from curation.clips.strip import make_strip
from curation.contracts import ClipView, Unmeasured, filters
from curation.decide import COMPARE
from curation.ledger import funnel
from curation.order import Asking
from curation.pipeline import curate
from curation.recipes import RECIPES, Recipe, load_recipe
from curation.sources.footage import find_footage

LOWER_IS_WORSE = {"sharpness", "visual_quality", "distinct_fps"}
JUDGE = "moviegen_256"  # whose thresholds judge
# how table 44 of the paper goes on from a raw pool of 100, and which of our rules each step is
TABLE_44 = (
    ("4-120 s", 100.0, ("visual.video_length_min", "visual.video_length_max")),
    (">= 768 px", 25.0, ("visual.size",)),
    ("w >= h", 7.0, ("visual.landscape",)),
    ("no text", 1.94, ("visual.text",)),
    ("no border", 1.87, ("visual.borders",)),
    ("12-16 s clip", 1.78, ("visual.clip_length",)),
    ("aesthetic", 1.57, ("visual.aesthetic",)),
    ("not slow", 1.32, ("motion.amount", "motion.vectors_slow")),
    ("not shaky", 1.22, ("motion.shots_per_second",)),
    ("dedup", 1.15, ("content.near_duplicates",)),
    ("resample", 0.94, ("content.balance",)),
)
CODECS = {
    "H.264 crf 18": ("libx264", {"crf": "18"}),
    "H.264 crf 35": ("libx264", {"crf": "35"}),
    "MPEG-4": ("mpeg4", {"qscale": "4"}),
    "MPEG-2": ("mpeg2video", {"qscale": "4"}),
    "HEVC": ("libx265", {"crf": "24", "x265-params": "log-level=none"}),
    "VP9": ("libvpx-vp9", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
}


@dataclass
class Seen:
    """One video: its view as a clip, its scores, and what people saw in it."""

    name: str
    view: ClipView
    scores: dict[str, Any]
    row: labels.Labels


class Costs(Asking):
    """CPU seconds of each step over all videos."""

    video_seconds = 0.0

    def per_second(self, name: str) -> float:
        """CPU milliseconds per second of video."""
        return 1000 * self.seconds.get(name, 0.0) / max(self.video_seconds, 1e-9)


def watch(paths: Sequence[str], costs: Costs) -> Iterator[Seen]:
    """Decode and score every readable video, once; models are loaded before anything is timed."""
    warm = True
    known = {path.parent: labels.read_labels(path.parent) for path in map(Path, paths)}
    for path in paths:
        try:
            with costs.timed("decode"):
                count_frames(path)
            with costs.timed("strip"):
                decoded = make_strip(path)
        except UnreadableVideo:
            continue
        if len(decoded.strip) < 2:
            continue
        view = _view(decoded)
        if warm:
            for each in filters():
                each.score(view)
            warm = False
        costs.video_seconds += decoded.strip.clock.duration_seconds
        scores: dict[str, Any] = {}
        for each in filters():
            with costs.timed(each.name):
                scores |= each.score(view)
        row = known[Path(path).parent].get(Path(path).name, {})
        yield Seen(name=Path(path).name, view=view, scores=scores, row=row)


def _view(decoded: Any) -> ClipView:
    seconds = decoded.strip.clock.frame_seconds
    looks = [(float(seconds[frame]), look) for frame, look in decoded.looks]
    return ClipView(
        facts=decoded.facts, strip=decoded.strip, looks=looks, video_seconds=decoded.strip.clock.duration_seconds
    )


def objects(recipe: Recipe, signal: str, scores: dict[str, Any]) -> bool | None:
    """Whether a rule of the recipe on this signal rejects; None where it was not measured or no rule asks."""
    value = scores[signal]
    rules = [rule for rule in recipe.rules if rule.signal == signal]
    if isinstance(value, Unmeasured) or not rules:
        return None
    return not all(COMPARE[rule.comparison](value, rule.threshold) for rule in rules)


# --- labelled videos -------------------------------------------------------------------------------------------------

QUESTIONS: tuple[tuple[str, str, Callable[[labels.Labels], bool | None]], ...] = (
    ("text that can be read", "text_score", labels.has_text),
    ("black bars, rims of 8 pixels too", "border_share", labels.has_borders),
    ("logo or watermark", "logo_score", labels.has_mark),
    ("picture in picture", "inset_score", labels.has_inset),
    ("nothing moves (frozen, screen, stills)", "static_share", labels.is_still),
    ("stills, frozen or gliding", "still_share", labels.is_still),
    ("shaken", "jitter", labels.is_shaky),
)


def labelled_table(seen: Sequence[Seen], recipe: Recipe) -> list[str]:
    lines = [
        "| what people saw | signal | yes / no | precision | recall | wrong | missed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, signal, label in QUESTIONS:
        wrong, missed, verdicts = [], [], []
        for each in seen:
            truth = label(each.row) if each.row else None
            if signal not in ("text_score", "border_share") and not labels.is_single_shot(each.row):
                continue
            objected = objects(recipe, signal, each.scores)
            if truth is None or objected is None:
                continue
            verdicts.append((objected, truth))
            if objected and not truth:
                wrong.append(each.name)
            if truth and not objected:
                missed.append(each.name)
        right, false, lost, passed = labels.count(verdicts)
        lines.append(
            f"| {name} | `{signal}` | {right + lost} / {false + passed} | {_ratio(right, right + false)} | "
            f"{_ratio(right, right + lost)} | {_names(wrong)} | {_names(missed)} |"
        )
    return lines


def _ratio(part: int, whole: int) -> str:
    return f"{part}/{whole}" if whole else "-"


def _names(names: Sequence[str], most: int = 4) -> str:
    short = [Path(name).stem for name in names]
    return ", ".join(short[:most]) + (f" and {len(short) - most} more" if len(short) > most else "") or "-"


def crop_line(seen: Sequence[Seen]) -> str:
    errors = []
    for each in seen:
        box = labels.crop_box(each.row) if each.row else None
        if box is None or isinstance(each.scores["crop_width"], Unmeasured):
            continue
        found = [each.scores[f"crop_{side}"] for side in ("width", "height", "left", "top")]
        shown = max(each.view.facts.width, each.view.facts.height)
        scale = each.view.facts.width / max(1, int(each.row.get("width") or each.view.facts.width))
        errors.append(max(abs(a - b * scale) for a, b in zip(found, box, strict=True)) / shown)
    if not errors:
        return "No crop box is labelled in this folder."
    return (
        f"Crop boxes: {len(errors)} labelled ones; the worst of the four numbers is off by {100 * statistics.median(errors):.1f} % of "
        f"the longer side in the median, {100 * max(errors):.1f} % at most."
    )


def camera_table(seen: Sequence[Seen]) -> list[str]:
    tally: dict[str, list[int]] = {}
    wrong = []
    for each in seen:
        allowed = labels.camera_words(each.row) if each.row and labels.is_single_shot(each.row) else set()
        said = camera_motion({name: None if isinstance(v, Unmeasured) else v for name, v in each.scores.items()})
        if not allowed or said is None:
            continue
        word = said.split()[0]
        right = word in allowed
        entry = tally.setdefault(word, [0, 0])
        entry[not right] += 1
        if not right:
            wrong.append(f"{Path(each.name).stem} ({said}; labelled {each.row['camera']})")
    total = sum(map(sum, tally.values()))
    lines = ["| camera in words | said | right |", "|---|---|---|"]
    lines += [f"| {word} | {sum(entry)} | {entry[0]} |" for word, entry in sorted(tally.items())]
    lines += [f"| all | {total} | {sum(e[0] for e in tally.values())} |", "", f"Wrong: {'; '.join(wrong) or 'none'}."]
    return lines


# --- copies with one fault -------------------------------------------------------------------------------------------


def sources_for_copies(seen: Sequence[Seen], folder: str, count: int) -> list[str]:
    """Lively single shots of four seconds and more without text, bars, marks or insets, in the order of the hashes of their names."""
    fitting = [
        each.name
        for each in seen
        if labels.is_single_shot(each.row)
        and each.view.strip.clock.duration_seconds >= degrade.SECONDS
        and not any(ask(each.row) for ask in (labels.has_text, labels.has_borders, labels.has_mark, labels.has_inset))
        and not each.name.startswith(("odd_", "made_", "pattern_", "black_"))
        and each.scores["static_share"] < 0.3
    ]
    fitting.sort(key=lambda name: sha256(name.encode()).hexdigest())
    return [str(Path(folder) / name) for name in fitting[:count]]


def copies_table(sources: Sequence[str], recipe: Recipe) -> list[str]:
    made: dict[str, list[dict[str, Any]]] = {"plain": []}
    with tempfile.TemporaryDirectory() as scratch:
        target = str(Path(scratch) / "copy.mp4")
        ways = {"plain": degrade.plain_copy} | {name: each.make for name, each in degrade.DEGRADATIONS.items()}
        for name, make in ways.items():
            made[name] = []
            for source in sources:
                make(source, target)
                view = _view(make_strip(target))
                wanted = (
                    {s for each in degrade.DEGRADATIONS.values() for s in each.signals}
                    if name == "plain"
                    else set(degrade.DEGRADATIONS[name].signals)
                )
                scores: dict[str, Any] = {}
                for each in filters():
                    if wanted & {signal.name for signal in each.signals}:
                        scores |= each.score(view)
                made[name].append(scores)
            print(f"{name}: {len(made[name])} copies", file=sys.stderr)
    lines = [
        "| fault | signal | threshold | objects to copies | objects to plain copies | area under ROC |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in degrade.DEGRADATIONS.items():
        for signal in each.signals:
            rules = [rule for rule in recipe.rules if rule.signal == signal]
            asked = "; ".join(f"{rule.comparison} {rule.threshold:g}" for rule in rules) or "no rule"
            caught = [objects(recipe, signal, scores) for scores in made[name]]
            clean = [objects(recipe, signal, scores) for scores in made["plain"]]
            bad, good = _numbers(made[name], signal), _numbers(made["plain"], signal)
            lines.append(
                f"| {name.replace('_', ' ')} | `{signal}` | {asked} | "
                + (
                    f"{_ratio(caught.count(True), len(caught))} | {_ratio(clean.count(True), len(clean))} | "
                    if rules
                    else "- | - | "
                )
                + f"{_area(bad, good, signal in LOWER_IS_WORSE)} |"
            )
    return lines


def _numbers(scores: Sequence[dict[str, Any]], signal: str) -> list[float]:
    return [each[signal] for each in scores if not isinstance(each[signal], Unmeasured)]


def _area(bad: Sequence[float], good: Sequence[float], lower: bool) -> str:
    """Chance that a random faulty copy scores worse than a random plain one. lower: whether a lower score is worse."""
    if not bad or not good:
        return "-"
    above = float(np.mean([[1.0 if b > g else 0.5 if b == g else 0.0 for g in good] for b in bad]))
    return f"{1 - above if lower else above:.2f}"


# --- motion against other measures -----------------------------------------------------------------------------------


def vmaf_lines(seen: Sequence[Seen], folder: str) -> list[str]:
    lines = []
    for signal in ("vmaf_motion", "vmaf_motion_native"):
        errors = []
        for each in seen:
            published = float(each.row.get("vmafmotion_avg") or 0)
            if published >= 0.1 and not isinstance(each.scores[signal], Unmeasured):
                errors.append(abs(each.scores[signal] / published - 1))
        if errors:
            lines.append(
                f"- `{signal}` against FFmpeg's `vmafmotion` over whole videos: off by {100 * statistics.median(errors):.1f} % in the median, "
                f"{100 * float(np.percentile(errors, 90)):.1f} % at the 90th percentile ({len(errors)} videos)."
            )
    for path in sorted(Path(folder, "gt_vmaf").glob("*_576x324_3frames_yuv420p*le.yuv")):
        bits = int(path.stem.split("yuv420p")[1].removesuffix("le"))
        size = 576 * 324 * 3 // 2
        planes = np.fromfile(path, "<u2").reshape(3, size)[:, : 576 * 324].reshape(3, 324, 576)
        found = [native_motion(planes[i], planes[i + 1], bits) for i in range(2)]
        lines.append(
            f"- VMAF's published frames, {bits} bits: motion {found[0]:.6f} and {found[1]:.6f} (a check in double precision: 4.579442 and "
            f"4.214324), mean with the first frame's 0 {sum(found) / 3:.6f} (published for 8 bits: 2.931255)."
        )
    return lines


def recodes_table(sources: Sequence[str]) -> list[str]:
    """How far a clip's motion moves when nothing but its codec changes: medians of |ln ratio| to H.264 crf 18."""
    names = ("motion_vector", "flow_motion", "vmaf_motion_native", "object_share", "camera_speed", "jitter")
    found: dict[str, dict[str, list[float]]] = {codec: {name: [] for name in names} for codec in CODECS}
    with tempfile.TemporaryDirectory() as scratch:
        for source in sources:
            frames, fps = degrade.read(source)
            scores = {}
            for codec, (encoder, options) in CODECS.items():
                target = str(Path(scratch) / ("copy.mpg" if encoder == "mpeg2video" else "copy.mkv"))
                _encode(target, frames, fps, encoder, options)
                view = _view(make_strip(target, looks=False))
                scores[codec] = {
                    n: v for each in filters() if each.rung != "models" for n, v in each.score(view).items()
                }
            for codec in CODECS:
                for name in names:
                    now, before = scores[codec][name], scores["H.264 crf 18"][name]
                    if not isinstance(now, Unmeasured) and not isinstance(before, Unmeasured) and min(now, before) > 0:
                        found[codec][name].append(abs(float(np.log(now / before))))
    lines = ["| re-encoded as | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + "---|" * len(names)]
    for codec in list(CODECS)[1:]:
        cells = [
            f"{100 * (np.exp(statistics.median(found[codec][name])) - 1):.0f} %" if found[codec][name] else "-"
            for name in names
        ]
        lines.append(f"| {codec} | " + " | ".join(cells) + " |")
    return lines


def _encode(path: str, frames: np.ndarray, fps: float, encoder: str, options: dict[str, str]) -> None:
    with av.open(path, "w") as container:
        rate = Fraction(round(fps))  # MPEG-2 knows only a few rates
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


# --- the funnel of table 44 ------------------------------------------------------------------------------------------


def funnel_table(folder: str) -> list[str]:
    paper = load_recipe("moviegen_funnel")
    small = paper.model_copy(
        update={
            "name": "small_funnel",
            "rules": tuple(
                rule.model_copy(
                    update={
                        "threshold": {"visual.size": 240.0, "visual.clip_length": 4.0}.get(rule.name, rule.threshold)
                    }
                )
                for rule in paper.rules
            ),
        }
    )
    with tempfile.TemporaryDirectory() as lake:
        ours = [_funnel_of(folder, recipe, lake) for recipe in (paper, small)]
    head = "| " + " | ".join(["", "clips", *(step for step, _, _ in TABLE_44)]) + " |"
    lines = [head, "|---|" + "---|" * (len(TABLE_44) + 1)]
    lines.append("| Movie Gen, % of the raw pool | | " + " | ".join(f"{share:g}" for _, share, _ in TABLE_44) + " |")
    for name, (entered, left) in zip(("at its thresholds, clips", "at 240 px and 4 s, clips"), ours, strict=True):
        lines.append(f"| {name} | {entered} | " + " | ".join(str(number) for number in left) + " |")
    return lines


def _funnel_of(folder: str, recipe: Recipe, lake: str) -> tuple[int, list[int]]:
    """How many clips enter, and how many are left after each step of the table."""
    curate([folder], recipe, lake)
    steps = {step.rule: step for step in funnel(Lake(lake).snapshot(recipe.name))}
    entered = next(iter(steps.values())).entered
    left, now = [], entered
    for _, _, rules in TABLE_44:
        now -= sum(steps[rule].rejected for rule in rules if rule in steps)
        left.append(now)
    return entered, left


# --- the page --------------------------------------------------------------------------------------------------------


def catalogue(costs: Costs) -> list[str]:
    """Every filter: its signals, and what it costs."""
    lines = ["| filter | signal | unit | what it measures | CPU ms per s |", "|---|---|---|---|---|"]
    for each in sorted(filters(), key=lambda f: (f.stage != "visual", f.name)):
        for number, signal in enumerate(each.signals):
            first = number == 0
            lines.append(
                f"| {each.name if first else ''} | `{signal.name}` | {signal.unit} | {signal.meaning} | "
                f"{f'{costs.per_second(each.name):.2f}' if first else ''} |"
            )
    return lines


def thresholds() -> list[str]:
    """Every rule of every named recipe, with its source."""
    lines = ["| rule | " + " | ".join(RECIPES) + " | source |", "|---|" + "---|" * (len(RECIPES) + 1)]
    recipes = {name: load_recipe(name) for name in RECIPES}
    names = list(dict.fromkeys(rule.name for recipe in recipes.values() for rule in recipe.rules))
    stage = {name: ("visual", "motion").index(name.partition(".")[0]) for name in names}
    for name in sorted(names, key=lambda name: stage[name]):
        cells, sources = [], []
        for recipe in recipes.values():
            [*found] = [rule for rule in recipe.rules if rule.name == name]
            cells.append(f"`{found[0].signal}` {found[0].comparison} {found[0].threshold:g}" if found else "")
            sources += [found[0].source] if found else []
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {'; '.join(dict.fromkeys(sources))} |")
    return lines


def chain(costs: Costs) -> list[str]:
    """What the stages cost against one full decode of the same videos."""
    decode = costs.seconds["decode"]
    by_kind: dict[str, float] = {"on the strip": 0.0, "models but text": 0.0}
    for each in filters():
        if each.name != "visual.text":
            by_kind["models but text" if each.rung == "models" else "on the strip"] += costs.seconds[each.name]
    without = costs.seconds["strip"] + sum(by_kind.values())
    rows = {
        "decode, nothing measured": decode,
        "strip and looks": costs.seconds["strip"],
        "filters on the strip": by_kind["on the strip"],
        "filters that see pictures, without text": by_kind["models but text"],
        "**visual and motion, without text**": without,
        "text": costs.seconds["visual.text"],
        "visual and motion, all": without + costs.seconds["visual.text"],
    }
    lines = ["| | CPU s | full decodes |", "|---|---|---|"]
    return lines + [f"| {name} | {seconds:.1f} | {seconds / decode:.2f} |" for name, seconds in rows.items()]


def quality_table() -> list[str]:
    """Held-out figures of our quality head, as its training left them beside its weights."""
    path = Path(__file__).parent.parent / "models" / "content" / "quality.json"
    if not path.is_file():
        return ["Not trained."]
    report = json.loads(path.read_text())
    lines = ["| fault | held-out area under ROC | found where 5 % of clean pictures are lost |", "|---|---|---|"]
    lines += [f"| {name} | {it['auc']:.3f} | {it['found']:.0%} |" for name, it in report["held_out"].items()]
    return [
        *lines,
        "",
        f"{report['videos']} videos under clear licences in {report['groups']} groups of like ones, {report['folds']} folds by group.",
    ]


def page(folder: str, seen: Sequence[Seen], costs: Costs, count: int, with_funnel: bool) -> str:
    recipe = load_recipe(JUDGE)
    sources = sources_for_copies(seen, folder, count)
    parts: list[str] = []

    def section(title: str, *texts: str, table: Sequence[str] = ()) -> None:
        parts.extend(
            [f"## {title}", "", *(line for text in texts for line in (text, "")), *table, *([""] if table else [])]
        )

    section(
        "Every filter",
        "Cost is CPU milliseconds per second of video, after models are loaded; the strip that most of them read is not in it.",
        table=catalogue(costs),
    )
    section(
        "Cost of the chain",
        f"{len(seen)} videos, {costs.video_seconds:.0f} s, one process, one thread.",
        table=chain(costs),
    )
    section(
        "Thresholds",
        'A rule keeps a clip when it holds. "ours" means the paper names the filter and gives no number.',
        table=thresholds(),
    )
    section(
        "Labelled videos",
        f"{sum(bool(each.row) for each in seen)} labelled videos, judged whole by the thresholds of `{JUDGE}`. Where the yes are few, a ratio says little; the names say more.",
        table=labelled_table(seen, recipe),
    )
    parts.extend([crop_line(seen), "", *camera_table(seen), ""])
    section(
        "Copies with one fault",
        f"{len(sources)} videos ({_names(sources, 99)}), 4 seconds each, at most 640 pixels, encoded by x264; judged by `{JUDGE}`. The area under ROC needs no threshold: 0.5 is guessing.",
        table=copies_table(sources, recipe),
    )
    section("Motion against other measures", table=vmaf_lines(seen, folder))
    parts.extend(
        [
            "What re-encoding alone does to a clip's motion (difference to the same frames in H.264 at crf 18, medians):", "",
            *recodes_table(sources[:5]), "",
            "H.264 and MPEG bring their own vectors; HEVC and VP9 have none here, and get optical flow fitted to them.", "",
        ]
    )  # fmt: skip
    section(
        "Visual quality",
        "A linear head on features of a packaged classifier, trained by `benchmarks/visual_quality.py`; held out by video.",
        table=quality_table(),
    )
    if with_funnel:
        section(
            "The funnel of table 44",
            "The paper's steps in the paper's order, on these videos. Its percentages are of a pool of raw videos from the wild; ours are counts of clips of test videos, most of them small, so only the form can be compared. Aesthetic needs LAION's weights (`models.aesthetic_clip`, `models.aesthetic_head` in a recipe); without them it is unmeasured and takes nothing.",
            table=funnel_table(folder),
        )
    head = [
        "# Filters and their evidence",
        "",
        f"Written by `python benchmarks/filters.py` over {len(seen)} videos; do not edit.",
        "",
    ]
    return "\n".join(head + parts).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="samples", help="videos, and their labels in SOURCES.csv")
    parser.add_argument("--out", default="docs/filters.md", help="the page to write")
    parser.add_argument("--sources", type=int, default=8, help="videos that copies are made of")
    parser.add_argument("--no-funnel", action="store_true", help="leave out the funnel, which curates the folder twice")
    asked = parser.parse_args()
    paths = [footage.uri for footage in find_footage([asked.folder])[0]]
    costs, seen = Costs(), []
    for each in watch(paths, costs):
        seen.append(each)
        print(f"{len(seen)}/{len(paths)} {each.name}", file=sys.stderr)
    if not seen:
        parser.error(f"no video of {asked.folder} can be read")
    Path(asked.out).write_text(page(asked.folder, seen, costs, asked.sources, not asked.no_funnel))
    print(f"{asked.out} written", file=sys.stderr)


if __name__ == "__main__":
    main()
