"""Outside labels in `wantui analyze --scores`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wantui.cli.output import echo

if TYPE_CHECKING:
    from wantui.analysis.label_table import LabelTable
    from wantui.analysis.video import Video


def exclude_unlabelled_videos(
    videos: "Sequence[Video]", table: "LabelTable", metric_names: Sequence[str]
) -> "list[Video]":
    """Exclude videos that lack a label in use; print how many labels are used and missing.

    Args:
        metric_names: names of the metrics in use, labels among them.

    Raises:
        LabelError: no video has all labels in use.
    """
    from wantui.analysis.labels import exclude_incompletely_labelled_videos

    used_names = [name for name in table.label_names if name in metric_names]
    if not used_names:
        echo(f"warning: --metrics contains no label of {table.path}, so its labels are not used", err=True)
        return list(videos)
    labelled = exclude_incompletely_labelled_videos(videos, table, used_names)
    echo(f"note: {labelled.description}", err=True)
    if table.ignored_columns:
        echo(f"note: ignored columns: {', '.join(table.ignored_columns)}", err=True)
    return list(labelled.videos)
