"""Recipe (everything that determines one video), Batch, and the estimate of what a batch will take. No torch here."""

from wantui.planning.batch import Batch, Outline, PlanError, outline_batch, pinned_revision, plan_batch
from wantui.planning.estimate import DiskEstimate, estimate_disk
from wantui.planning.past import Figure, PastVideo, estimate_seconds, past_videos
from wantui.planning.recipe import Captures, PromptMark, Recipe

__all__ = [
    "Batch",
    "Captures",
    "DiskEstimate",
    "Figure",
    "Outline",
    "PastVideo",
    "PlanError",
    "PromptMark",
    "Recipe",
    "estimate_disk",
    "estimate_seconds",
    "outline_batch",
    "past_videos",
    "pinned_revision",
    "plan_batch",
]
