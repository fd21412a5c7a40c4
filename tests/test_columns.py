"""Columns of lists: widths, alignment, and what a narrow list leaves out."""

from rich.text import Text

from wantui.tui.columns import Column, draw_column_headers, draw_list_row

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


def test_wide_characters_count_as_two_cells() -> None:
    columns = [Column[str]("word", 6, lambda row: row), Column[str]("end", None, lambda row: "|")]
    assert draw_list_row(columns, "日本", 40).plain == "日本    |"
    assert draw_list_row(columns, "日本語日本", 40).plain == "日本 …  |"


def test_cell_style_covers_only_its_own_text() -> None:
    line = draw_list_row(COLUMNS, (7, "kiss"), 40)
    assert [(span.start, span.end, span.style) for span in line.spans] == [(13, 17, "bold")]
