"""Find words in texts of all scripts."""

import unicodedata


def find_complete_words(text: str, word: str) -> list[tuple[int, int]]:
    """Return the first and last character of each occurrence of a word, except inside a longer word.

    The word must not be empty.
    """
    spans, start = [], text.find(word) if word else -1
    while start >= 0:
        end = start + len(word)
        is_complete = is_complete_word(text, start, end)
        if is_complete:
            spans.append((start, end))
        start = text.find(word, end if is_complete else start + 1)
    return spans


def is_complete_word(text: str, start: int, end: int) -> bool:
    """Return whether a part of a text is a complete word.

    In a script that separates words by spaces, text next to another letter is part of a longer word. Combining
    marks, such as vowels of Indic scripts, belong to their word.
    """
    neighbours = (
        (text[start : start + 1], text[max(start - 1, 0) : start]),
        (text[end - 1 : end], text[end : end + 1]),
    )
    return not any(
        outer and _is_word_character(inner) and _is_word_character(outer) and not has_two_cells(inner)
        for inner, outer in neighbours
    )


def _is_word_character(character: str) -> bool:
    if character.isalnum() or character == "_":
        return True
    # Variation selectors, which belong to emoji, are combining marks too.
    return unicodedata.category(character) in ("Mn", "Mc") and not 0xFE00 <= ord(character) <= 0xFE0F


def has_two_cells(character: str) -> bool:
    """Return whether a character is wide, as in scripts that do not separate words by spaces."""
    return unicodedata.east_asian_width(character) in ("W", "F")
