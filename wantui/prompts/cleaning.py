"""Text cleaning of prompts, as in the Wan pipeline.

Prompts are cleaned before the spans of their marks are computed, so that the pipeline's own cleaning moves no span.
The steps equal `prompt_clean` in diffusers' Wan pipeline: ftfy, HTML entities twice, white space. Before them,
control characters that are white space, such as the line break inside a paragraph of word processors (U+000B), become
spaces: ftfy would delete them and join the words around them.
"""

import html
import re

_SPACES_PATTERN = re.compile(r"\s+")
_SPACE_CONTROLS_PATTERN = re.compile(r"[\x0b\x1c-\x1f]")


def clean_prompt_part(text: str) -> str:
    """Clean part of a prompt: like `clean_prompt`, but white space at an end becomes one space."""
    if not text.isascii() or not text.isprintable() or "&" in text:
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(_SPACE_CONTROLS_PATTERN.sub(" ", text))))
    return _SPACES_PATTERN.sub(" ", text)


def clean_prompt(text: str) -> str:
    """Clean a complete prompt, as the pipeline does before tokenising it."""
    return clean_prompt_part(text).strip()
