"""Columns of the Queue screen's two lists."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from wantui.batches.eta import format_seconds_left
from wantui.queue.records import BatchRow, VideoRow
from wantui.queue.states import find_displayed_batch_state, find_displayed_state
from wantui.tui.columns import COLUMN_GAP, Column
from wantui.tui.dates import SHORT_DATE_WIDTH, format_date, format_time_of_day
from wantui.tui.plain_names import replace_names
from wantui.tui.plots import draw_styled_bar
from wantui.tui.state_style import DECODING_WORD, StateStyle, get_state_style, get_video_style
from wantui.tui.widgets.batch_list import shorten_model, shorten_name
from wantui.tui.widgets.virtual_list import VirtualList

MIN_WIDTH_WITH_FAILURES, MIN_WIDTH_WITH_FAILURES_AND_BARS, MIN_WIDTH_WITH_MODEL, MIN_WIDTH_WITH_END = 70, 84, 105, 88
"""Smallest list widths, in cells, that show failures and times of batches, bars beside failures, model and seeds, and
of a video the time at which it ended, a long bar or, once all videos have ended, the prompt."""
MIN_TEMPLATE_WIDTH = 26
"""Smallest width of a batch's template, in cells; the details of a batch show it too."""
MIN_WIDTH_WITH_DURATION = 50
"""Smallest width of a list of unfinished videos, in cells, that shows how long its done videos took."""
MIN_WIDTH_WITH_STEPS = 62
"""Smallest width of a video list, in cells, that shows steps; beside a narrower one, the details show them."""
MIN_WIDTH_WITH_BARS = 72
"""Smallest width of a list, in cells, that shows bars, unless a list of batches shows failures."""
BAR_WIDTH, LONG_BAR_WIDTH, DURATION_WIDTH = 8, 20, 7
"""Cells of a bar, and of its heading; of a bar in a wide list of videos; of the column "took"."""
OTHER_COLUMNS_WIDTH = 52
"""Cells of all columns of a wide list of unfinished videos but the bar and the title."""
MAX_MODEL_WIDTH, MAX_SEEDS_WIDTH, MAX_NAME_WIDTH, MAX_TITLE_WIDTH, MAX_COUNTS_WIDTH = 24, 24, 44, 44, 13
"""Largest widths, in cells, of columns that are as wide as their content."""
MAX_SECONDS_WITH_DECIMAL, MAX_WHOLE_SECONDS = 999.95, 99_999.5
"""Seconds below which the column "took" shows seconds with a decimal, and whole seconds; above, it shows hours."""
MARK_GLYPH = "◆"


@dataclass(frozen=True)
class BatchWidths:
    """Widths of the batch list's columns, in cells, from their content."""

    model: int = 0
    seeds: int = 0
    name: int = 0
    videos: int = 6
    number: int = 2
    state: int = 5
    has_failures: bool = False
    has_unfinished: bool = False
    has_templates: bool = False

    @classmethod
    def measure(cls, batches: Sequence[BatchRow], has_engine: bool) -> "BatchWidths":
        """Return the widths for these batches."""

        def find_width(header: str, texts: Iterable[str], maximum: int) -> int:
            return min(maximum, max([len(header), *map(cell_len, texts)]))

        return cls(
            find_width("model", (shorten_model(batch.model) for batch in batches), MAX_MODEL_WIDTH),
            find_width("seeds", (batch.seeds for batch in batches), MAX_SEEDS_WIDTH),
            find_width("name", (shorten_name(batch.name) for batch in batches), MAX_NAME_WIDTH),
            find_width("videos", map(_format_video_counts, batches), MAX_COUNTS_WIDTH),
            find_width(" #", (f" {batch.id}" for batch in batches), MAX_COUNTS_WIDTH),
            _measure_states(find_displayed_batch_state(batch, has_engine) for batch in batches),
            any(batch.counts.get("failed") for batch in batches),
            any(batch.unfinished_count for batch in batches),
            any(batch.template for batch in batches),
        )


def _measure_states(states: Iterable[str]) -> int:
    """Return the width of a state column: a glyph, a space and the longest word."""
    return max([len("state"), *(2 + len(get_state_style(state).state_word) for state in states)])


def make_batch_columns(
    batch_list: VirtualList,
    marked_ids: Collection[int],
    has_engine: Callable[[], bool],
    find_seconds_left: Callable[[BatchRow], str],
    widths: BatchWidths,
) -> list[Column[BatchRow]]:
    """Return the columns of the batch list.

    Args:
        marked_ids: numbers of the marked batches; read at each drawing.
        has_engine: returns whether an engine is running.
        find_seconds_left: returns the displayed ETA of a batch.
    """

    def draw_mark(batch: BatchRow) -> Text:
        return Text(MARK_GLYPH if batch.id in marked_ids else " ", batch_list.make_colour_style("accent"))

    def draw_batch_state(batch: BatchRow) -> Text:
        return _draw_state(batch_list, find_displayed_batch_state(batch, has_engine()))

    def draw_progress(batch: BatchRow) -> Text:
        return _draw_progress(batch_list, _count_done_videos(batch) / max(1, batch.video_count), BAR_WIDTH)

    def draw_failed_count(batch: BatchRow) -> Text:
        return Text(str(batch.counts.get("failed") or ""), batch_list.make_colour_style("error"))

    def draw_name(batch: BatchRow) -> Text:
        return Text(shorten_name(batch.name), Style(bold=True))

    bar_width = MIN_WIDTH_WITH_FAILURES_AND_BARS if widths.has_failures else MIN_WIDTH_WITH_BARS
    failed_column = Column("failed", 6, draw_failed_count, "right", min_list_width=MIN_WIDTH_WITH_FAILURES)
    leading = [
        Column("", 1, draw_mark),
        Column("#", widths.number, lambda batch: str(batch.id), "right"),
        Column("state", widths.state, draw_batch_state),
        Column("progress", BAR_WIDTH, draw_progress, min_list_width=bar_width),
        Column("videos", widths.videos, _format_video_counts, "right"),
        *([failed_column] if widths.has_failures else []),
        *([Column("ETA", 7, find_seconds_left, "right")] if widths.has_unfinished else []),
        Column("added", SHORT_DATE_WIDTH, _format_time_added, min_list_width=MIN_WIDTH_WITH_FAILURES),
    ]
    used_width = sum((column.width or 0) + len(COLUMN_GAP) for column in leading)
    least_width = used_width + widths.name
    if widths.has_templates:
        least_width += len(COLUMN_GAP) + MIN_TEMPLATE_WIDTH
    template_width = max(MIN_WIDTH_WITH_FAILURES_AND_BARS, least_width)
    model_width = max(MIN_WIDTH_WITH_MODEL, least_width + widths.model + widths.seeds + 2 * len(COLUMN_GAP))
    template_column = Column("template", None, _draw_template, min_list_width=template_width)
    return [
        *leading,
        Column("model", widths.model, lambda batch: shorten_model(batch.model), min_list_width=model_width),
        Column("seeds", widths.seeds, lambda batch: batch.seeds, min_list_width=model_width),
        Column("name", None, draw_name, max_list_width=template_width - 1),
        Column("name", widths.name, draw_name, min_list_width=template_width),
        *([template_column] if widths.has_templates else []),
    ]


@dataclass(frozen=True)
class VideoWidths:
    """Widths of the video list's columns, in cells, from their content."""

    number: int = 2
    state: int = 5
    steps: int = 5
    title: int = 5
    has_unfinished: bool = False

    @classmethod
    def measure(cls, batch: BatchRow | None, has_engine: bool, videos: Collection[VideoRow]) -> "VideoWidths":
        """Return the widths for the known videos of a batch."""
        if batch is None:
            return cls()
        states = {find_displayed_state(state, has_engine) for state, count in batch.counts.items() if count}
        return cls(
            max(2, len(str(batch.video_count))),
            max(_measure_states(states), 2 + len(DECODING_WORD) if "running" in states else 0),
            max(len("steps"), 2 * len(str(max((video.steps for video in videos), default=0))) + 1),
            min(MAX_TITLE_WIDTH, max([len("video"), *(cell_len(replace_names(video.title)) for video in videos)])),
            batch.unfinished_count > 0,
        )


def _make_progress_columns(
    video_list: VirtualList, find_seconds_left: Callable[[int, VideoRow], str], widths: "VideoWidths"
) -> list[Column[tuple[int, VideoRow]]]:
    """Return the columns of running videos: progress as a bar, progress in steps, and ETA."""

    def draw_progress(width: int) -> Callable[[tuple[int, VideoRow]], Text | str]:
        return lambda row: _draw_video_progress(video_list, row[1], width)

    def format_steps(row: tuple[int, VideoRow]) -> str:
        return f"{row[1].step}/{row[1].steps}" if row[1].state == "running" else ""

    long_bar_width = max(MIN_WIDTH_WITH_END, OTHER_COLUMNS_WIDTH + LONG_BAR_WIDTH + widths.title)
    return [
        Column(
            "progress",
            BAR_WIDTH,
            draw_progress(BAR_WIDTH),
            min_list_width=MIN_WIDTH_WITH_BARS,
            max_list_width=long_bar_width - 1,
        ),
        Column("progress", LONG_BAR_WIDTH, draw_progress(LONG_BAR_WIDTH), min_list_width=long_bar_width),
        Column("steps", widths.steps, format_steps, "right", min_list_width=MIN_WIDTH_WITH_STEPS),
        Column("ETA", 7, lambda row: find_seconds_left(*row), "right"),
    ]


def make_video_columns(
    video_list: VirtualList,
    has_engine: Callable[[], bool],
    find_seconds_left: Callable[[int, VideoRow], str],
    find_variation: Callable[[VideoRow], tuple[str, str] | None],
    find_prompt: Callable[[VideoRow], str],
    widths: VideoWidths,
) -> list[Column[tuple[int, VideoRow]]]:
    """Return the columns of the video list; a row is the index of a video in the batch, and the video.

    Args:
        has_engine: returns whether an engine is running.
        find_seconds_left: returns the displayed ETA of a video, given its index and row.
        find_variation: returns the id and the theme colour of a video's variation; None without a colour.
        find_prompt: returns the prompt of a video; empty until it is known.
        widths: if no video waits or runs, the columns of progress and ETA are left out.
    """

    def draw_video_state(row: tuple[int, VideoRow]) -> Text:
        state = find_displayed_state(row[1].state, has_engine())
        return _draw_style(video_list, get_video_style(state, row[1].step, row[1].steps))

    def draw_title(row: tuple[int, VideoRow]) -> Text:
        """Return the title in the colour of its variation."""
        video = row[1]
        text = Text(replace_names(video.title))
        if (variation := find_variation(video)) is not None and video.title.startswith(variation[0]):
            text.stylize(video_list.make_colour_style(variation[1]), 0, len(variation[0]))
        return text

    def draw_title_and_error(row: tuple[int, VideoRow]) -> Text:
        error = f"  {row[1].error}" if row[1].error else ""
        return draw_title(row).append(error, video_list.make_colour_style("error"))

    def draw_prompt_or_error(row: tuple[int, VideoRow]) -> Text:
        if row[1].error:
            return Text(row[1].error, video_list.make_colour_style("error"))
        return Text(find_prompt(row[1]), Style(dim=True))

    def format_end(row: tuple[int, VideoRow]) -> str:
        return "" if row[1].finished is None else format_time_of_day(row[1].finished)

    prompt_columns = [
        Column("video", widths.title, draw_title, min_list_width=MIN_WIDTH_WITH_END, keeps_end=True),
        Column("prompt", None, draw_prompt_or_error, min_list_width=MIN_WIDTH_WITH_END),
    ]
    duration_width = MIN_WIDTH_WITH_DURATION if widths.has_unfinished else 0
    return [
        Column("#", widths.number, lambda row: str(row[1].number + 1), "right"),
        Column("state", widths.state, draw_video_state),
        *(_make_progress_columns(video_list, find_seconds_left, widths) if widths.has_unfinished else ()),
        Column("took", DURATION_WIDTH, lambda row: _format_duration(row[1]), "right", min_list_width=duration_width),
        Column("ended", 5, format_end, "right", min_list_width=MIN_WIDTH_WITH_END),
        Column("video", None, draw_title, max_list_width=MIN_WIDTH_WITH_BARS - 1, keeps_end=True),
        Column(
            "video",
            None,
            draw_title_and_error,
            min_list_width=MIN_WIDTH_WITH_BARS,
            max_list_width=None if widths.has_unfinished else MIN_WIDTH_WITH_END - 1,
        ),
        *([] if widths.has_unfinished else prompt_columns),
    ]


def format_batch_eta(batch: BatchRow, seconds_by_batch: Mapping[int, float | None]) -> str:
    """Return the displayed ETA of a batch; empty unless the batch is waiting or running."""
    return format_seconds_left(seconds_by_batch[batch.id]) if batch.id in seconds_by_batch else ""


def _format_video_counts(batch: BatchRow) -> str:
    return f"{_count_done_videos(batch)}/{batch.video_count}"


def _format_time_added(batch: BatchRow) -> str:
    return format_date(batch.created, is_short=True)


def _draw_template(batch: BatchRow) -> Text:
    return Text(" ".join(batch.template.split()), Style(dim=True))


def _format_duration(video: VideoRow) -> str:
    """Return how long a finished video took; empty for other videos."""
    if video.state != "done" or video.seconds is None:
        return ""
    if video.seconds < MAX_SECONDS_WITH_DECIMAL:
        return f"{video.seconds:.1f} s"
    return f"{video.seconds:.0f} s" if video.seconds < MAX_WHOLE_SECONDS else f"{video.seconds / 3600:.1f} h"


def _count_done_videos(batch: BatchRow) -> int:
    return batch.counts.get("done", 0)


def _draw_state(row_list: VirtualList, state: str) -> Text:
    return _draw_style(row_list, get_state_style(state))


def _draw_style(row_list: VirtualList, style: StateStyle) -> Text:
    return Text(f"{style.glyph} {style.state_word}", row_list.make_colour_style(style.colour_name))


def _draw_video_progress(video_list: VirtualList, video: VideoRow, width: int) -> Text | str:
    """Return the bar of a running video; empty for other videos."""
    return _draw_progress(video_list, video.step / max(1, video.steps), width) if video.state == "running" else ""


def _draw_progress(row_list: VirtualList, completed_fraction: float, width: int) -> Text:
    return draw_styled_bar(completed_fraction, width, row_list.make_colour_style("accent"))
