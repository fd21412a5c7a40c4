"""Warnings about prompts that a model's tokenizer maps to the same tokens, and about unknown words."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Wantui, recipe_for
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
from transformers import T5Tokenizer

from wantui.config import load_config
from wantui.generation.denoise import prepare_inputs
from wantui.generation.errors import LoadError
from wantui.generation.load import load_pipeline_parts
from wantui.generation.token_spans import MarkOutOfRangeError, tokenize_prompt
from wantui.models.catalogue import NANO, WanModel, find_model
from wantui.models.nano.attributes import CAPTION_WORDS
from wantui.models.nano.world import sample_scenes, write_captions
from wantui.models.tokenizer import (
    TokenizerError,
    check_tokenizer_fits_model,
    find_token_ids,
    find_token_texts,
    find_tokenizer_file,
)
from wantui.planning import BatchPreview, PromptMark, preview_batch
from wantui.prompts import expand_template, parse_template
from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory

pytestmark = pytest.mark.torch


def preview_nano(template: str, *settings: str) -> BatchPreview:
    return preview_batch(load_config("nano", settings), template)


def mark(prompt: str, word: str) -> tuple[PromptMark, ...]:
    start = prompt.index(word)
    return (PromptMark(text=word, start=start, end=start + len(word)),)


ALIKE = "the model cannot distinguish these variations, because they have equal tokens: {}"
NO_TOKENS = "the tokenizer of nano has no tokens for {}: it replaces them with <unk>, like all unknown text"


# A5
def test_variations_with_equal_tokens_cause_a_warning() -> None:
    warnings = preview_nano("一只[红色|蓝色]的圆").warnings
    assert warnings == (ALIKE.format("红色 and 蓝色"), NO_TOKENS.format("一只红色的圆, 一只蓝色的圆"))
    assert preview_nano("a [red|blue] circle").warnings == ()
    many = preview_nano("a circle [红|蓝|绿|黄|白|黑|紫]").warnings
    assert many[0] == ALIKE.format("红, 蓝, 绿, 黄, 白 and 2 more")


# A5
def test_different_weights_distinguish_equal_tokens() -> None:
    weights = preview_nano("a circle [(红:2) x|(蓝:3) x]")
    assert not any("cannot distinguish" in warning for warning in weights.warnings)
    assert any("cannot distinguish" in warning for warning in preview_nano("a circle [(红:2) x|(蓝:2) x]").warnings)


# A5
def test_equal_prompts_cause_one_warning() -> None:
    assert preview_nano("a [red|red] circle").warnings == ("variations red and red.2 have the same prompt",)


# A5
def test_words_unknown_to_nano_are_named() -> None:
    warnings = preview_nano("A Red elephant, (kissing) a [star|ring].").warnings
    (warning,) = [text for text in warnings if "does not know" in text]
    assert warning.startswith("nano does not know elephant, kissing; `wantui models ls` lists the ")
    assert f"the {len(CAPTION_WORDS)} words" in warning
    assert preview_nano("A large Red circle moving left.").warnings == ()
    (warning,) = preview_nano("a redd circel over squares and bluebells").warnings
    assert warning.startswith(
        "nano does not know redd (did you mean red?), circel (did you mean circle?), squares (did you mean square?), "
        "bluebells; `wantui models ls` lists the "
    )
    (warning,) = preview_nano("a star", "prompt_settings.negative_prompt=blurry").warnings
    assert "does not know blurry;" in warning


def test_words_of_a_negative_prompt_are_checked_only_if_a_pass_reads_it() -> None:
    settings = ("prompt_settings.negative_prompt=blurry", "model_settings.cfg_scale={}")
    assert any("blurry" in text for text in preview_nano("a star", *(text.format(2) for text in settings)).warnings)
    unguided = preview_nano("a star", *(text.format(1) for text in settings)).warnings
    assert not any("blurry" in text for text in unguided), unguided


def test_nano_vocabulary_equals_the_words_of_its_captions() -> None:
    captions = write_captions(sample_scenes(2000, np.random.default_rng(0)), np.random.default_rng(1))
    assert {word for caption in captions for word in caption.text.lower().rstrip(".").split()} == set(CAPTION_WORDS)


# A5
def test_other_models_are_checked_with_their_own_tokenizers(tiny_models: dict[str, WanModel]) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    letters = [(letter, -10.0) for letter in ("▁", *"abcdefghijklmnopqrstuvwxyz")]
    T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0), *letters], extra_ids=0).save_pretrained(
        folder / "tokenizer"
    )
    config_path = folder / "text_encoder" / "config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"vocab_size": 30}))
    asked = f"model_settings.model_id={folder}"
    warnings = preview_nano("[RED|blue|GREEN] elephant", asked).warnings
    assert "RED, GREEN: it replaces them with <unk>" in warnings[-1]
    assert warnings[-2] == ALIKE.format("red and green")
    assert ALIKE.format("一 and 二") in preview_nano("[一|二] elephant", asked).warnings
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    assert find_token_texts((folder / "tokenizer" / "tokenizer.json").resolve(), "a star", 2, 6) == ()


LOWERCASE = {"type": "Lowercase"}
EDITS: dict[str, dict[str, object]] = {
    "normaliser": {"normalizer": LOWERCASE},
    "normalisers": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, LOWERCASE]}},
    "pre-tokeniser": {"pre_tokenizer": {"type": "Whitespace"}},
    "no pre-tokeniser": {"pre_tokenizer": None},
    "no end": {"post_processor": None},
    "truncation": {"truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}},
    "padding": {
        "padding": {
            "strategy": {"Fixed": 32},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        }
    },
    "unknown": {"unk_id": 5},
    "bytes": {"byte_fallback": True},
}
"""What a tokenizer.json may say about text that T5Tokenizer replaces, by the name of a test."""


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_tokens_equal_the_pipeline_for_any_tokenizer_stages(
    tiny_models: dict[str, WanModel], edit: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    path = (folder / "tokenizer" / "tokenizer.json").resolve()
    content = json.loads(path.read_text())
    content["model"] |= {name: value for name, value in edit.items() if name in content["model"]}
    content |= {name: value for name, value in edit.items() if name in content}
    content["model"]["vocab"] += [[f"<0x{byte:02X}>", -9.0] for byte in range(256)]
    path.write_text(json.dumps(content))
    assert path.read_text().count("unk_id") == 1
    pipeline = T5Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    for prompt in ("A large RED circle, moving left. Ａ naïve ½ 圆 🦀 (star)!", "", "star", " a  star ", "left-right"):
        encoded = pipeline(prompt, truncation=True, max_length=512, return_offsets_mapping=True)
        assert find_token_ids(path, prompt) == tuple(encoded["input_ids"])
        if "star" in prompt:
            start = prompt.index("star")
            (word,) = tokenize_prompt(pipeline, prompt, mark(prompt, "star")).words
            assert find_token_texts(path, prompt, start, start + 4) == word.token_texts


WORD_LEVEL = {"type": "WordLevel", "vocab": {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}, "unk_token": "<unk>"}


# A1
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("{}", "cannot be read as a tokenizer: Model missing"),
        ("[]", "cannot be read as a tokenizer: invalid type: sequence"),
        ("null", "cannot be read as a tokenizer"),
        ("\ufeff{}", "cannot be read as a tokenizer"),
        (WORD_LEVEL, "contains a WordLevel tokenizer, but T5Tokenizer loads a Unigram tokenizer"),
        (5000, "its tokenizer has 5,134 tokens (largest id 5,133), but its text encoder has"),
        ((("▁red", 40),), "its vocabulary contains '▁red' more than once, with the ids 26, 40. Copy tokenizer.json"),
        ((("▁a", 9), ("▁red", 40)), "contains '▁a' more than once (and 1 other token), with the ids 3, 9"),
    ],
    ids=["object", "list", "null", "mark", "kind", "vocabulary", "duplicate", "duplicates"],
)
def test_unloadable_tokenizer_is_refused_before_queueing(
    wantui: Wantui, tiny_models: dict[str, WanModel], damage: object, message: str
) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    path = folder / "tokenizer" / "tokenizer.json"
    if not isinstance(damage, str):
        content = json.loads(path.read_text())
        if isinstance(damage, int):
            content["model"]["vocab"] += [[f"▁w{number}", -5.0] for number in range(damage)]
        elif isinstance(damage, tuple):
            for token, number in damage:
                content["model"]["vocab"][number][0] = token
        else:
            content["model"] = damage
        damage = json.dumps(content)
    path.write_text(damage)
    result = wantui("run", "-t", "a [red|blue] star", "--set", f"model_settings.model_id={folder}")
    assert result.code == 2
    assert message in result.err
    assert not Path("outputs").exists()
    with closing(Queue(find_state_directory().directory)) as queue:
        assert queue.list_batches() == []


@pytest.mark.parametrize("content", ["[]", "{", "null"])
def test_unreadable_tokenizer_config_is_refused_before_queueing(
    wantui: Wantui, tiny_models: dict[str, WanModel], content: str
) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(content)
    result = wantui("run", "-t", "a [red|blue] star", "--set", f"model_settings.model_id={folder}")
    assert result.code == 2
    assert "tokenizer/tokenizer_config.json" in result.err
    assert not Path("outputs").exists()


def added_token(text: str) -> dict[str, object]:
    return {
        "content": text,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


PAD_DECODER = {"0": added_token("<pad>")}
TOKENIZER_CHANGES: list[dict[str, dict[str, object]]] = [
    {},
    {"tokenizer_config": {"pad_token": "</s>"}},
    {"tokenizer_config": {"pad_token": "<padding>"}},
    {"tokenizer_config": {"pad_token": None}},
    {"tokenizer_config": {"pad_token": 0}},
    {"tokenizer_config": {"eos_token": None}},
    {"tokenizer_config": {"eos_token": "▁a"}},
    {"tokenizer_config": {"eos_token": added_token("</s>")}},
    {"tokenizer_config": {"eos_token": added_token("</s>") | {"__type": "AddedToken"}}},
    {"tokenizer_config": {"unk_token": None}},
    {"tokenizer_config": {"padding_side": "left"}},
    {"tokenizer_config": {"padding_side": None}},
    {"tokenizer_config": {"extra_special_tokens": ["<x>"]}},
    {"tokenizer_config": {"extra_special_tokens": [], "additional_special_tokens": ["<x>"]}},
    {"tokenizer_config": {"extra_special_tokens": {"image_token": "<x>"}}},
    {"tokenizer_config": {"extra_special_tokens": [], "extra_ids": 300}},
    {"tokenizer_config": {"extra_special_tokens": None, "extra_ids": 3}},
    {"tokenizer_config": {"extra_special_tokens": "remove", "extra_ids": 3}},
    {"tokenizer_config": {"extra_special_tokens": "remove", "extra_ids": "remove"}},
    {"tokenizer_config": {"image_token": "<x>"}},
    {"tokenizer_config": {"bos_token": "<x>"}},
    {"tokenizer_config": {"added_tokens_decoder": PAD_DECODER}},
    {"tokenizer_config": {"added_tokens_decoder": PAD_DECODER}, "special_tokens_map": {"pad_token": "</s>"}},
    {"tokenizer_config": {"added_tokens_decoder": {"0": "<pad>"}}},
    {"tokenizer_config": {"added_tokens_decoder": {"x": added_token("<pad>")}}},
    {"tokenizer_config": {"added_tokens_decoder": PAD_DECODER}, "tokenizer": {"added_tokens": "remove"}},
    {"tokenizer": {"added_tokens": "remove"}},
    {"tokenizer": {"added_tokens": []}},
    {"special_tokens_map": {"pad_token": "</s>"}},
    {"special_tokens_map": {"pad_token": added_token("<pad>")}},
    {"added_tokens": {"<x>": 134}},
    {"added_tokens": {"<pad>": 0}},
]


@pytest.mark.parametrize("changes", TOKENIZER_CHANGES, ids=str)
def test_tokenizer_is_refused_before_queueing_exactly_if_transformers_would_read_it_wrong(
    tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch, changes: dict[str, dict[str, object]]
) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    for name, values in changes.items():
        path = folder / "tokenizer" / f"{name}.json"
        content = (json.loads(path.read_text()) if path.is_file() else {}) | values
        path.write_text(json.dumps({key: value for key, value in content.items() if value != "remove"}))
    encoder_config = json.loads((folder / "text_encoder" / "config.json").read_text())
    embedding_count = encoder_config["vocab_size"]
    try:
        loaded = T5Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception:  # the type depends on the fault
        is_right = False
    else:
        special_ids = [loaded.pad_token_id, loaded.eos_token_id]
        is_right = (
            special_ids == [encoder_config["pad_token_id"], encoder_config["eos_token_id"]]
            and loaded.padding_side == "right"
            and max(loaded.get_vocab().values()) < embedding_count
        )
    if is_right:
        check_tokenizer_fits_model(folder / "tokenizer" / "tokenizer.json")
        return
    with pytest.raises(TokenizerError, match=r"model/tokenizer.*(Copy|they belong to different models)"):
        check_tokenizer_fits_model(folder / "tokenizer" / "tokenizer.json")


def test_tokenizer_without_added_tokens_is_named_when_the_model_is_loaded(tiny_models: dict[str, WanModel]) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    del content["added_tokens"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        LoadError, match=r"tokenizer\.json has no list added_tokens, which transformers requires\. Copy"
    ):
        load_pipeline_parts(find_model(str(folder.absolute())), None, "float32")


def test_embedding_of_the_pad_token_changes_no_text_embedding(tiny_models: dict[str, WanModel]) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    actual = []
    for value in (0.0, 3.0):
        for name in ("shared.weight", "encoder.embed_tokens.weight"):
            if name in tensors:
                tensors[name][0] = value
        save_file(tensors, path, {"format": "pt"})
        pipeline = load_pipeline_parts(find_model(str(folder.absolute())), None, "float32")
        with torch.no_grad():
            actual.append(pipeline.encode_prompt("a red star", "", max_sequence_length=512, device="cpu"))
    assert all(torch.equal(*pair) for pair in zip(*actual, strict=True))


def test_duplicate_extra_tokens_are_accepted(tiny_models: dict[str, WanModel]) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    path = (folder / "tokenizer" / "tokenizer.json").resolve()
    content = json.loads(path.read_text())
    before = find_token_ids(path, "a red star")
    content["model"]["vocab"] += [["<extra_id_0>", 0.0], ["<extra_id_0>", 0.0]]
    path.write_text(json.dumps(content))
    assert find_token_ids(path, "a red star") == before


# A5
@pytest.mark.parametrize("command", ["preview", "run"])
def test_preview_and_run_warn_about_variations_with_equal_tokens(wantui: Wantui, command: str) -> None:
    options = ["--set", "model_settings.steps=1", "--set", "video_settings.frames=1", "--videos-per-variation", "1"]
    result = wantui(command, "-t", "一只[红色|蓝色]的圆", *options)
    assert result.code == 0
    assert f"warning: {ALIKE.format('红色 and 蓝色')}" in result.err
    if command == "preview":
        actual = json.loads(wantui(command, "-t", "一只[红色|蓝色]的圆", "--json").out)
        assert ALIKE.format("红色 and 蓝色") in actual["warnings"]


# A5
def test_marked_words_without_tokens_are_refused_if_weighted_or_captured(wantui: Wantui) -> None:
    message = "the model's tokenizer has no tokens for the marked 圆, 红: mark other words"
    assert preview_nano("a [(圆)|(红)] circle").refusals == ()
    assert preview_nano("a [(圆:2)|(红)] circle").refusals == (message,)
    store = "attention_analysis_settings.store_attention=true"
    assert preview_nano("a [(圆)|(红)] circle", store).refusals == (message,)
    assert preview_nano("a (红 circle)", store).refusals == ()


# A5
def test_marked_word_without_tokens_is_not_reported_as_out_of_range(nano: WanPipeline) -> None:
    for prompt, word in (("a 红色 circle", "红色"), ("红色 circle", "红色"), ("一只红色的圆", "红色")):
        with pytest.raises(
            MarkOutOfRangeError, match=rf"does not read the marked '{word}' .*no tokens for it \(<unk>\)"
        ):
            tokenize_prompt(nano.tokenizer, prompt, mark(prompt, word))
    far = "a star and " * 300 + "红色"
    with pytest.raises(MarkOutOfRangeError, match=r"it reads only 512 tokens\. Shorten the prompt"):
        tokenize_prompt(nano.tokenizer, far, mark(far, "红色"))
    (naive,) = tokenize_prompt(nano.tokenizer, "a naïve circle", mark("a naïve circle", "naïve")).words
    assert naive.token_texts == ("▁", "n", "a", "<unk>", "v", "e")
    recipe = recipe_for(NANO, prompt="a 红色 circle", marks=mark("a 红色 circle", "红色"), weighting="multiply")
    with pytest.raises(MarkOutOfRangeError, match="no tokens for it"):
        prepare_inputs(nano, recipe)


def ids(template: str) -> list[str]:
    return [variation.id for variation in expand_template(parse_template(template))]


# A5
def test_ids_of_options_without_letters_are_unicode_names() -> None:
    assert ids("a [🔴|🔵] ball") == ["large-red-circle", "large-blue-circle"]
    assert ids("[红色|蓝色] [—|…]") == [
        "红色_em-dash",
        "红色_horizontal-ellipsis",
        "蓝色_em-dash",
        "蓝色_horizontal-ellipsis",
    ]
    assert ids("a [लड़की|लड़का]") == ["लड़की", "लड़का"]
    assert ids("from [🇫🇷|🇩🇪]") == ["fr", "de"]
    assert ids("[👍🏻|👍🏿]") == [
        "thumbs-up-sign-emoji-modifier-fitzpatrick-type-1-2",
        "thumbs-up-sign-emoji-modifier-fitzpatrick-type-6",
    ]


def test_nano_tokenizer_is_bundled() -> None:
    assert find_tokenizer_file(NANO, None) == Path(NANO.location) / "tokenizer" / "tokenizer.json"


def test_ids_of_ascii_options_are_stable_across_versions() -> None:
    assert ids("[a -b|A__b|x!|y  z.|] ball") == ["a-b", "a--b", "x", "y-z", "none"]
    assert ids("[!|?]x") == ["none-bb7208bc", "none-8a8de823"]


def test_long_words_are_shortened_in_warnings() -> None:
    (warning,) = [text for text in preview_nano("a " + "b" * 50_000).warnings if "does not know" in text]
    assert "bbb ... bbb" in warning
    assert len(warning) < 1000


def test_invisible_unknown_word_is_shown_escaped() -> None:
    assert any(r"no tokens for '\u200b': it replaces" in text for text in preview_nano("a \u200b circle").warnings)
