"""Tokenise text as a model does, without torch: token ids, and the tokens of a word."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from wantui.errors import UserError
from wantui.models.catalogue import WanModel
from wantui.models.fingerprint import snapshot_in_cache
from wantui.models.parts import PartError, components, read_json

SPACE = "▁"
"""Prefix of word-initial tokens in T5 vocabularies; a token of it alone represents no text."""
UNKNOWN = "<unk>"
UNKNOWN_ID = 2
"""Number that T5Tokenizer gives the unknown token, regardless of the file."""
OUT_OF_VOCABULARY = "\U0010fffd"
"""A character of private use, which no vocabulary holds."""
END = "</s>"
EXTRA = "<extra_id_0>"
"""First of the tokens that T5Tokenizer adds if tokenizer_config.json does not give their number."""
MIN_VOCABULARY = 0.9
"""Smallest share of a text encoder's embeddings that its tokenizer may use; the rest is padding."""
PADDING_ROWS = 1024
"""Embeddings that a text encoder may have beyond the tokenizer's vocabulary, however few it has."""


class TokenizerError(UserError):
    """A tokenizer whose file cannot be read."""


def tokenizer_file(model: WanModel, revision: str | None) -> Path | None:
    """Return the tokenizer of a model, if it is on this machine."""
    folder = Path(model.location) if model.is_local else snapshot_in_cache(model.location, revision)
    if folder is None or not (folder / "tokenizer" / "tokenizer.json").is_file():
        return None
    return folder / "tokenizer" / "tokenizer.json"


def _tokenizer(path: Path) -> Any:
    try:
        stat = path.stat()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None
    return _read(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4)
def _read(path: Path, *_: int) -> Any:
    """Read a tokenizer again only when its file has changed."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more exact
        raise TokenizerError(f"{path} cannot be read as a tokenizer: {error}. Copy it from the model again") from None
    if _class_name(path.parents[1]).startswith("T5") and type(tokenizer.model).__name__ == "Unigram":
        _replace_stages(tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _class_name(folder: Path) -> str:
    """Return the class of a model's tokenizer; an empty string where its index cannot be read, which loading names."""
    try:
        return components(folder).get("tokenizer", ("", ""))[1]
    except PartError:
        return ""


def _replace_stages(tokenizer: Any) -> None:
    """Replace the stages around the vocabulary by those of transformers' T5Tokenizer, which the pipeline uses.

    That class takes the vocabulary and the character map of a tokenizer.json, and builds everything else itself: other
    normalisers and pre-tokenisers of the file have no effect on what the model reads.
    """
    from tokenizers import models, normalizers, pre_tokenizers, processors

    if [token.id for token in tokenizer.model.tokenize(OUT_OF_VOCABULARY)] != [UNKNOWN_ID]:  # another token, or bytes
        vocabulary = [tuple(entry) for entry in json.loads(tokenizer.model.__getstate__())["vocab"]]
        if len(vocabulary) > UNKNOWN_ID:
            tokenizer.model = models.Unigram(vocabulary, UNKNOWN_ID, False)
    normalizer = tokenizer.normalizer
    stages = [] if normalizer is None else list(normalizer) if hasattr(normalizer, "__getitem__") else [normalizer]
    tokenizer.normalizer = next((stage for stage in stages if isinstance(stage, normalizers.Precompiled)), None)
    words = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    if (end := tokenizer.token_to_id(END)) is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=["$A", END], special_tokens=[(END, end)])


def check_tokenizer_fits(path: Path) -> None:
    """Refuse a tokenizer of another kind than its model loads, or with another vocabulary than its text encoder has.

    Args:
        path: tokenizer.json in the folder `tokenizer` of a model.

    Raises:
        TokenizerError: says what does not fit.
    """
    tokenizer, folder = _tokenizer(path), path.parents[1]
    try:
        rows = read_json(folder / "text_encoder" / "config.json").get("vocab_size")
    except PartError:  # a model that is fetched in part has no text encoder yet; loading names what is missing
        return
    name, kind = _class_name(folder), type(tokenizer.model).__name__
    if name.startswith("T5") and kind != "Unigram":
        raise TokenizerError(
            f"{path} holds a {kind} tokenizer, and {name} loads a Unigram one. Copy it from the model again"
        )
    if type(rows) is int and (fault := vocabulary_fault(tokenizer.get_vocab(with_added_tokens=True), rows)):
        raise TokenizerError(f"{path}: {fault}")
    if name.startswith("T5") and tokenizer.token_to_id(EXTRA) is None and (fault := config_fault(folder)):
        raise TokenizerError(fault)


def config_fault(folder: Path) -> str | None:
    """Return what is missing where a tokenizer has no tokenizer_config.json, or None where it has one."""
    path = folder / "tokenizer" / "tokenizer_config.json"
    if path.is_file():
        return None
    why = "without it transformers adds 100 tokens to the vocabulary"
    return f"{path} is missing, and {why}. Copy it from the model again"


def vocabulary_fault(vocabulary: Mapping[str, int], rows: int) -> str | None:
    """Return how a vocabulary does not fit a text encoder, or None where it does.

    Args:
        vocabulary: tokens with their numbers.
        rows: embeddings of the text encoder.
    """
    known, largest = len(vocabulary), max(vocabulary.values(), default=0)
    if largest < rows and known >= min(MIN_VOCABULARY * rows, rows - PADDING_ROWS):
        return None
    return (
        f"its tokenizer knows {known:,} tokens (the largest number is {largest:,}), and its text encoder has "
        f"embeddings of {rows:,}: they are of different models"
    )


def token_ids(path: Path, prompt: str) -> tuple[int, ...]:
    """Return the tokens of a prompt as the model reads it.

    Raises:
        TokenizerError: the file cannot be read.
    """
    return tuple(_tokenizer(path).encode(prompt).ids)


def has_token(path: Path, word: str, *, in_part: bool = False) -> bool:
    """Return whether the tokenizer covers a word entirely, or at least in part.

    Raises:
        TokenizerError: the file cannot be read.
    """
    tokenizer = _tokenizer(path)
    unknown, space = tokenizer.token_to_id(UNKNOWN), tokenizer.token_to_id(SPACE)
    ids = tokenizer.encode(word, add_special_tokens=False).ids
    known = [token not in (unknown, space) for token in ids if token != space]
    return any(known) if in_part else all(known)


@lru_cache(maxsize=4096)
def token_texts(path: Path, prompt: str, start: int, end: int) -> tuple[str, ...]:
    """Return the texts of all tokens that share a character with `prompt[start:end]`; empty for a broken file.

    Args:
        path: of a tokenizer.json.
    """
    try:
        encoded = _tokenizer(path).encode(prompt)
    except TokenizerError:  # which `planning.token_checks` refuses
        return ()
    return tuple(
        token
        for token, (first, last), word in zip(encoded.tokens, encoded.offsets, encoded.word_ids, strict=True)
        if first < end and last > start and last > first and word is not None
    )
