"""Attention modes of `wantui analyze`: curves of marked words, and overlays on clips."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.progress_line import open_progress_line
from wantui.errors import UserError
from wantui.formatting import format_share

if TYPE_CHECKING:
    from wantui.analysis.arrays import FloatArray
    from wantui.analysis.attention_summary import WordCurves
    from wantui.analysis.video import Video


def print_word_curves(videos: "list[Video]", as_json: bool) -> list[str]:
    """Print the curves of each marked word; return the names of videos with unreadable maps."""
    from wantui.analysis.attention_summary import summarise_all_words
    from wantui.analysis.comparability import VideoNamer
    from wantui.storage.attention_maps import AttentionMapsError, open_attention_maps

    json_records, table_rows, damaged_names = [], [], []
    video_namer = VideoNamer(videos)
    has_batch_column = len(video_namer.batch_names_by_folder) > 1
    for number, video in enumerate(videos, 1):
        if video.attention_path is None:
            continue
        try:
            with open_progress_line() as line:
                line.show_phase(f"reading attention maps: video {number} of {len(videos)}")
                attention_maps = open_attention_maps(video.attention_path, video.recipe)
                word_curves, overlaps_by_word = summarise_all_words(attention_maps)
        except AttentionMapsError as error:
            echo(f"left out: {video_namer.name_video(video)}: {error}", err=True)
            damaged_names.append(video_namer.name_video(video))
            continue
        for curves in word_curves:
            batch_cells = [video_namer.name_batch(video)] if has_batch_column else []
            label_cells = (
                *batch_cells,
                video.variation,
                str(video.seed),
                curves.map_name,
                " ".join(curves.token_texts),
            )
            table_rows.append((*label_cells, *_format_word_cells(curves, overlaps_by_word[curves.map_name])))
            video_keys = {"batch": str(video.folder), "id": video.id, "variation": video.variation, "seed": video.seed}
            json_records.append(
                video_keys | _build_word_record(curves) | {"overlap": overlaps_by_word[curves.map_name]}
            )
    if not json_records and damaged_names:
        raise UserError("cannot summarise attention: no attention map can be read")
    if not json_records:
        raise UserError(
            "cannot summarise attention: these videos have no attention maps. Mark words of the template with "
            "parentheses, as in a (circle), and run it with --store-attention"
        )
    if as_json:
        print_json(json_records)
        return damaged_names
    header_cells = (
        "variation",
        "seed",
        "word",
        "tokens",
        "mass",
        "entropy",
        "centre",
        "spread",
        "overlap",
        "mass over steps",
    )
    print_columns((*(["batch"] if has_batch_column else []), *header_cells), *table_rows)
    return damaged_names


def _build_word_record(word: "WordCurves") -> dict[str, Any]:
    """Return the JSON record of a word's summary curves."""
    return {
        "name": word.map_name,
        "text": word.word_text,
        "tokens": word.token_texts,
        "sigmas": word.sigmas,
        "mass": word.mass,
        "entropy": word.entropy,
        "centre": word.centre,
        "spread": word.spread,
    }


def _format_word_cells(curves: "WordCurves", overlap_by_word: "Mapping[str, FloatArray]") -> tuple[str, ...]:
    """Return the table cells of one word; a word without attention (such as weight 0) has no centre or spread."""
    from wantui.analysis.attention_summary import average_finite_values
    from wantui.tui.plots import draw_sparkline

    def format_cell(value: float, format_spec: str) -> str:
        return format(value, format_spec) if math.isfinite(value) else "-"

    mean_mass = average_finite_values(curves.mass)
    x, y = (average_finite_values(curves.centre[-1, :, axis]) for axis in (0, 1))
    mean_by_word = {name: average_finite_values(curve) for name, curve in overlap_by_word.items()}
    strongest_overlap = max(((mean, name) for name, mean in mean_by_word.items() if math.isfinite(mean)), default=None)
    return (
        format_share(mean_mass, 3) if math.isfinite(mean_mass) else "-",
        format_cell(average_finite_values(curves.entropy), ".3f"),
        f"{x:.2f}, {y:.2f}" if math.isfinite(x) else "-",
        format_cell(average_finite_values(curves.spread[-1]), ".2f"),
        f"{strongest_overlap[0]:.2f} {strongest_overlap[1]}" if strongest_overlap else "",
        draw_sparkline(curves.mass.tolist(), 12).rstrip(),
    )


def write_word_overlay(videos: "list[Video]", word: str, requested_path: Path | None) -> None:
    """Write a copy of a clip with the attention to a word drawn over it; exactly one video must have maps.

    Args:
        requested_path: checked path of the file; None for a file in the folder `analysis` of the batch.
    """
    from wantui.analysis.attention_overlay import find_clip_path, write_overlay
    from wantui.storage.layout import BatchFolder, make_safe_folder_name
    from wantui.storage.manifest import read_manifest
    from wantui.storage.video_files import make_parent_folders

    videos_with_maps = [video for video in videos if video.attention_path is not None]
    if len(videos_with_maps) != 1:
        raise UserError(
            f"--overlay needs exactly one video with attention maps, but {len(videos_with_maps)} have them. Choose "
            f"one with --video-id"
        )
    video = videos_with_maps[0]
    assert video.attention_path is not None
    clip_path = find_clip_path(video)
    video_entry = read_manifest(BatchFolder(video.folder)).videos[video.video_index]
    # The id comes from the manifest, which others may have written: it could contain a path.
    overlay_path = requested_path or video.folder / "analysis" / f"{make_safe_folder_name(f'{video.id}_{word}')}.mp4"
    try:
        if requested_path is None:
            make_parent_folders(video.folder, overlay_path)
        scale_maximum = write_overlay(clip_path, video.attention_path, word, overlay_path, video_entry.recipe)
    except OSError as error:
        raise UserError(f"cannot write {overlay_path}: {error.strerror or error}") from error
    echo(f"colour scale: attention from 0 to {scale_maximum:.3g}, the same for all words of this video", err=True)
    echo(overlay_path)
