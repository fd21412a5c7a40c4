"""Load the model that generated stored videos, to evaluate it again. Imports torch."""

from collections.abc import Iterator, Sequence

from wantui.batches.replay_events import ModelLoadStarted
from wantui.generation.load import resolve_device
from wantui.generation.placement import free_unused_memory
from wantui.models.catalogue import find_model
from wantui.models.fetch import ensure_model_folder, find_replaced_parts
from wantui.planning import Recipe
from wantui.worker.pipelines import (
    LoadedPipeline,
    check_weight_fingerprints,
    choose_recipe_plan,
    load_recipe_pipeline,
)


class GeneratingModel:
    """The model of stored videos, loaded for one recipe at a time with the embeddings of all its prompts.

    Args:
        recipes: recipes of all evaluations.
        device: auto, cpu, cuda or cuda:N.
        may_fetch: download missing weights.
    """

    def __init__(self, recipes: Sequence[Recipe], device: str, may_fetch: bool) -> None:
        self.recipes, self.device, self.may_fetch = recipes, device, may_fetch
        self._loaded: LoadedPipeline | None = None
        self._loaded_for: object = None

    @property
    def loaded(self) -> LoadedPipeline:
        """Return the pipeline that `load` has loaded."""
        assert self._loaded is not None
        return self._loaded

    def load(self, recipe: Recipe) -> Iterator[ModelLoadStarted]:
        """Load the model of a recipe with a memory plan that fits, unless it is loaded; yield an event before loading.

        Raises:
            UserError: the weights have changed, are missing, or cannot be loaded.
        """
        key = get_pipeline_key(recipe)
        if self._loaded is not None and self._loaded_for == key:
            return
        yield ModelLoadStarted(recipe.model, str(resolve_device(self.device)))
        self._loaded = None  # free the earlier model first; fused blocks are in reference cycles
        free_unused_memory()
        later_recipes = [each for each in self.recipes if get_pipeline_key(each) == key]
        check_weight_fingerprints(recipe)
        ensure_recipe_weights(recipe, self.may_fetch)
        memory_plan = choose_recipe_plan(recipe, self.device).plan
        self._loaded = load_recipe_pipeline(recipe, self.device, memory_plan, later_recipes, may_fetch=self.may_fetch)
        self._loaded_for = key


def get_pipeline_key(recipe: Recipe) -> tuple[object, ...]:
    """Return the key of a recipe; videos with equal keys can share one loaded pipeline and its memory plan."""
    return recipe.source.identity, recipe.speed, recipe.width, recipe.height, recipe.frames


def ensure_recipe_weights(recipe: Recipe, may_fetch: bool) -> None:
    """Download the missing weights of a recipe's model, if that is allowed.

    Raises:
        UserError: weights are missing.
    """
    model = find_model(recipe.model)
    if not model.is_local:
        replaced_parts = find_replaced_parts(recipe.transformer_file)
        ensure_model_folder(model, recipe.revision, replaced_parts, replaced_parts=replaced_parts, may_fetch=may_fetch)
