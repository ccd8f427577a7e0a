"""The report page, made from the real lake: everything is on it, everything adds up, nothing is fetched, nothing is run."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from api.report import build_report
from api.report.drawings import Bar, draw_dots, draw_funnel, draw_lines, smoothed
from api.report.footage import number
from api.report.page import gather, render
from curation.clips import open_snapshot
from curation.decide import COMPARE
from curation.ledger import FunnelStep, funnel
from curation.recipes import parse_recipe

VOID = {"meta", "link", "img", "br", "wbr", "path", "input", "hr"}
FETCHING = {"src", "href", "poster", "srcset", "action", "data", "xlink:href", "background"}


class Page(HTMLParser):
    """Every element with its attributes, the text in order, and whether what opens also closes."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def html(demo_snapshot: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = build_report(tmp_path_factory.mktemp("report") / "report.html", demo_snapshot, timings={"curate": 61.0})
    assert path.stat().st_size < 6e6
    return path.read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_it_is_well_formed(page: Page) -> None:
    assert page.open == [] and page.crossed == []


def test_every_clip_and_every_video_is_there_with_its_reason(page: Page, demo_snapshot: str) -> None:
    ledger = open_snapshot(demo_snapshot).table("ledger").to_pylist()
    shown = [str(attributes["data-clip"]) for _, attributes in page.elements if "data-clip" in attributes]
    assert sorted(shown) == sorted(row["clip_id"] for row in ledger if row["kind"] == "clip")
    assert len(ledger) > 20
    for row in ledger:
        assert Path(row["uri"]).name in page.text
        if row["fate"] != "kept":
            assert " ".join(row["reason"].split()) in page.text


def test_kept_clips_come_first_and_play_and_say_their_caption(page: Page, demo_snapshot: str) -> None:
    snapshot = open_snapshot(demo_snapshot)
    kept = snapshot.kept_clips().to_pylist()
    cards = [str(attributes["class"]).split()[-1] for _, attributes in page.elements if "data-clip" in attributes]
    assert cards[: len(kept)] == ["kept"] * len(kept) and "kept" not in cards[len(kept) :]
    assert all(row["caption"] in page.text for row in kept)
    videos = [attributes for tag, attributes in page.elements if tag == "video"]
    assert len(videos) == len(kept)
    assert all({"autoplay", "loop", "muted", "playsinline"} <= attributes.keys() for attributes in videos)


def test_clips_that_left_show_three_pictures(page: Page, demo_snapshot: str) -> None:
    left = open_snapshot(demo_snapshot).commit.counts
    pictures = [attributes for tag, attributes in page.elements if tag == "img" and attributes.get("class") != "near"]
    assert len(pictures) == 3 * (left["clips_in"] - left["clips_kept"])


def test_every_rule_shows_the_clips_nearest_to_its_threshold(demo_snapshot: str) -> None:
    snapshot = open_snapshot(demo_snapshot)
    content = gather(demo_snapshot)
    clips = snapshot.table("clips").to_pylist()
    rules = parse_recipe(snapshot.commit.recipe).all_rules
    assert [row.rule for row in content["contact"]] == [rule.name for rule in rules]
    for rule, row in zip(rules, content["contact"], strict=True):
        values = sorted(clip[rule.signal] for clip in clips if clip[rule.signal] is not None)
        passing = [value for value in values if COMPARE[rule.comparison](value, rule.threshold)]
        failing = [value for value in values if not COMPARE[rule.comparison](value, rule.threshold)]
        below, above = (passing, failing) if row.inside_is_below else (failing, passing)
        assert [near.value for near in row.below] == [number(value) for value in below[-3:]]
        assert [near.value for near in row.above] == [number(value) for value in above[:3]]
        assert (row.num_inside, row.num_outside) == (len(passing), len(failing))
        assert sum(count for _, count in row.left_out) == len(clips) - len(values)
        assert all(near.picture and near.picture.startswith("data:image/jpeg") for near in (*row.below, *row.above))


def test_a_rule_that_nothing_fails_says_so_and_a_missing_number_its_reason(page: Page, demo_snapshot: str) -> None:
    snapshot = open_snapshot(demo_snapshot)
    clips = snapshot.table("clips").to_pylist()
    asked = {rule.signal for rule in parse_recipe(snapshot.commit.recipe).all_rules}
    assert "nothing outside" in page.text and "none outside" in page.text
    told = [json.loads(clip["unmeasured_signals"]) for clip in clips]
    reasons = {why for each in told for name, why in each.items() if name in asked}
    assert "most of the picture stands still, a mark as much as the rest" in reasons
    for reason in reasons:
        assert page.text.count(f"could not be measured: {reason}") >= 2, "on the clip's card and beside the rule"


def test_the_sums_of_the_page_are_the_ledgers(page: Page, demo_snapshot: str) -> None:
    counts = open_snapshot(demo_snapshot).commit.counts
    for kind in ("videos", "clips"):
        fates = " + ".join(
            f"{counts[f'{kind}_{fate}']} {fate}" for fate in ("kept", "rejected", "duplicate", "quarantined")
        )
        assert f"{kind} {counts[f'{kind}_in']} in = {fates}" in page.text


def test_the_funnel_adds_up_and_leaves_idle_rules_to_the_table(page: Page, demo_snapshot: str) -> None:
    snapshot = open_snapshot(demo_snapshot)
    counts, steps = snapshot.commit.counts, funnel(snapshot)
    drawing = draw_funnel(steps, counts["clips_in"])
    gone = [int(label.text.split()[-1]) for label in drawing.labels if label.kind == "out"]
    goes_on = [int(label.text.split()[0]) for label in drawing.labels if label.kind == "on"]
    assert goes_on[0] == counts["clips_in"] and goes_on[-1] == counts["clips_kept"]
    assert goes_on[0] - sum(gone) == goes_on[-1]
    assert [a - b for a, b in pairwise(goes_on)] == gone and 0 not in gone
    assert all(step.rule in page.text for step in steps)


def test_nothing_is_fetched_and_nothing_runs(html: str, page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in FETCHING & attributes.keys():
            assert (attributes[name] or "").startswith("data:"), f"<{tag} {name}={attributes[name]!r:.60}>"
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    policy = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy[0] is not None and policy[0].startswith("default-src 'none'")


def test_footage_is_credited_and_share_alike_is_said(page: Page) -> None:
    assert "The Flutter Authors, BSD-3-Clause" in page.text
    assert "stay under CC-BY-SA-4.0 (Joao Eriberto Mota Filho)" in page.text


def test_words_of_others_stay_words(demo_snapshot: str) -> None:
    content = gather(demo_snapshot)
    footage, hostile = content["footage"], '<script>alert("1")</script><img src=x onerror=alert(2)>'
    kept = replace(footage.kept[0], caption=hostile, name=f"{hostile}_a.mp4")
    left = replace(footage.left[0], reason=hostile, rule=hostile)
    step = replace(footage.steps[0], rule=f"shots.{hostile}", rejected=1)
    content["footage"] = replace(footage, kept=(kept,), left=(left,), steps=(step,))
    content["funnel"] = draw_funnel([step], 16)
    shown = Page(render(content))
    assert not [tag for tag, _ in shown.elements if tag == "script"]
    assert not [attributes for _, attributes in shown.elements if "onerror" in attributes]
    assert shown.text.count(hostile) >= 4
    assert shown.open == [] and shown.crossed == []


def test_a_lake_whose_rules_took_nothing_or_everything_still_draws() -> None:
    def step(entered: int, rejected: int) -> FunnelStep:
        return FunnelStep(
            stage="visual",
            rule="visual.size",
            signal="short_side",
            comparison=">=",
            threshold=180.0,
            entered=entered,
            rejected=rejected,
            left=entered - rejected,
            only_this_rule=rejected,
        )

    assert [label.text for label in draw_funnel([step(3, 0)], 3).labels] == ["3 clips"]
    everything = draw_funnel([step(3, 3)], 3)
    assert [label.text for label in everything.labels if label.kind == "on"] == ["3 clips", "0 kept"]
    assert draw_funnel([], 0).height > 0


def test_lines_stay_inside_their_picture_whatever_the_numbers() -> None:
    curve = [(1, 2.0), (2, float("nan")), (3, 0.01), (4, float("inf")), (5, 0.5)]
    drawing = draw_lines(
        [("raw", curve)], [Bar(value=0.3, name="bar")], title="loss", logarithmic=True, points=[(5, 0.4, "end")]
    )
    path = next(shape.d for shape in drawing.shapes if shape.kind == "raw")
    points = [tuple(map(float, place.split())) for place in path[1:].split("L")]
    assert len(points) == 3
    assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in points)
    assert points[0][1] < points[2][1] < points[1][1]  # a smaller loss is lower
    assert draw_lines([("raw", [])], [], title="nothing").shapes == []


def test_dots_lie_where_their_values_are() -> None:
    drawing = draw_dots([("a", 30.0, 20.0), ("b", 15.0, 20.0)], title="psnr", unit="dB")
    across = [float(shape.d[1:].split()[0]) for shape in drawing.shapes if shape.kind == "point"]
    rings = [float(shape.d[1:].split()[0]) for shape in drawing.shapes if shape.kind == "ring"]
    assert across[0] > rings[0] == rings[1] > across[1]
    assert [shape.kind for shape in drawing.shapes if shape.kind in ("wins", "loses")] == ["wins", "loses"]


def test_a_running_mean_is_the_mean_of_what_was() -> None:
    assert smoothed([(1, 1.0), (2, 3.0), (3, 5.0)], share=0.67) == [(1, 1.0), (2, 2.0), (3, 4.0)]
