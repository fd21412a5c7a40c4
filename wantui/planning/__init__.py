"""Recipes, batches, and predictions of the time, memory and disk space that a batch needs. No torch here."""

from wantui.controls.marked_prompt import PromptMark
from wantui.planning.batch import Batch, BatchPreview, plan_batch, preview_batch
from wantui.planning.cells import PlannedCell
from wantui.planning.disk_estimate import DiskEstimate, estimate_batch_disk
from wantui.planning.recipe import CaptureRequests, Recipe
from wantui.planning.recipe_builder import PlanError, pin_revision
from wantui.planning.sweep import Sweep, SweepCell
from wantui.planning.time_estimate import Estimate, TimedVideo, estimate_video_seconds, parse_timed_videos

__all__ = [
    "Batch",
    "BatchPreview",
    "CaptureRequests",
    "DiskEstimate",
    "Estimate",
    "PlanError",
    "PlannedCell",
    "PromptMark",
    "Recipe",
    "Sweep",
    "SweepCell",
    "TimedVideo",
    "estimate_batch_disk",
    "estimate_video_seconds",
    "parse_timed_videos",
    "pin_revision",
    "plan_batch",
    "preview_batch",
]
