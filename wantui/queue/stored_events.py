"""How events are stored: their payloads as JSON objects, with validated fields."""

import json
import sqlite3
from functools import cache
from typing import TYPE_CHECKING, Any

from wantui.queue.events import PAYLOAD_TYPES_BY_KIND, EventPayload, UnknownEvent

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def convert_payload_to_json(payload: EventPayload) -> dict[str, Any]:
    """Return the fields of a payload by name, without None and empty strings; an unknown kind keeps its stored fields.

    Raises:
        ValueError: a field has the wrong type.
    """
    if isinstance(payload, UnknownEvent):
        return dict(payload.content)
    adapter = _build_adapter(payload.kind)
    fields = adapter.dump_python(adapter.validate_python(vars(payload)), mode="json", exclude_none=True)
    return {name: value for name, value in fields.items() if value != ""}


def parse_event_payload(kind: str, data: str) -> EventPayload:
    """Return the payload of a stored event.

    Raises:
        sqlite3.DatabaseError: the data are not a JSON object, or a field has the wrong type.
    """
    try:
        content = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise sqlite3.DatabaseError("the data of an event are not a JSON object")
    if kind not in PAYLOAD_TYPES_BY_KIND:
        return UnknownEvent(name=kind, content=content)

    from pydantic import ValidationError

    try:
        payload: EventPayload = _build_adapter(kind).validate_python(content)
    except ValidationError as error:
        raise sqlite3.DatabaseError(
            f"the data of an event of kind {kind} cannot be read: {error.errors()[0]['msg']}"
        ) from None
    return payload


@cache
def _build_adapter(kind: str) -> "TypeAdapter[Any]":
    """Build the validator for the fields of a kind at its first event: building all validators at the start is slow."""
    from pydantic import TypeAdapter

    return TypeAdapter(PAYLOAD_TYPES_BY_KIND[kind])
