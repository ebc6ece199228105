"""Recipes are whole, and --set reaches every field and nothing else."""

import pytest

from pipelines.recipes import RECIPES, build_recipe
from resnet_core.errors import ConfigError


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_after_its_task_and_tells_its_source(name: str) -> None:
    recipe = build_recipe(name)
    assert recipe.name == name
    assert recipe.degradation.name == name.removesuffix("-fast")
    assert "arXiv" in recipe.source


def test_overrides_reach_inside_and_keep_types() -> None:
    recipe = build_recipe(
        "sr-x2", ["steps=10", "learning_rate=1", "network.channels=16", "loss=charbonnier"]
    )
    assert (recipe.steps, recipe.network.channels, recipe.loss) == (10, 16, "charbonnier")
    assert type(recipe.learning_rate) is float
    assert recipe.network.scale == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=1.5", "--set steps=1.5: expected a whole number"),
        ("steps=true", "expected a whole number"),
        ("learning_rate=fast", "expected a number"),
        ("steps.more=1", "steps has no fields of its own"),
        ("network=1", "expected one of its fields"),
        ("degradation.name=x", "a degradation is made in Python"),
        ("netwrk.channels=1", "has no field 'netwrk'; did you mean 'network'"),
        ("steps=0", "steps is 0, expected a whole number from 1 up"),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_recipe("sr-x2", [override])
