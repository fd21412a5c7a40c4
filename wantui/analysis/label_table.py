"""Tables with external labels for videos: codes by people or models, CLIP or quality scores, read from a CSV file."""

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.label_rows import SEPARATORS, LabelError, identifies_videos, quote, read_csv_rows
from wantui.analysis.metrics import METRICS, RENAMED_METRICS

IDENTITY_COLUMNS = ("video", "id", "batch", "variation", "seed", "cell")
"""Columns that identify the video of a row."""
IGNORED_COLUMNS = ("prompt", "reason", "stride")
"""Further columns of the tables that `wantui analyze --csv` writes; they are ignored."""
SUGGESTED_COLUMN_NAMES = {"path": "video", "file": "video", "filename": "video", "file_name": "video", "clip": "video"}
"""Column names that other programs are likely to use, with the name that wantui expects."""
MAX_LABEL = 1e100
"""Largest size of a label: tests square differences and sum the squares, which must stay finite. The largest label of a
column must be at least the reciprocal, because smaller squares would be 0."""
MAX_CODES = 30
"""Maximum number of different codes in a column of text."""
_NUMBER_PATTERN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DECIMAL_COMMA_PATTERN = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "-infinity"}


@dataclass(frozen=True)
class LabelRow:
    """Labels of one video."""

    line_number: int
    identity: Mapping[str, str]
    """Texts of the identity columns."""
    values: Mapping[str, float]
    """Values by label; NaN where the cell is empty. A code is a label `column=code`, with the value 1 or 0."""


@dataclass(frozen=True)
class LabelTable:
    """Table of labels."""

    path: Path
    sha256: str
    """Checksum of the file's text."""
    label_names: tuple[str, ...]
    """Names of the labels, in the order of their columns."""
    rows: tuple[LabelRow, ...]
    ignored_columns: tuple[str, ...] = ()


def read_label_table(path: Path) -> LabelTable:
    """Read labels from a CSV file with a header line.

    A column whose cells are numbers is one label; a column of codes is one label for each code, 1 for the videos with
    the code and 0 for the others, whose mean is a share. Empty cells are missing values.

    Raises:
        LabelError: the table cannot be used.
        UserError: the file cannot be read.
    """
    table = read_csv_rows(path)
    names = _check_header(path, table.header)
    table.check_body()
    label_columns = [index for index, name in enumerate(names) if name not in (*IDENTITY_COLUMNS, *IGNORED_COLUMNS)]
    values_by_label: dict[str, list[float]] = {}
    for index in label_columns:
        cells = [(line_number, row[index]) for line_number, row in table.body]
        for label, values in _parse_column(path, names[index], cells).items():
            if label in values_by_label:
                raise LabelError(f"cannot use {quote(str(path))}: two columns would create the label {quote(label)}")
            values_by_label[label] = values
    rows = tuple(
        LabelRow(
            line_number,
            {name: row[index] for index, name in enumerate(names) if name in IDENTITY_COLUMNS},
            {label: values[number] for label, values in values_by_label.items()},
        )
        for number, (line_number, row) in enumerate(table.body)
    )
    ignored_columns = tuple(name for name in names if name in IGNORED_COLUMNS)
    return LabelTable(path, table.sha256, tuple(values_by_label), rows, ignored_columns)


def _check_header(path: Path, header: Sequence[str]) -> list[str]:
    """Return the names of the columns; names of identity columns are in lower case.

    Raises:
        LabelError: a name is missing or given twice, or the columns do not identify the video of each row.
    """
    known_names = (*IDENTITY_COLUMNS, *IGNORED_COLUMNS)
    names = [name.lower() if name.lower() in known_names else name for name in header]
    prefix = f"cannot use {quote(str(path))}: "
    if "" in names:
        raise LabelError(f"{prefix}column {names.index('') + 1} has no name in the header line")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise LabelError(f"{prefix}two columns are named {quote(repeated[0])}. Rename one")
    if not identifies_videos(names):
        raise LabelError(prefix + _explain_missing_identity(names))
    for name in names:
        if name in METRICS or name in RENAMED_METRICS or name == SPREAD_METRIC:
            raise LabelError(f"{prefix}column {name} has the name of one of wantui's metrics. Rename or remove it")
    if not [name for name in names if name not in known_names]:
        raise LabelError(f"{prefix}it has no column of labels, only {', '.join(names)}")
    return names


def _explain_missing_identity(names: Sequence[str]) -> str:
    text = (
        "no column identifies the video of a row. Add a column `video` (path of the clip), or `variation` and "
        f"`seed`; the columns are {', '.join(quote(name) for name in names[:8])}"
    )
    for name in names:
        similar_names = difflib.get_close_matches(name.lower(), [*IDENTITY_COLUMNS, *SUGGESTED_COLUMN_NAMES], 1, 0.75)
        if similar_names and (wanted := SUGGESTED_COLUMN_NAMES.get(similar_names[0], similar_names[0])) != name:
            return f"{text}. Rename {quote(name)} to {wanted}?"
    if len(names) == 1:
        return f"{text}. Separate columns with {', '.join(SEPARATORS.values())}"
    return text


def _parse_column(path: Path, name: str, cells: Sequence[tuple[int, str]]) -> dict[str, list[float]]:
    """Return the values of each label in a column.

    Raises:
        LabelError: the column is empty, mixes numbers and text, or has too many codes.
    """
    prefix = f"cannot use {quote(str(path))}: "
    numbers = [(line, cell) for line, cell in cells if _NUMBER_PATTERN.fullmatch(cell)]
    texts = [(line, cell) for line, cell in cells if cell and not _NUMBER_PATTERN.fullmatch(cell)]
    if not numbers and not texts:
        raise LabelError(f"{prefix}column {quote(name)} is empty. Remove it")
    if texts and (numbers or any(_looks_like_a_number(cell) for _, cell in texts)):
        raise LabelError(prefix + _explain_mixed_column(name, numbers, texts))
    if numbers:
        values = [float(cell) if cell else math.nan for _, cell in cells]
        for (line, cell), value in zip(cells, values, strict=True):
            if abs(value) > MAX_LABEL:
                raise LabelError(
                    f"{prefix}line {line}, column {quote(name)}: {quote(cell)} is too large; the limit is "
                    f"{MAX_LABEL:.0e}. Use another unit"
                )
        has_usable_number = any(abs(value) >= 1 / MAX_LABEL for value in values)
        # float() turns 1e-400 into 0, so the texts show whether a number is not 0.
        if not has_usable_number and any(re.match(r"[-+.0]*[1-9]", cell) for _, cell in numbers):
            raise LabelError(
                f"{prefix}all numbers of column {quote(name)} are smaller than {1 / MAX_LABEL:.0e}. Use another unit, "
                "or logarithms"
            )
        return {name: values}
    codes = sorted({cell for _, cell in texts})
    if len(codes) > MAX_CODES:
        raise LabelError(
            f"{prefix}column {quote(name)} has {len(codes):,} different texts, such as '{quote(codes[0])}'; at most "
            f"{MAX_CODES} codes can be compared. Remove a column of free text, or code it"
        )
    return {f"{name}={code}": [float(cell == code) if cell else math.nan for _, cell in cells] for code in codes}


def _looks_like_a_number(cell: str) -> bool:
    return bool(_DECIMAL_COMMA_PATTERN.fullmatch(cell)) or cell.lower() in _NOT_FINITE


def _explain_mixed_column(name: str, numbers: Sequence[tuple[int, str]], texts: Sequence[tuple[int, str]]) -> str:
    for line, cell in texts:
        if _DECIMAL_COMMA_PATTERN.fullmatch(cell):
            return (
                f"line {line}, column {quote(name)}: '{quote(cell)}' has a decimal comma. Write decimals with a point"
            )
    if len(numbers) < len(texts) and numbers:
        line, cell = numbers[0]
        return (
            f"column {quote(name)} has codes, but line {line} has the number {quote(cell)}. Write all codes as text "
            "(such as c1), or leave the cell of a missing value empty"
        )
    line, cell = texts[0]
    return (
        f"line {line}, column {quote(name)}: '{quote(cell)}' is not a finite number, but other cells of the column are "
        "numbers. Leave the cell of a missing value empty"
        if numbers
        else f"line {line}, column {quote(name)}: '{quote(cell)}' is not a finite number. Leave the cell of a missing "
        "value empty"
    )
