"""Whether there is room on the disk for what is to be made."""

import math
import shutil
from pathlib import Path

from wantui.models.catalogue import find_model
from wantui.planning import Recipe
from wantui.planning.estimate import disk_for

SPARE_BYTES = 20_000_000
"""Room to leave beyond the estimate."""


CHECKPOINTS, LATENTS_IN_CHECKPOINT = 2, 5
"""The old one lies there while the new one is written; multistep samplers keep up to four states beside the latents."""


def bytes_needed(recipe: Recipe) -> int:
    """For one video and its captures, with some to spare."""
    model = find_model(recipe.model)
    needed = disk_for(recipe, model).total
    if recipe.capture.dtype == "float16":  # exact states lie beside them until the video is done
        exact = recipe.capture.model_copy(update={"dtype": "float32"})
        needed += disk_for(recipe.model_copy(update={"capture": exact}), model).latents
    latents = 4 * math.prod(model.latent_shape(recipe.width, recipe.height, recipe.frames))
    return needed + CHECKPOINTS * LATENTS_IN_CHECKPOINT * latents + SPARE_BYTES


def free_bytes(folder: Path) -> int:
    """Free on the file system of a folder, for this user."""
    return shutil.disk_usage(folder).free
