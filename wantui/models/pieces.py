"""The pieces into which a model's tokenizer cuts words, without torch: what a marked word's attention is stored for."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from wantui.models.catalogue import WanModel
from wantui.models.fingerprint import snapshot_in_cache


def tokenizer_file(model: WanModel, revision: str | None) -> Path | None:
    """The tokenizer of a model, if it is on this machine."""
    if model.is_local:
        path = Path(model.location) / "tokenizer" / "tokenizer.json"
        return path if path.is_file() else None
    folder = snapshot_in_cache(model.location, revision)
    if folder is None or not (folder / "tokenizer" / "tokenizer.json").is_file():
        return None
    return folder / "tokenizer" / "tokenizer.json"


@lru_cache(maxsize=4)
def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


@lru_cache(maxsize=4096)
def pieces(path: Path, prompt: str, start: int, end: int) -> tuple[str, ...]:
    """The pieces of `prompt[start:end]`: every token that shares a character with it.

    Args:
        path: of a tokenizer.json.
    """
    encoded = _tokenizer(path).encode(prompt)
    return tuple(
        token
        for token, (first, last), word in zip(encoded.tokens, encoded.offsets, encoded.word_ids, strict=True)
        if first < end and last > start and last > first and word is not None
    )
