"""What a model's tokenizer makes of text, without torch: tokens, and the pieces into which it cuts words."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from wantui.errors import UserError
from wantui.models.catalogue import WanModel
from wantui.models.fingerprint import snapshot_in_cache

SPACE = "▁"
"""Begins a word in the vocabularies of T5; a token of it alone stands for no text."""
UNKNOWN = "<unk>"


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
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more exact
        raise TokenizerError(f"{path} cannot be read as a tokenizer: {error}") from None


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
def pieces(path: Path, prompt: str, start: int, end: int) -> tuple[str, ...]:
    """Return the pieces of `prompt[start:end]`: every token that shares a character with it; none of a broken file.

    Args:
        path: of a tokenizer.json.
    """
    try:
        encoded = _tokenizer(path).encode(prompt)
    except TokenizerError:  # of which `planning.token_checks` warns
        return ()
    return tuple(
        token
        for token, (first, last), word in zip(encoded.tokens, encoded.offsets, encoded.word_ids, strict=True)
        if first < end and last > start and last > first and word is not None
    )
