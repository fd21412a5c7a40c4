"""The text cleaning that the Wan pipeline applies to a prompt, done before it is frozen, so that spans stay true.

The same steps as `prompt_clean` in diffusers' Wan pipeline: ftfy, HTML entities twice, white space.
"""

import html
import re

_SPACES = re.compile(r"\s+")


def clean_text(text: str) -> str:
    """Return the text as the pipeline will tokenise it, but with white space at its ends kept as one space."""
    if not text.isascii() or not text.isprintable() or "&" in text:
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _SPACES.sub(" ", text)


def clean_prompt(text: str) -> str:
    """Return the complete prompt as the pipeline will tokenise it."""
    return clean_text(text).strip()
