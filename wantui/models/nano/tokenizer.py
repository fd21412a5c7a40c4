"""Nano's tokenizer: a T5 unigram tokenizer with a small sub-word vocabulary.

About half of the caption words are split into several tokens, as in the real UMT5 vocabulary, so that code that maps
words to tokens is tested. Single letters, digits and punctuation cover other ASCII text; all other characters, such as
Chinese ones, become `<unk>`.
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
CHARACTER_PIECES = string.ascii_lowercase + string.ascii_uppercase + string.digits + string.punctuation


def build_nano_tokenizer() -> "T5Tokenizer":
    """Build the tokenizer with its fixed vocabulary; ids 0, 1 and 2 are padding, end of text and unknown, as in T5."""
    from transformers import T5Tokenizer

    special_pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0)]
    word_pieces = [(piece, -2.0) for piece in WORD_PIECES]
    character_pieces = [(piece, -10.0) for piece in ("▁", *CHARACTER_PIECES) if piece not in WORD_PIECES]
    return T5Tokenizer(vocab=special_pieces + word_pieces + character_pieces, extra_ids=0, model_max_length=512)
