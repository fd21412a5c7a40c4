"""Columns of the Monitor screen's list: worker, device, state, video, progress, pace, ETA and memory."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from wantui.queue.records import VideoRow
from wantui.queue.states import find_displayed_state
from wantui.tui.columns import COLUMN_GAP, Column
from wantui.tui.monitor.states import MonitorRow, describe_stage_briefly, describe_torch_loading
from wantui.tui.plots import draw_styled_bar
from wantui.tui.state_style import get_state_style

PROGRESS_HEADER = "progress"
MIN_TITLE_WIDTH = 12
"""Minimum width of video titles, in cells."""
WIDE_BAR_WIDTH, BAR_WIDTH, NARROW_BAR_WIDTH, TINY_BAR_WIDTH, STEP_WIDTH = 32, 12, 9, 7, 12
"""Width of the progress bar, in wide, usual, narrow and tiny lists, and of the steps behind it, in cells."""
MIN_SPARE_BAR_WIDTH = 5
"""Minimum width of a bar in the cells that titles leave, in cells."""
MIN_LIST_WITH_WIDE_BAR = 133
"""Minimum width of a list with a wide progress bar, in cells."""
MIN_WIDE_LIST = 100
"""Minimum width of a list that is not narrow, in cells."""
MIN_LIST_WITH_STAGES_AND_PACE = 80
"""Minimum width of a list with room for both stages and the pace, in cells."""
MIN_NARROW_LIST = 70
"""Minimum width of a list that is not tiny, in cells: a tiny one has no columns of workers and pace."""


@dataclass(frozen=True)
class RowContext:
    """Data that the rows need besides the queue."""

    make_style: Callable[[str], Style]
    """Function that returns the style of a theme colour."""
    estimate_eta: Callable[[MonitorRow], str]
    get_age_seconds: Callable[[MonitorRow], float]
    """Function that returns the seconds since the worker of a row was started."""
    has_engine: Callable[[], bool]
    find_colour_name: Callable[[VideoRow], str | None]
    """Function that returns the theme colour of a video's variation; None if unknown."""


def make_monitor_columns(
    list_width: int, has_memory: bool, has_stages: bool, longest_title: int, context: RowContext
) -> list[Column[MonitorRow]]:
    """Return the columns that fit into a list of `list_width` cells; titles take the remaining cells.

    Args:
        has_memory: whether a worker reports GPU memory.
        has_stages: whether a row has a stage of the start-up instead of steps. A narrow list needs the width of the
            bar for it, and leaves out the pace; without stages, its bar takes only the cells that titles leave.
        longest_title: width of the longest title, in cells.
    """
    min_pace_list = MIN_LIST_WITH_STAGES_AND_PACE if has_stages else MIN_NARROW_LIST
    left_columns: list[Column[MonitorRow]] = [
        Column("worker", 9, lambda row: "└ next" if row.is_next else row.worker_name, min_list_width=MIN_NARROW_LIST),
        Column("device", 7, lambda row: "" if row.worker is None else row.worker.device, min_list_width=MIN_WIDE_LIST),
        Column("state", 12, lambda row: _draw_state(row, context)),
    ]
    right_columns: list[Column[MonitorRow]] = [
        Column("noise σ", 7, lambda row: _format_sigma(row), "right", min_list_width=90),
        Column("s/step", 6, lambda row: _format_pace(row), "right", min_list_width=min_pace_list),
        Column("ETA", 7, context.estimate_eta, "right"),
    ]
    if has_memory:
        right_columns.append(Column("GB used/pred.", 13, lambda row: row.memory_text, "right", min_list_width=113))
    left_columns, right_columns = (
        [column for column in columns if column.fits(list_width)] for columns in (left_columns, right_columns)
    )
    fixed_width = sum((column.width or 0) + len(COLUMN_GAP) for column in [*left_columns, *right_columns])
    free_width = list_width - fixed_width - len(COLUMN_GAP) - STEP_WIDTH
    bar_width = _choose_bar_width(list_width, has_stages, free_width - max(MIN_TITLE_WIDTH, longest_title))
    progress_header = PROGRESS_HEADER if bar_width >= len(PROGRESS_HEADER) else ""
    return [
        *left_columns,
        Column(
            "video",
            max(MIN_TITLE_WIDTH, free_width - bar_width),
            lambda row: _draw_title(row, context),
            keeps_end=True,
        ),
        Column(
            f"{progress_header:<{bar_width}}{'step/frame':>{STEP_WIDTH}}",
            bar_width + STEP_WIDTH,
            lambda row: _draw_progress(row, context, bar_width),
        ),
        *right_columns,
    ]


def _choose_bar_width(list_width: int, has_stages: bool, spare_width: int) -> int:
    """Return the width of the progress bar in cells, given the cells that titles leave free; 0 for no bar."""
    if list_width >= MIN_LIST_WITH_WIDE_BAR:
        return WIDE_BAR_WIDTH
    if list_width >= MIN_WIDE_LIST:
        return BAR_WIDTH
    if not has_stages:
        return min(BAR_WIDTH, spare_width) if spare_width >= MIN_SPARE_BAR_WIDTH else 0
    return NARROW_BAR_WIDTH if list_width >= MIN_NARROW_LIST else TINY_BAR_WIDTH


def _draw_state(row: MonitorRow, context: RowContext) -> Text:
    if row.video is None:
        is_starting = row.worker is not None and row.worker.state == "starting"
        return Text("◌ starting", context.make_style("accent")) if is_starting else Text("· idle", Style(dim=True))
    name = find_displayed_state(row.video.state, context.has_engine())
    style = get_state_style(name)
    word = style.state_word
    if name == "running":
        word = "starting" if row.progress is None else row.progress.describe_phase(row.video.steps)
    return Text(f"{style.glyph} {word}", context.make_style(style.colour_name))


def _draw_title(row: MonitorRow, context: RowContext) -> Text:
    if row.video is None:
        return Text("")
    colour_name = context.find_colour_name(row.video)
    colour = Style.null() if colour_name is None else context.make_style(colour_name)
    return Text(row.title, colour + Style(bold=True))


def _draw_progress(row: MonitorRow, context: RowContext, bar_width: int) -> Text:
    """Draw the steps as a bar and as numbers, or, before the first step, what the worker is preparing."""
    if row.worker is not None and row.worker.state == "starting":
        return Text(describe_torch_loading(context.get_age_seconds(row)), Style(dim=True))
    if row.progress is not None and row.progress.stage is not None:
        stage_text = describe_stage_briefly(row.progress.stage)
        fits = len(stage_text) <= bar_width + STEP_WIDTH
        return Text(stage_text if fits else row.progress.stage.description, Style(dim=True))
    if not row.step_text:
        return Text("")
    bar = draw_styled_bar(row.completed_fraction, bar_width, context.make_style("accent"))
    return bar.append(f"{row.step_text:>{STEP_WIDTH}}")


def _format_sigma(row: MonitorRow) -> str:
    return "" if row.progress is None or row.progress.sigma is None else f"{row.progress.sigma:.3f}"


def _format_pace(row: MonitorRow) -> str:
    return "" if row.progress is None or row.progress.pace_seconds is None else f"{row.progress.pace_seconds:.2f}"
