"""Whether there is room on the disk for what is to be made."""

import math
import shutil
from pathlib import Path

from wantui.models.catalogue import find_model
from wantui.planning import Recipe
from wantui.planning.estimate import disk_for
from wantui.planning.schedule import model_evaluations

SPARE_BYTES = 20_000_000
"""Room to leave beyond the estimate."""


CHECKPOINTS, LATENTS_IN_CHECKPOINT = 2, 5
"""The old one lies there while the new one is written; multistep samplers keep up to four states beside the latents."""


def bytes_needed(recipe: Recipe) -> int:
    """For one video and its captures, with some to spare."""
    model = find_model(recipe.model)
    latents = 4 * math.prod(model.latent_shape(recipe.width, recipe.height, recipe.frames))
    states = model_evaluations(recipe.sampler, recipe.steps) + 1  # all of them lie there until the video is done
    return (
        disk_for(recipe, model).total + states * latents + CHECKPOINTS * LATENTS_IN_CHECKPOINT * latents + SPARE_BYTES
    )


def free_bytes(folder: Path) -> int:
    """Free on the file system of a folder, for this user."""
    return shutil.disk_usage(folder).free
