"""Join external labels to their videos."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wantui.analysis.comparability import VideoNamer
from wantui.analysis.label_rows import LabelError, quote
from wantui.analysis.label_table import LabelRow, LabelTable
from wantui.analysis.video import Video
from wantui.formatting import format_count, join_and_shorten

MAX_NAMED_VALUES = 8
"""Maximum number of known values that a message lists."""


@dataclass(frozen=True)
class LabelledVideos:
    """Videos with their labels."""

    videos: tuple[Video, ...]
    """All videos; those without a complete row have no trajectory but an `exclusion_reason`, so a comparison excludes
    their seeds."""
    description: str
    """Sentence about the number of videos with labels and of excluded videos."""


def join_labels(videos: Sequence[Video], table: LabelTable) -> list[Video]:
    """Return the videos with the labels of their rows; videos without a row get no labels.

    Raises:
        LabelError: a row matches no video or several, or two rows match one video.
    """
    finder = _VideoFinder(videos, table.path)
    rows_by_index: dict[int, LabelRow] = {}
    for row in table.rows:
        index = finder.find_video(row)
        if (earlier_row := rows_by_index.setdefault(index, row)) is not row:
            name = VideoNamer(videos).name_video(videos[index])
            raise LabelError(
                f"cannot use {quote(str(table.path))}: lines {earlier_row.line_number} and {row.line_number} are for "
                f"the same video, {name}. Keep one; average several raters beforehand"
            )
    return [
        replace(video, labels=dict(rows_by_index[index].values)) if index in rows_by_index else video
        for index, video in enumerate(videos)
    ]


def exclude_incompletely_labelled_videos(
    videos: Sequence[Video], table: LabelTable, label_names: Sequence[str]
) -> LabelledVideos:
    """Exclude the videos that lack one of the labels.

    Raises:
        LabelError: no video has all labels.
    """
    measured_videos = [video for video in videos if video.trajectory is not None]
    labelled_videos: list[Video] = []
    missing_rows: list[Video] = []
    missing_cells: list[Video] = []
    for video in videos:
        missing_names = [name for name in label_names if math.isnan(video.labels.get(name, math.nan))]
        if video.trajectory is None or not missing_names:
            labelled_videos.append(video)
            continue
        (missing_cells if video.labels else missing_rows).append(video)
        columns = ", ".join(dict.fromkeys(name.partition("=")[0] for name in missing_names))
        reason = f"{table.path.name} has no {quote(columns)} for it" if video.labels else f"no row in {table.path.name}"
        labelled_videos.append(replace(video, trajectory=None, exclusion_reason=reason))
    missing_count = len(missing_rows) + len(missing_cells)
    if missing_count and missing_count == len(measured_videos):
        raise LabelError(f"cannot use {quote(str(table.path))}: no selected video has all labels of the table")
    description = f"labels of {quote(str(table.path))}: {', '.join(quote(name) for name in label_names)}"
    if missing_count:
        lacks = [
            f"{len(found):,} {text}"
            for found, text in ((missing_rows, "without a row"), (missing_cells, "with an empty cell"))
            if found
        ]
        description += (
            f"; of {format_count(len(measured_videos), 'video')}, {' and '.join(lacks)} "
            f"{'is' if missing_count == 1 else 'are'} excluded: a comparison uses a seed only if every group has its "
            "video"
        )
    return LabelledVideos(tuple(labelled_videos), description)


class _VideoFinder:
    """Finder of the video that a row describes.

    Args:
        table_path: path of the table; a path of a clip may be relative to its folder, or to a batch folder.
    """

    def __init__(self, videos: Sequence[Video], table_path: Path) -> None:
        self.videos, self.table_path = videos, table_path
        self.indices_by_clip: dict[str, int] = {
            os.path.realpath(video.clip_path): index
            for index, video in enumerate(videos)
            if video.clip_path is not None
        }
        self.folders = list(dict.fromkeys(video.folder for video in videos))
        self.indices_by_value: dict[tuple[str, object], set[int]] = {}
        for index, video in enumerate(videos):
            identity = {"id": video.id, "variation": video.variation, "seed": video.seed, "cell": video.cell_label}
            for item in identity.items():
                self.indices_by_value.setdefault(item, set()).add(index)

    def find_video(self, row: LabelRow) -> int:
        """Return the index of the video that a label row describes.

        Raises:
            LabelError: there is no such video, or several.
        """
        indices = list(range(len(self.videos)))
        for name in ("batch", "video", "id", "variation", "seed", "cell"):
            if name not in row.identity:
                continue
            text = row.identity[name]
            if not text and name != "cell":  # a batch without a sweep has no cells
                raise self._make_error(row, f"the column {name} is empty")
            found = self._find_videos_with(name, text, row)
            matching = [index for index in indices if index in found]
            if not matching:
                raise self._make_error(row, self._explain_no_video(name, text, indices))
            indices = matching
        if len(indices) > 1:
            cells = any(self.videos[index].cell_label for index in indices)
            column = "cell" if cells and "cell" not in row.identity else "batch"
            raise self._make_error(
                row,
                f"the row matches {len(indices)} videos. Add a column {column}, or a column `video` with the absolute "
                f"paths of the clips",
            )
        return indices[0]

    def _find_videos_with(self, name: str, text: str, row: LabelRow) -> set[int]:
        if name == "video":
            return self._find_by_path(text)
        if name == "seed":
            seed = _parse_seed(text)
            if seed is None:
                raise self._make_error(row, f"the seed '{quote(text)}' is not a whole number")
            return self.indices_by_value.get((name, seed), set())
        if name == "batch":
            real_path = os.path.realpath(text)
            return {
                index
                for index, video in enumerate(self.videos)
                if text == video.folder.name or real_path == os.path.realpath(video.folder)
            }
        return self.indices_by_value.get((name, text), set())

    def _find_by_path(self, text: str) -> set[int]:
        try:
            path = Path(text).expanduser()
            roots = [Path(), self.table_path.absolute().parent, *self.folders, *(f.parent for f in self.folders)]
            real_paths = {os.path.realpath(root / path) for root in roots}
        except (OSError, ValueError, RuntimeError):  # a zero byte, an unknown home, a link loop
            return set()
        return {self.indices_by_clip[path] for path in real_paths if path in self.indices_by_clip}

    def _explain_no_video(self, name: str, text: str, indices: Sequence[int]) -> str:
        if name == "video":
            example = next((video.clip_path for video in self.videos if video.clip_path is not None), None)
            shown = "" if example is None else f"; a path is for example {quote(str(example))}"
            return f"no finished video of the analysed batches has the clip '{quote(text)}'{shown}"
        attribute = {"cell": "cell_label", "batch": "folder"}.get(name, name)
        values = dict.fromkeys(getattr(self.videos[index], attribute) for index in indices)
        texts = [quote(value.name if isinstance(value, Path) else str(value)) for value in values]
        known = join_and_shorten(texts, MAX_NAMED_VALUES)
        return f"no finished video has the {name} '{quote(text)}'; there are {known}"

    def _make_error(self, row: LabelRow, reason: str) -> LabelError:
        return LabelError(f"cannot use {quote(str(self.table_path))}: line {row.line_number}: {reason}")


def _parse_seed(text: str) -> int | None:
    """Return a seed as a whole number; pandas writes 42.0 if other cells of the column are empty."""
    whole = text.removesuffix(".0")
    digits = whole.removeprefix("-")
    return int(whole) if digits.isascii() and digits.isdigit() and len(whole) < 20 else None
