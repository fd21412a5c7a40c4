"""The demo: a small nano batch with attention maps, and the analysis of its two variations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison
    from wantui.analysis.video import Video
    from wantui.planning import Batch
    from wantui.storage.layout import BatchFolder

DEMO_CONFIG = "nano"
"""Preset of the demo."""
DEMO_TEMPLATE = "a large [red|blue] (circle) moving left over a dark background"
DEMO_WORD = "circle"
"""Marked word of the template."""
DEMO_SETTINGS = {
    "batch_name": "demo",
    "videos_per_variation": "6",  # the fewest with which the exact test can give p below 0.05
    "model_settings.device": "cpu",
    "model_settings.steps": "8",  # its clips look like those of 20 steps
    "attention_analysis_settings.store_attention": "true",
}
"""Settings of the demo by dotted key; other settings come from `DEMO_CONFIG`."""


def plan_demo_batch(output_dir: Path | None = None) -> "Batch":
    """Plan the batch of the demo.

    Args:
        output_dir: parent folder of the batch folder; None uses the folder of the config.
    """
    from wantui.config import OptionValue, load_config
    from wantui.config.presets import find_preset_path
    from wantui.planning import plan_batch

    settings = DEMO_SETTINGS | ({} if output_dir is None else {"output_dir": str(output_dir)})
    options = {key: OptionValue(key, value) for key, value in settings.items()}
    return plan_batch(load_config(find_preset_path(DEMO_CONFIG), (), options), DEMO_TEMPLATE)


def find_demo_folder(batch: "Batch") -> "BatchFolder | None":
    """Return the newest folder with the planned demo batch, complete or not; None if there is none."""
    from wantui.paths import expand_user_path
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest
    from wantui.storage.manifest_errors import ManifestError

    recipes = [video.recipe for video in batch.videos]
    output_dir = expand_user_path(batch.config.settings.output_dir)
    for path in sorted(output_dir.glob(f"{DEMO_SETTINGS['batch_name']}_*"), reverse=True):
        folder = BatchFolder(path)
        try:
            manifest = read_manifest(folder)
        except (ManifestError, OSError):  # its command was ended before the manifest was complete, or it is damaged
            continue
        if manifest.template == batch.template and [video.recipe for video in manifest.videos] == recipes:
            return folder
    return None


def draw_demo_overlay(videos: "Sequence[Video]") -> Path:
    """Draw the attention to the marked word over the first clip, unless the overlay exists; return its path.

    Raises:
        UserError: the clip or its attention maps are missing or damaged.
        OSError: the overlay cannot be written.
    """
    from wantui.analysis.attention_overlay import find_clip_path, write_overlay
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest
    from wantui.storage.video_files import make_parent_folders

    video = videos[0]
    overlay_path = video.folder / "analysis" / f"{video.id}_{DEMO_WORD}.mp4"
    if not overlay_path.exists():
        if video.attention_path is None:
            raise UserError(f"cannot draw over {video.id}: its attention maps are missing. Run `wantui demo --fresh`")
        recipe = read_manifest(BatchFolder(video.folder)).videos[video.video_index].recipe
        make_parent_folders(video.folder, overlay_path)
        write_overlay(find_clip_path(video), video.attention_path, DEMO_WORD, overlay_path, recipe)
    return overlay_path


def compare_demo_groups(videos: "Sequence[Video]") -> tuple["Comparison", Path]:
    """Compare the two variations; write the report unless it exists; return the comparison and the report's path.

    Raises:
        UserError: the trajectories are missing or damaged.
        OSError: the report cannot be written.
    """
    from wantui.analysis.compare import compare_groups
    from wantui.analysis.report import write_report
    from wantui.storage.video_files import make_parent_folders

    comparison = compare_groups(videos, grouping="1")
    report_path = videos[0].folder / "analysis" / "comparison.html"
    if not report_path.exists():
        make_parent_folders(videos[0].folder, report_path)
        write_report(report_path, comparison)
    return comparison, report_path


def describe_demo_answer(comparison: "Comparison") -> list[str]:
    """Return the answers on place, room and path, one line each, and notes on the seeds and the answers."""
    from wantui.analysis.statistics import count_min_pairs

    notes = list(dict.fromkeys(note for answer in comparison.answers for note in answer.notes))
    if len(comparison.seeds) == count_min_pairs():
        notes.insert(0, f"{len(comparison.seeds)} seeds are the fewest that can show a difference; use more in a study")
    return [*(answer.text for answer in comparison.answers), *(f"note: {note}" for note in notes)]


def summarise_demo_answer(comparison: "Comparison") -> str:
    """Return the most important sentence of each answer, one line each."""
    return "\n".join(f"{answer.question}: {answer.verdict_parts[0]}" for answer in comparison.answers)
