"""docs/filters.md is written by benchmarks/filters.py; what it says of signals and thresholds must be what the code says."""

from pathlib import Path

from benchmarks.filters import catalogue, thresholds
from curation.order import Asking
from curation.recipes import RECIPES, load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "filters.md").read_text()


class _Free(Asking):
    def per_second(self, name: str) -> float:
        return 0.0


def test_every_threshold_of_every_recipe_stands_there() -> None:
    for line in thresholds():
        assert line in PAGE, "run `python benchmarks/filters.py` again"


def test_every_signal_stands_there_with_its_unit_and_meaning() -> None:
    for line in catalogue(_Free())[2:]:  # type: ignore[arg-type]
        assert line.rpartition(" | ")[0].split("| ", 2)[2] in PAGE, "run `python benchmarks/filters.py` again"


def test_every_rule_of_the_recipes_can_be_found_by_its_name() -> None:
    for name in RECIPES:
        for rule in load_recipe(name).rules:
            assert f"| {rule.name} |" in PAGE and rule.source
