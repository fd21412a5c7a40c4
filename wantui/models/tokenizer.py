"""Tokenise text as a model does: token ids, and the tokens of a word. Never imports torch."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from wantui.errors import UserError
from wantui.models.catalogue import WanModel
from wantui.models.fingerprint import find_snapshot
from wantui.models.parts import PartError, read_components, read_json

SPACE_MARK = "▁"
"""Prefix of word-initial tokens in T5 vocabularies; alone, it is a token without text."""
UNKNOWN_TOKEN = "<unk>"
UNKNOWN_TOKEN_ID = 2
"""Id of the unknown token in T5Tokenizer, regardless of the file."""
OUT_OF_VOCABULARY = "\U0010fffd"
"""Private-use character that no vocabulary contains."""
END_TOKEN = "</s>"
EXTRA_TOKEN = "<extra_id_0>"
"""First of the extra tokens that T5Tokenizer adds if tokenizer_config.json does not set their number."""
MIN_VOCABULARY_FRACTION = 0.9
"""Smallest fraction of a text encoder's embeddings that its tokenizer must use; the others are padding."""
PADDING_ROWS = 1024
"""Number of padding embeddings that any text encoder may have beyond the vocabulary of its tokenizer."""


class TokenizerError(UserError):
    """A tokenizer whose file cannot be read."""


def find_tokenizer_file(model: WanModel, revision: str | None) -> Path | None:
    """Return the tokenizer.json of a model; None if it is not on this machine."""
    folder = Path(model.location) if model.is_local else find_snapshot(model.location, revision)
    if folder is None or not (folder / "tokenizer" / "tokenizer.json").is_file():
        return None
    return folder / "tokenizer" / "tokenizer.json"


def _load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a tokenizer.json as transformers would load it."""
    try:
        stat = path.stat()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None
    return _read_tokenizer(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4)
def _read_tokenizer(path: Path, *_: int) -> Any:
    """Read a tokenizer, cached until its file changes."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no specific type
        raise TokenizerError(f"{path} cannot be read as a tokenizer: {error}. Copy it from the model again") from None
    if _read_class_name(path.parents[1]).startswith("T5") and type(tokenizer.model).__name__ == "Unigram":
        _replace_stages(tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_class_name(folder: Path) -> str:
    """Return the class of a model's tokenizer; an empty string if the index is unreadable, which loading reports."""
    try:
        return read_components(folder).get("tokenizer", ("", ""))[1]
    except PartError:
        return ""


def _replace_stages(tokenizer: Any) -> None:
    """Replace the stages around the vocabulary with those of transformers' T5Tokenizer, which the pipeline uses.

    T5Tokenizer reads only the vocabulary and the character map of a tokenizer.json, and ignores its other normalisers
    and pre-tokenisers.
    """
    from tokenizers import models, normalizers, pre_tokenizers, processors

    if [token.id for token in tokenizer.model.tokenize(OUT_OF_VOCABULARY)] != [
        UNKNOWN_TOKEN_ID
    ]:  # unknown text gives another token, or bytes
        vocabulary = [tuple(entry) for entry in json.loads(tokenizer.model.__getstate__())["vocab"]]
        if len(vocabulary) > UNKNOWN_TOKEN_ID:
            tokenizer.model = models.Unigram(vocabulary, UNKNOWN_TOKEN_ID, False)
    normalizer = tokenizer.normalizer
    stages = [] if normalizer is None else list(normalizer) if hasattr(normalizer, "__getitem__") else [normalizer]
    tokenizer.normalizer = next((stage for stage in stages if isinstance(stage, normalizers.Precompiled)), None)
    words = pre_tokenizers.Metaspace(replacement=SPACE_MARK, prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    if (end := tokenizer.token_to_id(END_TOKEN)) is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["$A", END_TOKEN], special_tokens=[(END_TOKEN, end)]
        )


def check_tokenizer_fits(path: Path) -> None:
    """Refuse a tokenizer whose kind does not match its class, or whose vocabulary does not match the text encoder.

    Args:
        path: tokenizer.json in the folder `tokenizer` of a model.

    Raises:
        TokenizerError: the tokenizer does not match its model.
    """
    tokenizer, folder = _load_tokenizer(path), path.parents[1]
    try:
        rows = read_json(folder / "text_encoder" / "config.json").get("vocab_size")
    except PartError:  # a partly fetched model has no text encoder yet; loading reports missing files
        return
    name, kind = _read_class_name(folder), type(tokenizer.model).__name__
    if name.startswith("T5") and kind != "Unigram":
        raise TokenizerError(
            f"{path} contains a {kind} tokenizer, but {name} loads a Unigram one. Copy it from the model again"
        )
    if type(rows) is int and (fault := find_vocabulary_fault(tokenizer.get_vocab(with_added_tokens=True), rows)):
        raise TokenizerError(f"{path}: {fault}")
    if name.startswith("T5") and tokenizer.token_to_id(EXTRA_TOKEN) is None and (fault := find_config_fault(folder)):
        raise TokenizerError(fault)


def find_config_fault(folder: Path) -> str | None:
    """Return the error for a tokenizer without tokenizer_config.json; None if the file exists."""
    path = folder / "tokenizer" / "tokenizer_config.json"
    if path.is_file():
        return None
    return (
        f"{path} is missing: without it, transformers adds 100 tokens to the vocabulary. Copy it from the model again"
    )


def find_vocabulary_fault(vocabulary: Mapping[str, int], rows: int) -> str | None:
    """Return the error for a vocabulary that does not match a text encoder; None if it does.

    Args:
        vocabulary: token -> id.
        rows: number of embeddings of the text encoder.
    """
    known, largest = len(vocabulary), max(vocabulary.values(), default=0)
    if largest < rows and known >= min(MIN_VOCABULARY_FRACTION * rows, rows - PADDING_ROWS):
        return None
    return (
        f"its tokenizer has {known:,} tokens (largest id {largest:,}), but its text encoder has {rows:,} embeddings: "
        "they belong to different models"
    )


def find_token_ids(path: Path, prompt: str) -> tuple[int, ...]:
    """Return the token ids of a prompt, as the model gets them.

    Raises:
        TokenizerError: the file cannot be read.
    """
    return tuple(_load_tokenizer(path).encode(prompt).ids)


def has_tokens_for(path: Path, word: str, *, partly: bool = False) -> bool:
    """Return whether the vocabulary covers all of a word, or with `partly` at least some of it.

    Raises:
        TokenizerError: the file cannot be read.
    """
    tokenizer = _load_tokenizer(path)
    unknown, space = tokenizer.token_to_id(UNKNOWN_TOKEN), tokenizer.token_to_id(SPACE_MARK)
    ids = tokenizer.encode(word, add_special_tokens=False).ids
    known = [token not in (unknown, space) for token in ids if token != space]
    return any(known) if partly else all(known)


@lru_cache(maxsize=4096)
def find_token_texts(path: Path, prompt: str, start: int, end: int) -> tuple[str, ...]:
    """Return the texts of all tokens that overlap `prompt[start:end]`; empty if the tokenizer is unreadable.

    Args:
        path: path of a tokenizer.json.
    """
    try:
        encoded = _load_tokenizer(path).encode(prompt)
    except TokenizerError:  # reported by `planning.token_checks`
        return ()
    return tuple(
        token
        for token, (first, last), word in zip(encoded.tokens, encoded.offsets, encoded.word_ids, strict=True)
        if first < end and last > start and last > first and word is not None
    )
