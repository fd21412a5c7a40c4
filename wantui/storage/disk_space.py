"""Disk-space check before rendering: one rule for previews, new batches and workers."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from wantui.formatting import format_bytes
from wantui.models.catalogue import find_model
from wantui.planning import BatchPreview, Recipe
from wantui.planning.disk_estimate import estimate_recipe_disk, group_recipes_by_size
from wantui.planning.weight_bytes import estimate_latent_bytes
from wantui.samplers import count_model_evaluations

RESERVE_BYTES = 20_000_000
"""Bytes to leave free beyond the estimate."""
MIN_FREE_FILES = 1000
"""Minimum number of files that a disk must still be able to hold; with fewer, the disk counts as full.

A video with captures creates hundreds of files."""
CHECKPOINTS, LATENTS_IN_CHECKPOINT = 2, 5
"""Maximum number of checkpoints on disk (the old one stays while the new one is written), and of states in each:
multistep samplers store up to four in addition to the latents."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that must be free before videos are rendered."""

    stored_bytes: int
    """Bytes that remain after rendering: clips and captures."""
    temporary_bytes: int
    """Bytes of checkpoints and exact states of one video while it is rendered."""
    reserve_bytes: int = RESERVE_BYTES

    @property
    def total_bytes(self) -> int:
        return self.stored_bytes + self.temporary_bytes + self.reserve_bytes

    def count_fitting_videos(self, free_bytes: int, video_count: int) -> int:
        """Return how many of a batch's `video_count` videos fit into `free_bytes`, if all store the same."""
        spare_bytes = max(0, free_bytes - self.temporary_bytes - self.reserve_bytes)
        return min(video_count, spare_bytes * video_count // max(1, self.stored_bytes))

    @property
    def description(self) -> str:
        """Return the total and its parts, as in "21.0 MB needed: 0.4 MB to store, ..."."""
        return (
            f"{format_bytes(self.total_bytes)} needed: {format_bytes(self.stored_bytes)} to store, "
            f"{format_bytes(self.temporary_bytes)} for checkpoints, {format_bytes(self.reserve_bytes)} to keep free"
        )


def estimate_disk_need(recipe: Recipe, stored_bytes: int | None = None) -> DiskNeed:
    """Return the bytes that must be free for a video, or for a batch of videos rendered one after the other.

    Args:
        recipe: recipe of the video, or of any video of the batch.
        stored_bytes: predicted bytes of all files of a batch; None for a single video.

    Raises:
        UserError: the model is no longer available.
    """
    model = find_model(recipe.model)
    latent_bytes = estimate_latent_bytes(model, recipe)
    # all states stay on disk until the video is done
    state_count = count_model_evaluations(recipe.sampler, recipe.steps) + 1
    temporary_bytes = (state_count + CHECKPOINTS * LATENTS_IN_CHECKPOINT) * latent_bytes
    return DiskNeed(
        estimate_recipe_disk(recipe, model).total_bytes if stored_bytes is None else stored_bytes, temporary_bytes
    )


def estimate_batch_disk_need(batch: BatchPreview, stored_bytes: int) -> DiskNeed:
    """Return the bytes that must be free for a batch, whose largest video needs the most temporary bytes.

    Args:
        stored_bytes: predicted bytes of all its files.
    """
    needs = [estimate_disk_need(recipe, stored_bytes) for recipe, _ in group_recipes_by_size(batch)]
    return max(needs, key=lambda need: need.temporary_bytes)


def query_free_disk_bytes(folder: Path) -> int:
    """Return the bytes that this user can write on a folder's file system."""
    return shutil.disk_usage(folder).free


def query_free_file_count(folder: Path) -> int | None:
    """Return how many files (inodes) this user can create on a folder's file system; None if there is no limit."""
    status = os.statvfs(folder)
    return status.f_favail if status.f_files else None


def has_free_files(folder: Path) -> bool:
    """Return whether MIN_FREE_FILES more files can be created on a folder's file system."""
    free_file_count = query_free_file_count(folder)
    return free_file_count is None or free_file_count >= MIN_FREE_FILES
