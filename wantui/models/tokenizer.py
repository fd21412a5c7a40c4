"""Tokenise text as a model does: token ids, and the tokens of a word. Never imports torch."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from wantui.errors import UserError
from wantui.file_state import FileState
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel
from wantui.models.fingerprint import find_snapshot_folder
from wantui.models.parts import PartError, read_part_json, read_pipeline_components
from wantui.models.tokenizer_settings import (
    find_special_token_error,
    list_new_tokens,
    read_tokenizer_settings,
)

SPACE_TOKEN = "▁"
"""Prefix of word-initial tokens in T5 vocabularies; alone, it is a token without text."""
UNKNOWN_TOKEN = "<unk>"
UNKNOWN_TOKEN_ID = 2
"""Id of the unknown token in T5Tokenizer, regardless of the file."""
OUT_OF_VOCABULARY_CHARACTER = "\U0010fffd"
"""Private-use character that no vocabulary contains."""
END_TOKEN = "</s>"
FIRST_EXTRA_TOKEN = "<extra_id_0>"
"""First of the extra tokens that T5Tokenizer adds if tokenizer_config.json does not set their number."""
_EXTRA_TOKEN_PATTERN = re.compile(r"▁?<extra_id_\d+>")
"""Names of T5's extra tokens, which occur in no prompt."""
MIN_VOCABULARY_FRACTION = 0.9
"""Smallest fraction of a text encoder's embeddings that its tokenizer must use; the others are padding."""
MAX_PADDING_EMBEDDINGS = 1024
"""Maximum number of padding embeddings in a text encoder (UMT5 has 84). The tokenizer of mT5 has 6,284 tokens fewer
than UMT5 has embeddings."""


class TokenizerError(UserError):
    """Raised for a tokenizer whose file cannot be read."""


def find_tokenizer_file(model: WanModel, revision: str | None) -> Path | None:
    """Return the tokenizer.json of a model; None if it is not on this machine."""
    folder = Path(model.location) if model.is_local else find_snapshot_folder(model.location, revision)
    if folder is None or not (folder / "tokenizer" / "tokenizer.json").is_file():
        return None
    return folder / "tokenizer" / "tokenizer.json"


def _load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a tokenizer.json as transformers would load it."""
    return _read_tokenizer(path, _read_tokenizer_state(path))


def _read_tokenizer_state(path: Path) -> FileState:
    try:
        return FileState.from_path(path)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=4)
def _read_tokenizer(path: Path, _: FileState) -> Any:
    """Read a tokenizer, cached until its file changes."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no specific type
        raise TokenizerError(
            f"{path} cannot be read as a tokenizer: {error}. Replace it with the file of the original model"
        ) from None
    if fault := find_duplicate_token_error(tokenizer):
        raise TokenizerError(f"{path}: {fault}")
    if _read_tokenizer_class_name(path.parents[1]).startswith("T5") and type(tokenizer.model).__name__ == "Unigram":
        _replace_tokenizer_stages(tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_tokenizer_class_name(folder: Path) -> str:
    """Return the class of a model's tokenizer; an empty string if the index is unreadable, which loading reports."""
    try:
        return read_pipeline_components(folder).get("tokenizer", ("", ""))[1]
    except PartError:
        return ""


def _replace_tokenizer_stages(tokenizer: Any) -> None:
    """Replace the stages around the vocabulary with the stages of transformers' T5Tokenizer, which the pipeline uses.

    T5Tokenizer reads only the vocabulary and the character map of a tokenizer.json, and ignores its other normalisers
    and pre-tokenisers.
    """
    from tokenizers import models, normalizers, pre_tokenizers, processors

    if [token.id for token in tokenizer.model.tokenize(OUT_OF_VOCABULARY_CHARACTER)] != [
        UNKNOWN_TOKEN_ID
    ]:  # unknown text gives another token, or bytes
        vocabulary = [tuple(entry) for entry in json.loads(tokenizer.model.__getstate__())["vocab"]]
        if len(vocabulary) > UNKNOWN_TOKEN_ID:
            tokenizer.model = models.Unigram(vocabulary, UNKNOWN_TOKEN_ID, False)
    normalizer = tokenizer.normalizer
    normalizer_stages = (
        [] if normalizer is None else list(normalizer) if hasattr(normalizer, "__getitem__") else [normalizer]
    )
    tokenizer.normalizer = next(
        (stage for stage in normalizer_stages if isinstance(stage, normalizers.Precompiled)), None
    )
    metaspace_stage = pre_tokenizers.Metaspace(replacement=SPACE_TOKEN, prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace_stage])
    if (end_token_id := tokenizer.token_to_id(END_TOKEN)) is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["$A", END_TOKEN], special_tokens=[(END_TOKEN, end_token_id)]
        )


def check_tokenizer_fits_model(path: Path) -> None:
    """Reject a tokenizer whose kind does not match its class, or whose vocabulary does not match the text encoder.

    Args:
        path: tokenizer.json in the folder `tokenizer` of a model.

    Raises:
        TokenizerError: the tokenizer does not match its model.
    """
    tokenizer, folder = _load_tokenizer(path), path.parents[1]
    try:
        settings = read_tokenizer_settings(path.parent)
    except PartError as error:
        raise TokenizerError(str(error)) from None
    try:
        encoder_config = read_part_json(folder / "text_encoder" / "config.json")
    except PartError:  # a partly fetched model has no text encoder yet; loading reports missing files
        return
    class_name, model_kind = _read_tokenizer_class_name(folder), type(tokenizer.model).__name__
    if class_name.startswith("T5") and model_kind != "Unigram":
        raise TokenizerError(
            f"{path} contains a {model_kind} tokenizer, but {class_name} loads a Unigram tokenizer. Replace it with "
            "the file of the original model"
        )
    vocabulary, embedding_count = tokenizer.get_vocab(with_added_tokens=True), encoder_config.get("vocab_size")
    if type(embedding_count) is int and (fault := find_vocabulary_error(vocabulary, embedding_count)):
        raise TokenizerError(f"{path}: {fault}")
    if not class_name.startswith("T5"):
        return
    if FIRST_EXTRA_TOKEN not in vocabulary and (fault := find_tokenizer_config_error(folder)):
        raise TokenizerError(fault)
    if fault := find_special_token_error(settings, vocabulary, encoder_config):
        raise TokenizerError(f"{path.parent}: {fault}. Copy the folder from the model again")
    new_tokens = list_new_tokens(settings, vocabulary)
    new_vocabulary = vocabulary | {token: max(vocabulary.values()) + i for i, token in enumerate(new_tokens, 1)}
    if type(embedding_count) is int and (fault := find_vocabulary_error(new_vocabulary, embedding_count)):
        raise TokenizerError(
            f"{path.parent}: its settings add {format_count(len(new_tokens), 'token')} to the vocabulary, such as "
            f"{new_tokens[0]!r}: {fault}"
        )


def find_tokenizer_config_error(folder: Path) -> str | None:
    """Return the error for a tokenizer without tokenizer_config.json; None if the file exists."""
    config_path = folder / "tokenizer" / "tokenizer_config.json"
    if config_path.is_file():
        return None
    return (
        f"{config_path} is missing: without it, transformers adds 100 tokens to the vocabulary. Copy it from the "
        "model again"
    )


def find_vocabulary_error(vocabulary: Mapping[str, int], embedding_count: int) -> str | None:
    """Return the error for a vocabulary that does not match a text encoder; None if it matches.

    Args:
        vocabulary: token -> id.
        embedding_count: number of embeddings of the text encoder.
    """
    token_count, largest_id = len(vocabulary), max(vocabulary.values(), default=0)
    if largest_id < embedding_count and token_count >= max(
        MIN_VOCABULARY_FRACTION * embedding_count, embedding_count - MAX_PADDING_EMBEDDINGS
    ):
        return None
    return (
        f"its tokenizer has {token_count:,} tokens (largest id {largest_id:,}), but its text encoder has "
        f"{embedding_count:,} embeddings: they belong to different models"
    )


def find_duplicate_token_error(tokenizer: Any) -> str | None:
    """Return the error for a vocabulary that contains a token twice; None if every token occurs once.

    The library uses the last of equal tokens, so a word would silently get an embedding that the model never
    learned for it.

    Args:
        tokenizer: a tokenizer of the library `tokenizers`.
    """
    if tokenizer.get_vocab_size(with_added_tokens=False) == len(tokenizer.get_vocab(with_added_tokens=False)):
        return None  # for a Unigram model, the size counts every entry, and the mapping has each token once
    entries = json.loads(tokenizer.model.__getstate__())["vocab"]
    ids: dict[str, list[int]] = {}
    for id_, (token, _) in enumerate(entries):
        ids.setdefault(token, []).append(id_)
    repeated = [token for token in ids if len(ids[token]) > 1 and not _EXTRA_TOKEN_PATTERN.fullmatch(token)]
    if not repeated:
        return None
    token, others = repeated[0], len(repeated) - 1
    more = f" (and {format_count(others, 'other token')})" if others else ""
    return (
        f"its vocabulary contains {token!r} more than once{more}, with the ids {', '.join(map(str, ids[token][:5]))}. "
        "Copy tokenizer.json from the model again"
    )


def find_token_ids(path: Path, prompt: str) -> tuple[int, ...]:
    """Return the token ids of a prompt, as the model receives them.

    Raises:
        TokenizerError: the file cannot be read.
    """
    return tuple(_load_tokenizer(path).encode(prompt).ids)


def has_tokens_for_word(path: Path, word: str, *, allows_partial: bool = False) -> bool:
    """Return whether the vocabulary covers all of a word, or with `allows_partial` at least some of it.

    Raises:
        TokenizerError: the file cannot be read.
    """
    tokenizer = _load_tokenizer(path)
    unknown_id, space_id = tokenizer.token_to_id(UNKNOWN_TOKEN), tokenizer.token_to_id(SPACE_TOKEN)
    token_ids = tokenizer.encode(word, add_special_tokens=False).ids
    are_known = [token_id not in (unknown_id, space_id) for token_id in token_ids if token_id != space_id]
    return any(are_known) if allows_partial else all(are_known)


def find_token_texts(path: Path, prompt: str, start: int, end: int) -> tuple[str, ...]:
    """Return the texts of all tokens that overlap `prompt[start:end]`; empty if the tokenizer is unreadable.

    Args:
        path: path of a tokenizer.json.
    """
    try:
        return _find_token_texts(path, _read_tokenizer_state(path), prompt, start, end)
    except TokenizerError:  # reported by `planning.token_checks`
        return ()


@lru_cache(maxsize=4096)
def _find_token_texts(path: Path, state: FileState, prompt: str, start: int, end: int) -> tuple[str, ...]:
    """Return the texts of tokens, cached until the file changes."""
    encoding = _read_tokenizer(path, state).encode(prompt)
    return tuple(
        token
        for token, (token_start, token_end), word_id in zip(
            encoding.tokens, encoding.offsets, encoding.word_ids, strict=True
        )
        if token_start < end and token_end > start and token_end > token_start and word_id is not None
    )
