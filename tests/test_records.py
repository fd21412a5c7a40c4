"""Tables of the analysis as spreadsheets read them."""

import csv
from pathlib import Path

import pytest

from wantui.analysis.serialize import format_csv, write_csv


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("+1+cmd", "'+1+cmd"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("＝1", "'＝1"),
        ("-", "'-"),
        ("-0.5", "-0.5"),
        ("+3", "+3"),
        ("-1e-05", "-1e-05"),
        ("-.5", "-.5"),
        ("-1_000", "'-1_000"),
        ("a red = circle", "a red = circle"),
        ("", ""),
    ],
)
def test_csv_escapes_formulas_and_keeps_numbers(cell: str, expected: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [[cell, "next"]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [[expected, "next"]]  # R13


def test_csv_lines_end_with_a_newline() -> None:
    assert format_csv([["a", "b"], ["1", "x,y"]]) == 'a,b\n1,"x,y"\n'
