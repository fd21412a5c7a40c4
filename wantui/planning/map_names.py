"""Array names of marked words' attention maps; they depend on the marks only."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from wantui.captures.attention import MASS_NAMES
from wantui.controls.marked_prompt import MarkedPrompt

RESERVED_NAMES = frozenset({*MASS_NAMES, "steps", "sigmas", "blocks", "cond", "uncond"})
"""Names of other arrays and groups in an attention capture, which a map cannot use."""
MAX_MAP_NAME_BYTES = 200
"""Maximum length in bytes of a map name before number suffixes; file systems allow 255 bytes."""
_NOT_IN_NAME_PATTERN = re.compile(r"\W+")


def assign_map_names(marked_texts: Iterable[str]) -> list[str]:
    """Return a unique name for the map of each marked text: its letters and digits, with _2, _3 for repeated texts.

    Names are unique on case-insensitive file systems too, and differ from RESERVED_NAMES.
    """
    reserved_keys = {_make_collision_key(map_name) for map_name in RESERVED_NAMES}
    taken_keys = set(reserved_keys)
    map_names = []
    for text in marked_texts:
        base_name = _NOT_IN_NAME_PATTERN.sub("_", text).strip("_") or "word"
        if _make_collision_key(base_name) in reserved_keys:
            base_name = f"word_{base_name}"
        base_name = _shorten_map_name(base_name)
        suffix_number, map_name = 1, base_name
        while _make_collision_key(map_name) in taken_keys:
            suffix_number += 1
            map_name = f"{base_name}_{suffix_number}"
        taken_keys.add(_make_collision_key(map_name))
        map_names.append(map_name)
    return map_names


def assign_shared_map_names(prompts: Sequence[MarkedPrompt]) -> list[list[str]]:
    """Return the map names of each prompt's marks.

    If several prompts mark the same text, its first occurrences share one name, its second occurrences another, and so
    on.
    """
    marks_by_prompt = [_number_marks(prompt) for prompt in prompts]
    numbered_marks = list(dict.fromkeys(mark for marks in marks_by_prompt for mark in marks))
    name_by_mark = dict(zip(numbered_marks, assign_map_names(text for text, _ in numbered_marks), strict=True))
    return [[name_by_mark[mark] for mark in marks] for marks in marks_by_prompt]


def list_map_texts(prompts: Sequence[MarkedPrompt]) -> tuple[str, ...]:
    """Return the marked text of each map that a video with these prompts has."""
    return tuple(text for text, _ in dict.fromkeys(mark for prompt in prompts for mark in _number_marks(prompt)))


def _number_marks(prompt: MarkedPrompt) -> list[tuple[str, int]]:
    """Return each mark's text, and the number of the prompt's earlier marks with the same text."""
    texts = [mark.text for mark in prompt.marks]
    return [(text, texts[:index].count(text)) for index, text in enumerate(texts)]


def _make_collision_key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _shorten_map_name(name: str) -> str:
    """Shorten a name to `MAX_MAP_NAME_BYTES`; a shortened name ends in a digest."""
    encoded_name = name.encode()
    if len(encoded_name) <= MAX_MAP_NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded_name).hexdigest()[:8]
    return f"{encoded_name[: MAX_MAP_NAME_BYTES - 9].decode(errors='ignore')}_{digest}"
