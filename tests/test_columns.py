"""Columns of lists: widths, alignment, and the columns that a narrow list omits."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text

from wantui.queue.records import BatchRow
from wantui.tui.columns import COLUMN_GAP, Column, draw_column_headers, draw_list_row
from wantui.tui.queue_columns import MAX_NAME_WIDTH, BatchWidths, VideoWidths, make_batch_columns, make_video_columns
from wantui.tui.widgets.matrix_geometry import CellGeometry
from wantui.tui.widgets.matrix_labels import draw_corner
from wantui.tui.widgets.virtual_list import VirtualList

COLUMNS = [
    Column[tuple[int, str]]("#", 3, lambda row: str(row[0]), "right"),
    Column[tuple[int, str]]("state", 6, lambda row: "ok", min_list_width=20),
    Column[tuple[int, str]]("name", None, lambda row: Text(row[1], "bold")),
]


def test_header_and_rows_are_aligned() -> None:
    assert draw_column_headers(COLUMNS, 40).plain == "  #  state   name"
    assert draw_list_row(COLUMNS, (7, "kiss"), 40).plain == "  7  ok      kiss"


def test_narrow_list_drops_columns_that_do_not_fit() -> None:
    assert draw_column_headers(COLUMNS, 19).plain == "  #  name"
    assert draw_list_row(COLUMNS, (7, "kiss"), 19).plain == "  7  kiss"


def test_long_cell_is_truncated_with_an_ellipsis() -> None:
    assert draw_list_row(COLUMNS, (12345, "kiss"), 40).plain == "12…  ok      kiss"


@pytest.mark.parametrize(
    ("title", "width", "expected"),
    [
        ("red seed 42, cfg scale 3", 24, "red seed 42, cfg scale 3"),
        ("red seed 42, cfg scale 3", 21, "red seed 42…g scale 3"),
        ("red seed 42, circle.translate_x 0.25", 23, "red seed 42…late_x 0.25"),
        ("红色的圆, cfg scale 3", 12, "红色的圆…e 3"),
    ],
)
@pytest.mark.parametrize("column_width", [None, "fixed"])
def test_long_title_keeps_its_end(title: str, width: int, expected: str, column_width: str | None) -> None:
    column = Column[str]("video", width if column_width else None, lambda row: Text(row, "bold"), keeps_end=True)
    line = draw_list_row([column], title, width)
    assert line.plain.rstrip() == expected
    assert line.cell_len <= width


@pytest.mark.parametrize(
    ("heading", "expected"),
    [("circle.translate_x", "circl…te_x"), ("cfg scale", "cfg scale "), ("", " " * 10)],
)
@pytest.mark.parametrize(("has_hidden_columns", "arrow"), [(True, "‹"), (False, " ")])
def test_long_heading_of_a_matrix_keeps_its_end(
    heading: str, expected: str, has_hidden_columns: bool, arrow: str
) -> None:
    assert draw_corner(heading, CellGeometry(11, 8, 4), has_hidden_columns).text == expected + arrow


def test_wide_characters_count_as_two_cells() -> None:
    columns = [Column[str]("word", 6, lambda row: row), Column[str]("end", None, lambda row: "|")]
    assert draw_list_row(columns, "日本", 40).plain == "日本    |"
    assert draw_list_row(columns, "日本語日本", 40).plain == "日本 …  |"


def test_cell_style_covers_only_its_own_text() -> None:
    line = draw_list_row(COLUMNS, (7, "kiss"), 40)
    assert [(span.start, span.end, span.style) for span in line.spans] == [(13, 17, "bold")]


def batch_row(**values: object) -> BatchRow:
    fields = {
        "id": 1,
        "folder": Path("batch"),
        "device": "auto",
        "paused": False,
        "created": 0.0,
        "counts": {"done": 2},
    }
    return BatchRow(**fields | values)  # type: ignore[arg-type]


def test_columns_of_batches_are_as_wide_as_their_content() -> None:
    rows = [batch_row(model="nano", seeds="1 to 6", folder=Path("a_long_name_of_a_batch")), batch_row(model="nano")]
    widths = BatchWidths.measure(rows, True)
    assert widths == BatchWidths(5, 6, 22, state=6)  # the header "model" is longer than "nano"
    assert BatchWidths.measure([], True) == BatchWidths(5, 5, 4)
    assert BatchWidths.measure([batch_row(folder=Path("x" * 300))], True).name == MAX_NAME_WIDTH
    assert BatchWidths.measure([batch_row(folder=Path("demo_20261130_143011"))], True).name == len("demo")
    assert BatchWidths.measure([batch_row(counts={"failed": 1})], True).has_failures
    running = [batch_row(counts={"running": 1})]
    assert BatchWidths.measure(running, True).state == len("▶ running")
    assert BatchWidths.measure(running, False).state == len("! interrupted")


def test_column_of_failures_is_shown_only_with_failures() -> None:
    for has_failures in (False, True):
        widths = BatchWidths(5, 5, 10, has_failures=has_failures)
        columns = make_batch_columns(VirtualList(), set(), lambda: True, lambda batch: "", widths)
        assert ("failed" in [column.header_text for column in columns]) == has_failures


def test_name_takes_the_space_of_an_empty_eta_column() -> None:
    for counts, has_eta in (({"done": 2}, False), ({"done": 1, "queued": 1}, True)):
        batch = batch_row(counts=counts, folder=Path("cancelled_sweep_20261129_143011"), id=12)
        widths = BatchWidths.measure([batch, batch_row(counts={"failed": 6})], True)
        columns = make_batch_columns(VirtualList(), set(), lambda: True, lambda batch: "1:00:00", widths)
        assert ("ETA" in [column.header_text for column in columns]) == has_eta
        list_width = 93  # that of the list in a terminal of 140 columns
        other_columns = [column for column in columns if column.header_text != "name" and column.fits(list_width)]
        free_width = list_width - sum((column.width or 0) + len(COLUMN_GAP) for column in other_columns)
        assert free_width >= len(batch.name)


@pytest.mark.parametrize("list_width", [83, 84, 91, 104, 105, 110, 150])
@pytest.mark.parametrize("name", ["demo", "n" * 30])
def test_batches_show_their_template_where_26_cells_of_it_fit_beside_the_whole_name(name: str, list_width: int) -> None:
    batch = batch_row(folder=Path(name), template="a [red|blue] circle", counts={"done": 1, "queued": 1})
    columns = make_batch_columns(
        VirtualList(), set(), lambda: True, lambda batch: "", BatchWidths.measure([batch], has_engine=True)
    )
    shown = [column for column in columns if column.fits(list_width)]
    free_width = list_width + len(COLUMN_GAP) - sum((column.width or 0) + len(COLUMN_GAP) for column in shown)
    if shown[-1].header_text == "template":
        assert free_width >= 26
        assert [column.width for column in shown if column.header_text == "name"] == [len(name)]
    else:
        assert list_width < 84 or free_width < len(name) + len(COLUMN_GAP) + 26


def test_videos_of_a_batch_have_columns_as_wide_as_their_content() -> None:
    videos: list[Any] = [SimpleNamespace(title="red seed 42", steps=steps) for steps in (8, 100)]
    assert VideoWidths.measure(None, True, []) == VideoWidths()
    batch = batch_row(counts={"done": 4, "queued": 7, "failed": 0})
    assert VideoWidths.measure(batch, True, videos[:1]) == VideoWidths(2, len("· waiting"), 5, 11, True)
    running = batch_row(counts={"running": 1, "done": 1200})
    assert VideoWidths.measure(running, True, videos) == VideoWidths(4, len("▶ decoding"), 7, 11, True)
    assert VideoWidths.measure(running, False, videos).state == len("! interrupted")


def make_columns(widths: VideoWidths, eta: str = "") -> list[Column[tuple[int, Any]]]:
    return make_video_columns(
        VirtualList(), lambda: True, lambda index, video: eta, lambda video: None, lambda video: "", widths
    )


def test_ended_batches_have_no_progress_columns() -> None:
    def list_headers(has_unfinished: bool, width: int) -> list[str]:
        widths = VideoWidths(has_unfinished=has_unfinished)
        columns = make_columns(widths)
        return [column.header_text for column in columns if column.fits(width)]

    assert list_headers(has_unfinished=False, width=80) == ["#", "state", "took", "video"]
    assert list_headers(has_unfinished=True, width=71) == ["#", "state", "steps", "ETA", "took", "video"]
    assert list_headers(has_unfinished=True, width=53) == ["#", "state", "ETA", "took", "video"]
    assert list_headers(has_unfinished=True, width=49) == ["#", "state", "ETA", "video"]
    assert list_headers(has_unfinished=True, width=75) == ["#", "state", "progress", "steps", "ETA", "took", "video"]
    assert list_headers(has_unfinished=True, width=84) == ["#", "state", "progress", "steps", "ETA", "took", "video"]
    assert list_headers(has_unfinished=False, width=90) == ["#", "state", "took", "ended", "video", "prompt"]


def test_narrow_list_tells_the_duration_of_a_video_from_its_eta() -> None:
    widths = VideoWidths(has_unfinished=True)
    columns = make_columns(widths, "0:07")
    eta, took = (column for column in columns if column.header_text in ("ETA", "took") and column.fits(60))
    assert took.draw_cell((0, SimpleNamespace(state="done", seconds=4.0))) == "4.0 s"
    for state in ("queued", "running"):
        assert took.draw_cell((1, SimpleNamespace(state=state, seconds=None))) == ""
    assert eta.draw_cell((1, SimpleNamespace(state="queued", seconds=None))) == "0:07"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (999.94, "999.9 s"), (999.96, "1000 s"), (99_999.4, "99999 s"), (100_000.0, "27.8 h")],
)
def test_duration_of_a_video_fits_into_its_column(seconds: float, text: str) -> None:
    widths = VideoWidths()
    columns = make_video_columns(
        VirtualList(), lambda: True, lambda index, video: "", lambda video: None, lambda video: "", widths
    )
    column = next(column for column in columns if column.header_text == "took")
    video = SimpleNamespace(state="done", seconds=seconds)
    assert column.draw_cell((0, video)) == text  # type: ignore[arg-type]
    assert column.width is not None
    assert len(text) <= column.width
