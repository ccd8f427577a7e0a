"""Recipes: files load, wrong fields name the nearest right one, and nothing starts from a wrong one."""

import pytest

from curation.clips import WrongCall
from curation.recipes import RECIPES, load_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_survives_yaml(name: str, tmp_path) -> None:
    import yaml

    recipe = load_recipe(name)
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(str(path)) == recipe and load_recipe(str(path)).hash == recipe.hash


def test_toml_loads_and_a_rule_changes_the_hash(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[rules]]\nname = "visual.size"\nsignal = "short_side"\ncomparison = ">="\nthreshold = 300\n')
    recipe = load_recipe(str(path))
    assert recipe.name == "mine" and recipe.rules[0].threshold == 300
    path.write_text(path.read_text().replace("300", "301"))
    assert load_recipe(str(path)).hash != recipe.hash


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scene_min_second: 3", "unknown field 'scene_min_second', did you mean 'scene_min_seconds'?"),
        ("rules: [{name: visual.a, signal: sharpnes, comparison: '>', threshold: 1}]", "did you mean sharpness?"),
        ("rules: [{name: visual.a, signal: sharpness, comparison: '!=', threshold: 1}]", "comparison"),
        (
            "rules: [{name: sharp, signal: sharpness, comparison: '>', threshold: 1}]",
            "visual.something or motion.something",
        ),
        ("rules: [{name: visual.a, signl: sharpness, comparison: '>', threshold: 1}]", "did you mean 'signal'?"),
        ("clip_min_seconds: 20", "clip_max_seconds=16.0 is below"),
        ("name: ../escape", "letters, digits"),
        ("[1, 2]", "must be a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_says_what_and_where(text: str, words: str, tmp_path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(WrongCall) as caught:
        load_recipe(str(path))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(WrongCall, match="did you mean moviegen_256"):
        load_recipe("moviegen256")


def test_the_papers_numbers_stand_in_its_recipes() -> None:
    low, high = load_recipe("moviegen_256"), load_recipe("moviegen_768")
    for recipe, side in ((low, 720), (high, 768)):
        rules = {rule.name: (rule.comparison, rule.threshold) for rule in recipe.all_rules}
        assert rules["visual.size"] == (">=", side)
        assert rules["visual.text"] == ("<", 0.6)
        assert rules["motion.amount"] == (">", 2.0)
        assert rules["motion.shots_per_second"] == ("<", 0.85)
        assert rules["shots.scene_length"] == (">=", 16) and rules["shots.scene_rank"] == ("<=", 2)
        assert (recipe.clip_min_seconds, recipe.clip_max_seconds, recipe.drop_head_seconds) == (4, 16, 2)
        assert recipe.near_duplicate_similarity == 0.99 and recipe.balance


def test_candidates_for_fine_tuning_pass_whatever_the_larger_set_asks() -> None:
    wide, strict = load_recipe("moviegen_768"), load_recipe("moviegen_sft")
    thresholds = {rule.name: rule.threshold for rule in strict.all_rules}
    assert strict.clip_min_seconds == thresholds["shots.clip_length"] == 10.6
    tightened = 0
    for rule in wide.all_rules:
        stricter = (
            thresholds[rule.name] - rule.threshold
            if rule.comparison[0] == ">"
            else rule.threshold - thresholds[rule.name]
        )
        assert stricter >= 0, rule.name
        tightened += stricter > 0
    assert tightened >= 8
