"""Which model a recipe names: identity of weights, cost of operations, and what trajectories must share."""

from typing import Any

import pytest
from conftest import recipe_for

from wantui.models.catalogue import NANO
from wantui.planning import Recipe
from wantui.planning.model_source import TransformerFile

FILE = TransformerFile(path="/w/a.gguf", fingerprint="12345678abcd", bytes=100)
OTHER = FILE.model_copy(update={"fingerprint": "ffff5678abcd"})


def change_recipe(**values: Any) -> Recipe:
    return recipe_for(NANO).model_copy(update={"revision": "main"} | values)


@pytest.mark.parametrize(
    "values",
    [
        {"model": "1.3b"},
        {"revision": "other"},
        {"dtype": "bfloat16"},
        {"weights": "int8"},
        {"weights": "gguf", "transformer_file": FILE},
    ],
    ids=str,
)
def test_other_weights_have_another_identity_and_are_not_comparable(values: dict[str, Any]) -> None:
    assert change_recipe(**values).source.identity != change_recipe().source.identity
    assert change_recipe(**values).source.comparison_settings != change_recipe().source.comparison_settings


def test_files_with_equal_names_and_different_contents_have_different_identities() -> None:
    one, other = (change_recipe(weights="gguf", transformer_file=file).source for file in (FILE, OTHER))
    assert one.identity != other.identity
    assert one.weights_id == "main+12345678abcd"
    assert one.cost_key == other.cost_key, "operations on weights of one size take one time"


def test_settings_unrelated_to_weights_keep_the_identity() -> None:
    assert change_recipe(seed=9, steps=7, width=64, sampler="euler").source == change_recipe().source


def test_revision_does_not_change_the_cost() -> None:
    assert change_recipe(revision="other").source.cost_key == change_recipe().source.cost_key
