"""Times of creation in local time."""

from datetime import datetime

DATE_WIDTH, SHORT_DATE_WIDTH = 12, 6
"""Widths of `format_date` in characters."""


def format_date(created_at: str | float, is_short: bool = False) -> str:
    """Return a time as "29 Nov 00:01", or as "29 Nov 2024" if it is of another year.

    Args:
        created_at: time in ISO 8601, or in seconds since 1970.
        is_short: return "00:01" for a time of today, which tells batches of one day apart, "29 Nov" for another day of
            this year, or "Nov 24" for another year.
    """
    moment = _parse_local_time(created_at)
    if moment is None:
        return str(created_at)[:DATE_WIDTH]
    now = datetime.now().astimezone()
    is_this_year = moment.year == now.year
    if is_short and moment.date() == now.date():
        return f"{moment:%H:%M}"
    if is_short:
        return f"{moment.day:2} {moment:%b}" if is_this_year else f"{moment:%b %y}"
    return f"{moment.day:2} {moment:%b %H:%M}" if is_this_year else f"{moment.day:2} {moment:%b %Y}"


def format_time_of_day(seconds: float) -> str:
    """Return a time in seconds since 1970 as "00:01"."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%H:%M}"


def format_full_date(created_at: str) -> str:
    """Return a time in ISO 8601 as "29 Nov 2026, 00:01"."""
    moment = _parse_local_time(created_at)
    return created_at if moment is None else f"{moment.day} {moment:%b %Y, %H:%M}"


def _parse_local_time(time: str | float) -> datetime | None:
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else datetime.fromtimestamp(time)
        return moment.astimezone()
    except (ValueError, OSError, OverflowError):
        return None
