"""Attention modes of `wantui analyze`: curves of marked words, and overlays on clips."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.cli.output import echo, print_columns, print_json
from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.analysis.attention_summary import Floats, WordCurves
    from wantui.analysis.video import Video


def print_word_curves(videos: "list[Video]", as_json: bool) -> list[str]:
    """Print the curves of each marked word; return the names of videos with unreadable maps."""
    from wantui.analysis.attention_summary import summarise_words
    from wantui.analysis.comparability import VideoNamer
    from wantui.analysis.serialize import to_json_values
    from wantui.storage.attention_maps import AttentionMapsError, open_attention_maps

    records, rows, damaged = [], [], []
    names = VideoNamer(videos)
    has_batch_column = len(names.batch_names) > 1
    for video in videos:
        if video.attention is None:
            continue
        try:
            maps = open_attention_maps(video.attention)
            words, overlaps = summarise_words(maps)
        except AttentionMapsError as error:
            echo(f"left out: {names(video)}: {error}", err=True)
            damaged.append(names(video))
            continue
        for word in words:
            batch = [names.name_batch(video)] if has_batch_column else []
            labels = (*batch, video.variation, str(video.seed), word.name, " ".join(word.tokens))
            rows.append((*labels, *_format_cells(word, overlaps[word.name])))
            video_keys = {"batch": str(video.folder), "id": video.id, "variation": video.variation, "seed": video.seed}
            records.append(video_keys | vars(word) | {"overlap": overlaps[word.name]})
    if not records and damaged:
        raise UserError("cannot summarise attention: no attention map can be read")
    if not records:
        raise UserError(
            "cannot summarise attention: these videos have no attention maps. Mark words of the template with "
            "parentheses, as in a (circle), and run it with --store-attention"
        )
    if as_json:
        print_json(to_json_values(records))
        return damaged
    header = (
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
    print_columns((*(["batch"] if has_batch_column else []), *header), *rows)
    return damaged


def _format_cells(word: "WordCurves", overlaps: "Mapping[str, Floats]") -> tuple[str, ...]:
    """Return the table cells of one word; a word without attention (of weight 0, say) has no centre or spread."""
    from wantui.analysis.attention_summary import average_finite
    from wantui.tui.plots import sparkline

    def cell(value: float, spec: str) -> str:
        return format(value, spec) if math.isfinite(value) else "-"

    x, y = (average_finite(word.centre[-1, :, axis]) for axis in (0, 1))
    means = {name: average_finite(curve) for name, curve in overlaps.items()}
    strongest = max(((mean, name) for name, mean in means.items() if math.isfinite(mean)), default=None)
    return (
        cell(average_finite(word.mass), ".3%"),
        cell(average_finite(word.entropy), ".3f"),
        f"{x:.2f}, {y:.2f}" if math.isfinite(x) else "-",
        cell(average_finite(word.spread[-1]), ".2f"),
        f"{strongest[0]:.2f} {strongest[1]}" if strongest else "",
        sparkline(word.mass.tolist(), 12).rstrip(),
    )


def write_word_overlay(videos: "list[Video]", word: str, output: Path | None) -> None:
    """Write a copy of a clip with the attention to a word drawn over it; exactly one video must have maps."""
    from wantui.analysis.attention_overlay import find_clip, write_overlay
    from wantui.storage.layout import BatchFolder, safe_folder_name
    from wantui.storage.manifest import read_manifest
    from wantui.storage.video_files import make_parent_folders

    with_maps = [video for video in videos if video.attention is not None]
    if len(with_maps) != 1:
        raise UserError(
            f"--overlay needs one video with attention maps, and there are {len(with_maps)}. Choose one with --video-id"
        )
    video = with_maps[0]
    assert video.attention is not None
    clip = find_clip(video)
    entry = read_manifest(BatchFolder(video.folder)).videos[video.number]
    # The id comes from the manifest, which others may have written: it could contain a path.
    target = output or video.folder / "analysis" / f"{safe_folder_name(f'{video.id}_{word}')}.mp4"
    if output is not None and output.exists():
        raise UserError(f"cannot write {output}: it already exists. Choose another name")
    try:
        make_parent_folders(target.parent if output is not None else video.folder, target)
        scale = write_overlay(clip, video.attention, word, target, entry.recipe.fps)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    echo(f"colour scale: attention from 0 to {scale:.3g}, the same for all words of this video", err=True)
    echo(target)
