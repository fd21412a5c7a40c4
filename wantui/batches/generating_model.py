"""Load the model that generated stored videos, for further evaluations of it. Imports torch."""

from collections.abc import Sequence

from wantui.models.catalogue import find_model
from wantui.models.fetch import ensure_model_folder, find_replaced_parts
from wantui.planning import Recipe
from wantui.worker.pipelines import (
    LoadedPipeline,
    check_weight_fingerprints,
    choose_recipe_plan,
    load_recipe_pipeline,
)


def load_generating_model(
    recipe: Recipe, later_recipes: Sequence[Recipe], device: str, may_fetch: bool
) -> LoadedPipeline:
    """Load the model of a recipe with a memory plan that fits, and encode the prompts of all recipes.

    Args:
        later_recipes: further recipes that the loaded pipeline serves.
        may_fetch: download missing weights.

    Raises:
        UserError: the weights have changed, are missing, or cannot be loaded.
    """
    check_weight_fingerprints(recipe)
    model = find_model(recipe.model)
    if not model.is_local:
        replaced_parts = find_replaced_parts(recipe.transformer_file)
        ensure_model_folder(model, recipe.revision, replaced_parts, replaced_parts=replaced_parts, may_fetch=may_fetch)
    memory_plan = choose_recipe_plan(recipe, device).plan
    return load_recipe_pipeline(recipe, device, memory_plan, later_recipes, may_fetch=may_fetch)
