"""Nano's tokenizer: a T5 unigram tokenizer over a small vocabulary of sub-word pieces.

About half of the world's words are split into several pieces, as they are in the real UMT5 vocabulary, so that code
which maps words to tokens is put to the test. Single letters, digits and signs cover any other text; what is left (for
example Chinese) becomes `<unk>`.
"""

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import T5Tokenizer

# fmt: off
WORD_PIECES = (
    "▁a", "▁and", "▁over", "▁mov", "▁stay", "ing", "▁back", "ground", "▁shape", "▁still", "▁left", "▁right", "▁up",
    "▁down", "▁cir", "▁squ", "▁tri", "▁star", "▁cross", "▁ring", "cle", "are", "angle", "▁red", "▁green", "▁blue",
    "▁yel", "▁pur", "▁white", "low", "ple", "▁small", "▁large", "▁dark", "▁grey", "▁sand", "y",
)
# fmt: on
CHARACTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits + string.punctuation


def build_tokenizer() -> "T5Tokenizer":
    """Build the tokenizer with its fixed vocabulary; ids 0, 1, 2 are pad, end of text and unknown, as in T5."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0)]
    pieces = [(piece, -2.0) for piece in WORD_PIECES]
    letters = [(piece, -10.0) for piece in ("▁", *CHARACTERS) if piece not in WORD_PIECES]
    return T5Tokenizer(vocab=special + pieces + letters, extra_ids=0, model_max_length=512)
