"""Filters that see pictures are asked in the order of what a rejection of theirs has cost."""

import json

from curation.contracts import filters
from curation.order import Asking, cheapest_first
from curation.recipes import load_recipe

RECIPE = load_recipe("demo")
SEEING = [each.name for each in filters() if each.rung == "models"]


def _video(**seconds: float) -> dict[str, str]:
    return {"filter_seconds": json.dumps({name.replace("__", "."): cost for name, cost in seconds.items()})}


def test_without_a_measurement_the_order_is_that_of_the_shipped_costs() -> None:
    costs = {each.name: each.cost for each in filters()}
    assert cheapest_first([], [], RECIPE) == sorted(SEEING, key=lambda name: costs[name])


def test_what_rejects_cheaply_is_asked_first() -> None:
    videos = [_video(visual__text=8.0, visual__logo=4.0), _video(visual__text=2.0), {"filter_seconds": None}]
    often = [{"failed_rules": ["visual.text"]}] * 10 + [{"failed_rules": ["visual.logo"]}, {"failed_rules": None}]
    assert cheapest_first(videos, often, RECIPE)[:2] == ["visual.text", "visual.logo"], "1 s and 4 s a rejection"
    seldom = [{"failed_rules": ["visual.text", "visual.logo"]}]
    assert cheapest_first(videos, seldom, RECIPE)[:2] == ["visual.logo", "visual.text"], "10 s and 4 s a rejection"


def test_filters_on_the_strip_come_before_those_that_see_pictures() -> None:
    asking = Asking(["visual.text", "visual.logo"])
    names = [each.name for each in asking.in_order(filters())]
    cheap = len(names) - len(SEEING)
    assert set(names[:cheap]).isdisjoint(SEEING) and names[cheap : cheap + 2] == ["visual.text", "visual.logo"]
    with asking.timed("visual.text"):
        sum(range(200_000))
    assert asking.seconds["visual.text"] > 0
