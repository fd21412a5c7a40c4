"""Conversion of database rows to records; SQLite itself accepts any value in any column."""

import sqlite3
from pathlib import Path

from wantui.clock import compute_seconds_since
from wantui.queue.records import Hold, QueueEvent, VideoRow
from wantui.queue.stored_events import parse_event_payload

TEXT_COLUMNS = frozenset(
    [
        *("folder", "device", "template", "model", "seeds", "title", "recipe", "state", "worker", "plan", "error"),
        *("boot_id", "name", "kind", "reason", "data"),
    ]
)
"""Text columns of batches, videos, workers, holds and events; the other columns contain numbers."""


def check_column_types(row: sqlite3.Row) -> None:
    """Reject a row with a value of the wrong type; SQLite itself accepts any value in any column.

    Raises:
        sqlite3.DatabaseError: names the column.
    """
    for name in row.keys():  # noqa: SIM118 - a row iterates over its values
        expected = str if name in TEXT_COLUMNS else int | float
        if not isinstance(row[name], expected | None):
            raise sqlite3.DatabaseError(f"a value in column {name} has the type {type(row[name]).__name__}")


def to_video_row(row: sqlite3.Row) -> VideoRow:
    """Return a row of the table `video`; seconds of a running video count up to now."""
    check_column_types(row)
    fields_by_name = {name: row[name] for name in VideoRow.__dataclass_fields__}
    if row["state"] == "running":
        fields_by_name["seconds"] = compute_seconds_since(row["boot_id"], row["boot_seconds"])
    return VideoRow(**fields_by_name)


def to_event(row: sqlite3.Row) -> QueueEvent:
    """Return a row of the table `event`."""
    check_column_types(row)
    payload = parse_event_payload(row["kind"], row["data"])
    return QueueEvent(row["seq"], row["time"], row["batch"], row["video"], payload)


def to_hold(row: sqlite3.Row) -> Hold:
    """Return a row of the table `hold` or `batch_hold`."""
    check_column_types(row)
    return Hold(row["kind"], row["reason"], Path(row["folder"]) if row["folder"] else None, row["needed"])
