"""LoRA files during planning: what the recipe records, and one error for each kind of unusable file."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Wantui, recipe_for
from huggingface_hub import constants
from safetensors.numpy import save_file

from wantui.analysis.loading import collect_control_settings
from wantui.config import ConfigError, load_config
from wantui.config.dump import dump_settings
from wantui.config.flow_values import format_flow_text
from wantui.config.load import parse_config
from wantui.controls.lora import LoraAdapter, LoraFile, LoraRequest
from wantui.models import adapters
from wantui.models.adapter_header import read_adapter_header
from wantui.models.adapter_layout import list_layer_shapes, match_adapter_layers
from wantui.models.adapters import AdapterError, PackagedAdapter, hash_adapter_file
from wantui.models.catalogue import NANO, WanModel, find_model
from wantui.planning import Recipe, plan_batch, preview_batch

Tensors = dict[str, np.ndarray[Any, Any]]


def tensors_for(model: WanModel, rank: int = 2, blocks: int = 1) -> Tensors:
    """The factors of queries and keys of the first blocks of a model, in the format of diffusers."""
    width = model.transformer_width
    return {
        f"transformer.blocks.{block}.attn1.{name}.lora_{letter}.weight": np.ones(shape, np.float16)
        for block in range(blocks)
        for name in ("to_q", "to_k")
        for letter, shape in (("A", (rank, width)), ("B", (width, rank)))
    }


def write(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], metadata: dict[str, str] | None = None) -> Path:
    save_file(dict(tensors), path, metadata)
    return path


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return write(tmp_path / "style.safetensors", tensors_for(NANO))


def plan(*adapter_texts: str, settings: tuple[str, ...] = (), config: str = "nano") -> Any:
    text = json.dumps([parse(adapter) for adapter in adapter_texts])
    return preview_batch(load_config(config, [f"lora_settings.adapters={text}", *settings]), "a star")


def parse(adapter: str) -> Any:
    return json.loads(adapter) if adapter.startswith("{") else adapter


def test_recipe_keeps_path_fingerprint_and_strength(style: Path) -> None:
    preview = plan(f"{style}:0.8")
    assert not preview.refusals
    (adapter,) = preview.first_recipe.controls["lora"].adapters
    assert (adapter.name, adapter.strength, adapter.source.path) == ("style", 0.8, str(style))
    assert adapter.source.fingerprint == hash_adapter_file(style)
    assert Recipe.model_validate_json(preview.first_recipe.to_json()) == preview.first_recipe
    assert "LoRA style 0.8" in preview.first_recipe.computation_note


def test_recipe_without_adapters_is_unchanged(style: Path) -> None:
    without = preview_batch(load_config("nano"), "a star").first_recipe
    assert plan().first_recipe == without
    assert "controls" not in json.loads(without.to_json())
    assert plan(str(style)).first_recipe.digest != without.digest


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("x:y/a:b.safetensors:1e-2", "x:y/a:b.safetensors", 0.01),
        ("x:y/a:b.safetensors", "x:y/a:b.safetensors", 1.0),
        ("v:2:1", "v:2", 1.0),
    ],
)
def test_strength_follows_the_last_colon_of_a_path(text: str, path: str, strength: float) -> None:
    (adapter,) = parse_config(
        "", "x", options={}, overrides=[f"lora_settings.adapters=['{text}']"]
    ).settings.lora_settings.adapters
    assert (adapter.path, adapter.strength) == (path, strength)


def test_settings_are_read_back_from_their_yaml(style: Path) -> None:
    config = load_config("nano", [f"lora_settings.adapters=[{style}:0.5, {{path: b.safetensors, name: other}}]"])
    assert parse_config(dump_settings(config.settings), "x").settings == config.settings
    assert [adapter.name for adapter in config.settings.lora_settings.adapters] == ["style", "other"]


@pytest.mark.parametrize(
    ("adapters_text", "line"),
    [
        ("[a.safetensors:0.5, b.safetensors]", '["a.safetensors:0.5", b.safetensors]'),
        ("[{path: 'v:2'}, {path: c, name: other}]", '[{path: "v:2", name: "v:2"}, {path: c, name: other}]'),
        ("[{path: a.b, strength: 0.1, strength_2: 0}]", "[{path: a.b, strength: 0.1, strength_2: 0, name: a}]"),
    ],
)
def test_form_shows_the_short_text_of_an_adapter_where_it_is_complete(adapters_text: str, line: str) -> None:
    settings = load_config("nano", [f"lora_settings.adapters={adapters_text}"]).settings
    shown = format_flow_text(settings.lora_settings.adapters)
    assert load_config("nano", [f"lora_settings.adapters={shown}"]).settings == settings
    assert shown == line.replace('name: "v:2"', "name: v_2")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[a.safetensors:nan]", "should be a number in decimal digits"),
        ("[{path: a.safetensors, strength: inf}]", "should be a number in decimal digits"),
        ("[{path: a.safetensors, strength: 10.5}]", "less than or equal to 10"),
        ("[{path: a.safetensors, strength: much}]", "should be a number in decimal digits"),
        ("[{path: a.safetensors, weight: 1}]", "unknown key"),
        ("[{strength: 1}]", "lora_settings.adapters.0.path"),
        ("[{path: ''}]", "lora_settings.adapters.0.path"),
        ("[a.safetensors, b/a.safetensors]", "two adapters have the name a. Give one of them another `name`"),
        ("[{path: a.safetensors, name: 'a b'}]", "lora_settings.adapters.0.name"),
        ("[{path: a.safetensors, strength: {0: 1, 50%: 0}}]", "strengths that change over the steps are not supported"),
        ("[{path: a.safetensors, strength_2: [1, 0]}]", "strengths that change over the steps are not supported"),
        ("[{path: a.safetensors, strength: 11}]", "--set: lora_settings.adapters.0.strength: "),
    ],
)
def test_meaningless_adapter_setting_is_refused_by_name(value: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load_config("nano", [f"lora_settings.adapters={value}"])


def test_options_of_the_command_line_replace_the_adapters_of_the_config(
    wantui: Wantui, style: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "a:b.safetensors", tensors_for(NANO))
    result = wantui("preview", "-t", "a star", "--lora", f"{style}:0.25", "--lora", other, "--json")
    assert result.code == 0, result.err
    recipe = json.loads(result.out)["recipe"]
    assert [(item["name"], item["strength"]) for item in recipe["controls"]["lora"]["adapters"]] == [
        ("style", 0.25),
        ("a_b", 1.0),
    ]
    assert "LoRA style 0.25" in wantui("preview", "-t", "a star", "--lora", f"{style}:0.25").out


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "none.safetensors", r"none\.safetensors does not exist\. Give the path"),
        (lambda _: "nano-stlye", r"nano-stlye does not exist\. Did you mean the packaged adapter nano-style\?"),
        (lambda _: "nano-style:x", r"not a number\. Write the strength there, as in nano-style:0\.5"),
        (lambda folder: folder, r"is a folder\. Give the path of a \.safetensors file in it"),
        (lambda folder: _write_bytes(folder / "a.pt", b"PK"), "is a pickle file, which can run arbitrary code"),
        (lambda folder: _write_bytes(folder / "a.bin", b"PK"), "is a pickle file, which can run arbitrary code"),
        (lambda folder: _write_bytes(folder / "a.safetensors", b""), "is not a safetensors file, or is incomplete"),
        (lambda folder: _write_bytes(folder / "a.safetensors", b"x" * 99), "is not a safetensors file"),
        (lambda folder: _write_bytes(folder / "a.safetensors", b"version https://git-lfs.x\n"), "Git LFS pointer"),
        (lambda folder: _cut(write(folder / "a.safetensors", tensors_for(NANO))), "is incomplete or damaged"),
        (lambda folder: f"{write(folder / 'a.safetensors', tensors_for(NANO))}:x", "Write the strength there"),
        (lambda folder: "owner/name", "set `file` to its name in the repository"),
    ],
)
def test_file_that_cannot_be_read_is_refused(make: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=rf"^lora_settings\.adapters: cannot use .*{reason}"):
        plan(str(make(tmp_path)))


def _write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _cut(path: Path) -> Path:
    return _write_bytes(path, path.read_bytes()[:-1])


FIRST, SECOND = (f"transformer.blocks.0.attn1.to_q.lora_{letter}.weight" for letter in "AB")
SIZE = 4 * 2 * 192
"""Bytes of each of these factors."""


def make_header(**changes: Any) -> dict[str, Any]:
    """Return the header of a file with the factors of one layer, with changes of its first tensor."""
    return {
        FIRST: {"dtype": "F32", "shape": [2, 192], "data_offsets": [0, SIZE], **changes},
        SECOND: {"dtype": "F32", "shape": [192, 2], "data_offsets": [SIZE, 2 * SIZE]},
    }


def write_header(path: Path, header: object) -> Path:
    text = json.dumps(header).encode()
    return _write_bytes(path, len(text).to_bytes(8, "little") + text + bytes(2 * SIZE))


@pytest.mark.parametrize(
    "header",
    [
        make_header(data_offsets=[0, SIZE - 4]),
        make_header(data_offsets=[0, 2 * SIZE]),
        make_header(data_offsets=[4, SIZE]),
        make_header(data_offsets=[SIZE, 0]),
        make_header(data_offsets=[-4, SIZE]),
        make_header(data_offsets=[False, SIZE]),
        make_header(data_offsets=[0, SIZE, 0]),
        make_header(shape=[2.0, 192.0]),
        make_header(shape=[float("inf"), 192]),
        make_header(shape=["2", "192"]),
        make_header(shape=[-2, -192]),
        make_header(shape="2192"),
        make_header(shape=[2**62, 192]),
        make_header(shape=[3, 192]),
        make_header(dtype="F64"),
        make_header(dtype="F99"),
        make_header() | {"__metadata__": {"a": 1}},
        [make_header()],
    ],
)
def test_damaged_header_is_refused_when_planned(header: object, tmp_path: Path) -> None:
    plan(str(write_header(tmp_path / "whole.safetensors", make_header())))
    path = write_header(tmp_path / "damaged.safetensors", header)
    message = r"cannot use .*damaged\.safetensors.* is incomplete or damaged \(.+\)\. Copy it again"
    with pytest.raises(AdapterError, match=message):
        plan(str(path))


@pytest.mark.parametrize("settings", ["[" * 100_000, "[]"])
def test_metadata_that_is_no_object_is_refused_when_planned(settings: str, tmp_path: Path) -> None:
    header = make_header() | {"__metadata__": {"lora_adapter_metadata": settings}}
    with pytest.raises(AdapterError, match=r"a\.safetensors has damaged metadata \(lora_adapter_metadata\)\. Copy it"):
        plan(str(write_header(tmp_path / "a.safetensors", header)))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ('{"transformer.r": "x"}', "r 'x', but needs a positive integer"),
        ('{"transformer.r": 0}', "r 0, but needs a positive integer"),
        ('{"transformer.r": true}', "r True, but needs a positive integer"),
        ('{"transformer.r": 1000000000000}', "gives blocks.0.attn1.to_. rank 1000000000000, but .* rank 2"),
        ('{"transformer.lora_alpha": 16}', "gives blocks.0.attn1.to_. rank 8, but .* rank 2"),
        ('{"transformer.r": 2, "transformer.lora_alpha": NaN}', "lora_alpha nan, but needs a positive number"),
        ('{"transformer.r": 2, "transformer.lora_alpha": 1e999}', "lora_alpha inf, but needs a positive number"),
        ('{"transformer.r": 2, "transformer.lora_alpha": 0}', "lora_alpha 0, but needs a positive number"),
        ('{"transformer.r": 2, "transformer.lora_alpha": -8}', "lora_alpha -8, but needs a positive number"),
        ('{"transformer.r": 2, "transformer.lora_alpha": null}', "lora_alpha None, but needs a positive number"),
        ('{"transformer.r": 2, "transformer.use_rslora": "no"}', "use_rslora 'no', but needs true or false"),
        ('{"transformer.r": 2, "transformer.alpha_pattern": [1]}', r"alpha_pattern \[1\], but needs an object"),
        (
            '{"transformer.r": 2, "transformer.alpha_pattern": {"(": 3}}',
            r"alpha_pattern '\(', but needs names of layers",
        ),
        ('{"transformer.r": 2, "transformer.rank_pattern": {"([a-z]+)+!": 2}}', "rank_pattern .*but needs names of"),
        ('{"transformer.r": 2, "transformer.alpha_pattern": {"to_q": NaN}}', "alpha_pattern.to_q nan, but needs a pos"),
        ('{"transformer.r": 2, "transformer.rank_pattern": {"to_q": 3}}', "gives blocks.0.attn1.to_q rank 3, but"),
    ],
)
def test_unusable_settings_in_the_metadata_are_refused_when_planned(settings: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", tensors_for(NANO), {"lora_adapter_metadata": settings})
    (refusal,) = plan(str(path)).refusals
    assert re.search(rf"its metadata \(lora_adapter_metadata\) (has )?{reason}", refusal), refusal


def test_settings_in_the_metadata_that_peft_can_use_are_accepted(tmp_path: Path) -> None:
    settings = {
        "transformer.r": 3,
        "transformer.rank_pattern": {"to_q": 2, r"^blocks\.0\.attn1\.to_k": 2},
        "transformer.lora_alpha": 0.5,
        "transformer.alpha_pattern": {"attn1.to_k": 4},
        "transformer.use_rslora": True,
    }
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    assert not plan(str(write(tmp_path / "a.safetensors", tensors_for(NANO), metadata))).refusals


LARGE = find_model("wan2.1-14b")
ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (tensors_for(LARGE), r"it is for wan2\.1-14b or wan2\.2-a14b, not for nano, whose transformer has width 192"),
        (tensors_for(find_model("wan2.1-1.3b")), r"it is for wan2\.1-1\.3b, not for nano"),
        ({"transformer.blocks.0.attn1.to_q.weight": ONE}, "it is not a LoRA: none of its 1 tensors is a LoRA factor"),
        ({}, "it has no tensors"),
        (
            {"lora_unet_down_blocks_0.lora_down.weight": ONE, "lora_unet_down_blocks_0.lora_up.weight": ONE},
            "it is for another architecture. Its first is lora_unet_down_blocks_0",
        ),
        (tensors_for(NANO) | {"transformer.blocks.0.attn1.to_q.dora_scale": ONE}, "it is a DoRA .* not supported"),
        ({"diffusion_model.blocks.0.self_attn.q.lokr_w1": ONE}, "it is a LoKr .* not supported"),
        ({"base_model.model.blocks.0.attn1.to_q.lora_A.weight": ONE}, "it is a peft checkpoint"),
        ({"transformer_2.blocks.0.attn1.to_q.lora_A.weight": ONE}, "it has tensors of a second transformer"),
        (
            {name: value for name, value in tensors_for(NANO).items() if "to_k.lora_B" not in name},
            r"it is incomplete: it has transformer\.blocks\.0\.attn1\.to_k\.lora_A\.weight, but not the other factor",
        ),
        (
            tensors_for(NANO) | {"transformer.blocks.0.attn1.to_q.lora_B.weight": np.ones((192, 3), np.float16)},
            "has rank 2, but .* has rank 3",
        ),
        (
            tensors_for(NANO)
            | {
                "transformer.blocks.0.attn1.to_q.lora_A.weight": np.ones((0, 192), np.float16),
                "transformer.blocks.0.attn1.to_q.lora_B.weight": np.ones((192, 0), np.float16),
            },
            "to_q.lora_A.weight or .*to_q.lora_B.weight has no values. Copy it again",
        ),
        (
            {name: value.astype(np.int8) for name, value in tensors_for(NANO).items()},
            "is stored as I8. Use a file in BF16, F16, F32, F64",
        ),
        (
            tensors_for(NANO) | {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": np.ones((2, 192), np.float16)},
            "it has two tensors for the same purpose",
        ),
    ],
)
def test_file_that_does_not_fit_the_model_is_refused_before_a_batch_is_made(
    tensors: Tensors, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "other.safetensors", tensors)
    (refusal,) = plan(str(path)).refusals
    assert re.match(rf"lora_settings\.adapters: cannot use other \({re.escape(str(path))}\): .*{reason}", refusal)


def test_dora_in_the_metadata_is_refused(tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})}
    (refusal,) = plan(str(write(tmp_path / "a.safetensors", tensors_for(NANO), metadata))).refusals
    assert "it is a DoRA" in refusal


def test_tensors_that_are_not_applied_are_counted(tmp_path: Path) -> None:
    own = "diffusion_model.blocks.0"
    extra = {
        f"{own}.cross_attn.k_img.lora_down.weight": ONE,
        f"{own}.cross_attn.k_img.lora_up.weight": ONE,
        f"{own}.norm3.diff": ONE,
        f"{own}.self_attn.norm_q.diff": ONE,
        "transformer.blocks.8.attn1.to_q.lora_A.weight": ONE,
    }
    preview = plan(str(write(tmp_path / "a.safetensors", tensors_for(NANO) | extra)))
    assert not preview.refusals
    (warning,) = [warning for warning in preview.warnings if "lora_settings" in warning]
    assert warning.endswith(
        "4 of its 9 tensors are applied; 2 are for the image input of image-to-video models and 2 are weight "
        "differences "
        "that diffusers ignores too and 1 match no layer of the model, such as "
        "transformer.blocks.8.attn1.to_q.lora_A.weight"
    )


@pytest.mark.parametrize("model", ["nano", "wan2.1-1.3b", "wan2.1-14b", "wan2.2-5b", "wan2.2-a14b"])
def test_layers_of_published_models_are_matched_by_all_their_names(model: str, tmp_path: Path) -> None:
    sizes = list_layer_shapes(find_model(model))
    own = {
        "diffusion_model.blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0",
        "lora_unet_blocks_2_ffn_0": "blocks.2.ffn.net.0.proj",
        "lora_unet__blocks_3_ffn_2": "blocks.3.ffn.net.2",
        "diffusion_model.text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "diffusion_model.time_projection.1": "condition_embedder.time_proj",
        "blocks.4.self_attn.v": "blocks.4.attn1.to_v",
        "transformer.proj_out": "proj_out",
    }
    tensors = {}
    for prefix, layer in own.items():
        outputs, inputs = sizes[layer]
        tensors[f"{prefix}.lora_A.weight"] = np.ones((1, inputs), np.float16)
        tensors[f"{prefix}.lora_B.weight"] = np.ones((outputs, 1), np.float16)
    header = read_adapter_header(write(tmp_path / "a.safetensors", tensors))
    layout = match_adapter_layers(header, sizes, model)
    assert {layer.name for layer in layout.layers} == set(own.values())
    assert layout.unapplied_keys == ()


def test_second_file_and_strength_are_for_models_with_two_transformers(style: Path) -> None:
    (refusal,) = plan(json.dumps({"path": str(style), "strength_2": 0.5})).refusals
    assert "style has path_2, file_2 or strength_2, which are for models with two transformers; nano has one" in refusal


def test_file_named_after_the_other_transformer_causes_a_warning(tmp_path: Path) -> None:
    a14b = find_model("wan2.2-a14b")
    high = write(tmp_path / "style_high_noise.safetensors", tensors_for(a14b))
    low = write(tmp_path / "style_LOW.safetensors", tensors_for(a14b))
    model = ("model_settings.model_id=wan2.2-a14b",)

    def warnings_of(adapter: dict[str, object]) -> list[str]:
        preview = plan(json.dumps(adapter), settings=model)
        assert not [refusal for refusal in preview.refusals if "lora" in refusal]
        return [warning for warning in preview.warnings if "lora_settings" in warning]

    (warning,) = warnings_of({"path": str(high)})
    assert "suggests high noise, but the file also changes the low-noise transformer" in warning
    (warning,) = warnings_of({"path": str(low), "path_2": str(low)})
    assert "suggests low noise, but the file also changes the high-noise transformer" in warning
    assert not warnings_of({"path": str(high), "path_2": str(low)})
    assert not warnings_of({"path": str(high), "strength_2": 0})


def test_adapters_for_gguf_weights_are_refused() -> None:
    from wantui.controls.lora import find_conflicts
    from wantui.planning.model_source import TransformerFile

    file = LoraFile(path="/none.safetensors", fingerprint="0" * 64)
    gguf = TransformerFile(path="/a.gguf", fingerprint="1", bytes=1)
    for strength in (1.0, 0.0):
        request = LoraRequest(adapters=(LoraAdapter(name="a", source=file, strength=strength),))
        recipe = recipe_for(NANO, weights="gguf", transformer_file=gguf)
        refused = [text for text in find_conflicts(request, recipe) if "GGUF" in text]
        assert bool(refused) == (strength != 0)


def test_packaged_adapter_is_found_by_name(style: Path, monkeypatch: pytest.MonkeyPatch, wantui: Wantui) -> None:
    packaged = PackagedAdapter("nano-style", style, "nano", "stripes")
    monkeypatch.setattr(adapters, "PACKAGED_ADAPTERS", (packaged,))
    (adapter,) = plan("nano-style:0.5").first_recipe.controls["lora"].adapters
    assert (adapter.name, adapter.source.path, adapter.strength) == ("nano-style", "nano-style", 0.5)
    assert adapter.source.locate().local_path == style
    with pytest.raises(AdapterError, match=r"Did you mean the packaged adapter nano-style\?"):
        plan("nano-stile")
    assert json.loads(wantui("models", "adapters", "--json").out) == [
        {"name": "nano-style", "model": "nano", "path": str(style), "description": "stripes"}
    ]
    assert "nano-style  nano   stripes" in wantui("models", "adapters").out


def test_file_of_the_hub_is_pinned_or_its_download_command_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "c" * 40
    adapter = json.dumps({"path": "ann/style", "file": "low/a.safetensors", "strength": 0.5})
    with pytest.raises(AdapterError, match=r"Download it: hf download ann/style low/a\.safetensors$"):
        plan(adapter)
    repository = tmp_path / "models--ann--style"
    (repository / "snapshots" / commit / "low").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    file = write(repository / "snapshots" / commit / "low/a.safetensors", tensors_for(NANO))
    (planned,) = plan(adapter).first_recipe.controls["lora"].adapters
    assert (planned.name, planned.source.path, planned.source.file) == ("a", "ann/style", "low/a.safetensors")
    assert planned.source.revision == commit
    assert planned.source.locate().local_path == file
    for file_name, reason in (("../a.safetensors", "is not the name of a file"), ("a.pt", "is a pickle file")):
        with pytest.raises(AdapterError, match=reason):
            plan(json.dumps({"path": "ann/style", "file": file_name}))


def test_paths_do_not_prevent_comparison(style: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy" / style.name
    copied.parent.mkdir()
    copied.write_bytes(style.read_bytes())
    one, same, other = (plan(text).first_recipe for text in (f"{style}:0.5", f"{copied}:0.5", f"{style}:0.6"))
    assert collect_control_settings(one) == collect_control_settings(same) != collect_control_settings(other)
    assert one.source.identity != same.source.identity, "loading reads the path of the recipe"
    assert len({recipe.source.weights_id for recipe in (one, same, other)}) == 2


def test_strengths_are_swept_by_the_name_of_the_adapter(style: Path) -> None:
    text = f"lora_settings: {{adapters: ['{style}:0.3']}}\nsweeps: lora.style.strength=0,0.5,1\n"
    batch = plan_batch(
        parse_config(f"model_settings: {{model_id: nano}}\nvideos_per_variation: 1\n{text}", "x"), "a star"
    )
    strengths = [video.recipe.controls["lora"].adapters[0].strength for video in batch.videos]
    assert strengths == [0.0, 0.5, 1.0]
    assert len({video.recipe.source.identity for video in batch.videos}) == 3
    assert len({video.recipe.source.base_identity for video in batch.videos}) == 1


@pytest.mark.parametrize(
    ("adapters", "cfg_scale", "is_warned"),
    [("[nano-style]", 1, True), ("[]", 1, True), ("[nano-4step, nano-style]", 1, False), ("[nano-style]", 4, False)],
)
def test_lcm_without_guidance_and_without_its_adapter_causes_a_warning(
    adapters: str, cfg_scale: float, is_warned: bool
) -> None:
    overrides = [f"lora_settings.adapters={adapters}", f"model_settings.cfg_scale={cfg_scale}"]
    warnings = preview_batch(load_config("nano-4step", overrides), "a star").warnings
    assert any("add nano-4step to lora_settings.adapters (--lora nano-4step;" in text for text in warnings) == is_warned


def test_remedy_of_the_warning_about_double_guidance_can_be_followed() -> None:
    overrides = ["lora_settings.adapters=nano-4step", "guidance_settings.rule=apg", "guidance_settings.reuse_from=50%"]
    (warning,) = [
        text
        for text in preview_batch(load_config("nano", overrides), "a star").warnings
        if "contains guidance already" in text
    ]
    assert warning.endswith("To avoid this, set model_settings.cfg_scale to 1, remove guidance_settings")
    followed = preview_batch(load_config("nano", [overrides[0], "model_settings.cfg_scale=1"]), "a star")
    assert not followed.refusals
    assert not [text for text in followed.warnings if "contains guidance already" in text]


@pytest.mark.parametrize(
    ("adapter", "cfg_scale", "schedule", "is_warned"),
    [
        ("nano-4step", 4, "", True),
        ("nano-4step", 1, "", False),
        ("nano-4step", 1, "0: 7, 50%: 3", True),
        ("nano-4step", 4, "0: 1", False),
        ("nano-4step:0", 4, "", False),
        ("nano-style", 4, "", False),
    ],
)
def test_guidance_with_a_guidance_distilled_adapter_causes_a_warning(
    adapter: str, cfg_scale: float, schedule: str, is_warned: bool
) -> None:
    overrides = {"lora_settings.adapters": f"[{adapter}]", "model_settings.cfg_scale": cfg_scale}
    overrides["cfg_schedule_settings.schedule"] = schedule
    config = load_config("nano", [f"{key}={value}" for key, value in overrides.items()])
    warnings = [text for text in preview_batch(config, "a star").warnings if "contains guidance already" in text]
    assert len(warnings) == is_warned
    assert all("set model_settings.cfg_scale to 1" in text for text in warnings)
    assert all(("cfg_schedule_settings.enabled to no" in text) == bool(schedule) for text in warnings)
