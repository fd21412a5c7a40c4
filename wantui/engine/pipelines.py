"""The pipeline that a recipe asks for, from the weights that it names."""

from pathlib import Path
from typing import TYPE_CHECKING

from wantui.generation.load import LoadError, load_pipeline, resolve_device
from wantui.models.catalogue import find_model
from wantui.models.fingerprint import fingerprint
from wantui.planning import Recipe

if TYPE_CHECKING:
    from diffusers import WanPipeline


def load_for(recipe: Recipe, device: str = "auto", rung: int = 0) -> "WanPipeline":
    """The pipeline that makes this recipe's video; `rung` says how much memory is to be saved."""
    return load_pipeline(find_model(recipe.model), recipe.revision, recipe.dtype, resolve_device(device), rung)


def check_weights(recipe: Recipe) -> None:
    """Refuse to go on with other weights than the recipe names.

    Raises:
        LoadError: the files of a local model have changed since the recipe was written.
    """
    model = find_model(recipe.model)
    if model.is_local and (found := fingerprint(Path(model.location))) != recipe.revision:
        raise LoadError(
            f"the weights in {model.location} have changed since this batch was planned "
            f"(fingerprint {found[:12]}, planned {str(recipe.revision)[:12]}); plan a new batch"
        )
