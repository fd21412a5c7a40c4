"""Special tokens of a T5 tokenizer, as transformers reads them in addition to its vocabulary. Never imports torch."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wantui.models.parts import PartError, read_part_json

CONFIG_FILE = "tokenizer_config.json"
TOKEN_MAP_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"
"""Files of earlier versions of transformers, which it reads if the config has no added_tokens_decoder."""
DEFAULT_TOKENS = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
"""Special tokens of T5Tokenizer that its config need not name."""
DEFAULT_TOKEN_IDS = {"eos_token": 1, "pad_token": 0}
"""Ids of special tokens for a text encoder whose config does not name them."""
DEFAULT_EXTRA_TOKEN_COUNT = 100
"""Number of extra tokens that T5Tokenizer adds if its config does not set it."""
_REMEDY = "Copy the folder tokenizer from the model again"


def read_tokenizer_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a tokenizer; merge the files of earlier versions as transformers does.

    Args:
        folder: the folder `tokenizer` of a model, with a tokenizer.json.

    Raises:
        PartError: a file is damaged, or has a form that transformers cannot read.
    """
    config_path, tokens_path = folder / CONFIG_FILE, folder / "tokenizer.json"
    settings = read_part_json(config_path) if config_path.is_file() else {}
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"]
        if not isinstance(decoder, dict) or not all(
            token_id.isdecimal() and _get_token_text(token) is not None and isinstance(token, dict)
            for token_id, token in decoder.items()
        ):
            raise PartError(f"{config_path} has an added_tokens_decoder that does not map ids to tokens. {_REMEDY}")
        return settings
    if (map_path := folder / TOKEN_MAP_FILE).is_file():
        settings |= {name: _get_token_text(token) or token for name, token in read_part_json(map_path).items()}
    if (added_path := folder / ADDED_TOKENS_FILE).is_file():
        settings["added_tokens_decoder"] = {
            str(token_id): {"content": token} for token, token_id in read_part_json(added_path).items()
        }
    if not isinstance(read_part_json(tokens_path).get("added_tokens"), list):
        raise PartError(f"{tokens_path} has no list added_tokens, which transformers requires. {_REMEDY}")
    return settings


def find_special_token_error(
    settings: Mapping[str, Any], id_by_token: Mapping[str, int], encoder_config: Mapping[str, Any]
) -> str | None:
    """Return the error for special tokens or a padding side that the text encoder does not expect, if any.

    Args:
        settings: see `read_tokenizer_settings`.
        id_by_token: the vocabulary.
        encoder_config: config of the text encoder.
    """
    if (side := settings.get("padding_side", "right")) != "right":
        return f"padding_side is {reprlib.repr(side)}, but a Wan model needs padding on the right"
    for name, default_id in DEFAULT_TOKEN_IDS.items():
        value = settings.get(name, DEFAULT_TOKENS[name])
        token = _get_token_text(value)
        if token is None or (isinstance(value, dict) and value.get("__type") != "AddedToken"):
            return f"{name} is {reprlib.repr(value)}, which is not a token"
        expected_id = encoder_config.get(f"{name}_id", default_id)
        if type(expected_id) is int and id_by_token.get(token) != expected_id:
            id_text = f"has the id {id_by_token[token]}" if token in id_by_token else "is not in the vocabulary"
            return f"{name} is {token!r}, which {id_text}, but its text encoder has {name}_id {expected_id}"
    return None


def list_new_tokens(settings: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[str]:
    """Return the tokens that transformers adds to a vocabulary, because only the settings name them.

    Args:
        settings: see `read_tokenizer_settings`.
    """
    named_tokens = {**DEFAULT_TOKENS, **{name: token for name, token in settings.items() if name.endswith("_token")}}
    extra_tokens = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    if isinstance(extra_tokens, dict):
        extra_tokens = list(extra_tokens.values())
    if not settings.keys() & {"extra_special_tokens", "additional_special_tokens"}:
        extra_tokens = [f"<extra_id_{number}>" for number in range(_get_extra_token_count(settings))]
    if not isinstance(extra_tokens, list):
        extra_tokens = []
    decoded_tokens = (settings.get("added_tokens_decoder") or {}).values()
    tokens = map(_get_token_text, [*named_tokens.values(), *decoded_tokens, *extra_tokens])
    return [token for token in dict.fromkeys(tokens) if token is not None and token not in vocabulary]


def _get_extra_token_count(settings: Mapping[str, Any]) -> int:
    count = settings.get("extra_ids", DEFAULT_EXTRA_TOKEN_COUNT)
    return count if type(count) is int else 0  # refused by `check_tokenizer_files`


def _get_token_text(token: Any) -> str | None:
    """Return the text of a token in a JSON file, which is a string or an object; None for other values."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
