"""The mode of `wantui analyze` that prints the contributions of marked words."""

import math
from typing import TYPE_CHECKING

from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.progress_line import open_progress_line
from wantui.errors import UserError
from wantui.formatting import format_share

if TYPE_CHECKING:
    from wantui.analysis.video import Video

ATTRIBUTION_NOTE = (
    "note: contributions attribute the cross-attention output to words; they do not measure dominance. They are "
    "norms, so shares need not sum to 1"
)


def print_word_contributions(videos: "list[Video]", as_json: bool) -> list[str]:
    """Print the contribution of each marked word; return the names of videos whose contributions are unreadable."""
    from wantui.analysis.attention_summary import average_finite_values
    from wantui.analysis.calibrated import describe_measure
    from wantui.analysis.comparability import VideoNamer
    from wantui.analysis.word_contributions import read_contribution_curves
    from wantui.storage.zarr_group import CaptureError
    from wantui.tui.plots import draw_sparkline

    records, rows, damaged_names = [], [], []
    namer = VideoNamer(videos)
    for number, video in enumerate(videos, 1):
        if video.contributions_path is None:
            continue
        try:
            with open_progress_line() as line:
                line.show_phase(f"reading contributions: video {number} of {len(videos)}")
                all_curves = read_contribution_curves(video.contributions_path, video.recipe)
        except CaptureError as error:
            echo(f"left out: {namer.name_video(video)}: {error}", err=True)
            damaged_names.append(namer.name_video(video))
            continue
        for curves in all_curves:
            means = average_finite_values(curves.contribution), average_finite_values(curves.share)
            cells = (f"{means[0]:.4g}", format_share(means[1], 1)) if all(map(math.isfinite, means)) else ("-", "-")
            sparkline = draw_sparkline(curves.share.tolist(), 12).rstrip()
            rows.append((namer.name_video(video), curves.map_name, " ".join(curves.token_texts), *cells, sparkline))
            records.append(
                {
                    "batch": str(video.folder),
                    "id": video.id,
                    "variation": video.variation,
                    "seed": video.seed,
                    "name": curves.map_name,
                    "text": curves.word_text,
                    "tokens": curves.token_texts,
                    "sigmas": curves.sigmas,
                    "contribution": curves.contribution,
                    "share": curves.share,
                    "share_by_block": curves.share_by_block,
                }
            )
    if not records:
        if damaged_names:
            raise UserError("cannot summarise contributions: no stored contribution can be read")
        raise UserError(
            "cannot summarise contributions: these videos have none. Mark words of the template with parentheses, as "
            "in a (circle), and run it with --set contribution_settings.store_contributions=true"
        )
    if as_json:
        print_json(records)
        return damaged_names
    print_columns(("video", "word", "tokens", "contribution", "share of output", "share over steps"), *rows)
    echo(ATTRIBUTION_NOTE, err=True)
    echo(f"note: {describe_measure('contribution_share', 'the share of a word')}", err=True)
    return damaged_names
