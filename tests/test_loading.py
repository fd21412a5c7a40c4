"""Loading a model: files are refused unless they contain exactly the tensors of the model."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Wantui, recipe_for
from diffusers import WanPipeline
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny import latents_of, tiny_transformer
from transformers import T5Tokenizer

from wantui.config import load_config
from wantui.errors import SHORTAGE_ADVICE
from wantui.generation import tensors
from wantui.generation.decode import decode_frames
from wantui.generation.denoise import prepare_inputs
from wantui.generation.errors import LoadError, NotFiniteError
from wantui.generation.load import load_pipeline, load_pipeline_parts
from wantui.generation.preview import fit_latents_to_rgb
from wantui.generation.prompt_encoding import CachedPromptEncoder
from wantui.models import fetch, parts
from wantui.models.catalogue import NANO, UnknownModelError, WanModel, find_model, read_model_directory
from wantui.models.tokenizer import TokenizerError, check_tokenizer_fits_model, find_vocabulary_error
from wantui.planning import preview_batch
from wantui.planning.memory_plan import find_plan

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "transformer_2": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def copy(tiny_models: dict[str, WanModel]) -> Callable[..., Path]:
    """A copy of a tiny model, which the test damages."""

    def copied(form: str = "wan2.1") -> Path:
        return Path(shutil.copytree(tiny_models[form].location, "model"))

    return copied


def local(folder: Path) -> WanModel:
    """A folder as a model, without what the catalogue would say of it first."""
    return WanModel("model", str(folder.resolve()), "", is_local=True)


def change(folder: Path, part: str, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Edit the weights of a part."""
    path = folder / part / WEIGHTS[part]
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(LoadError, match=message):
        load_pipeline(local(folder), None, "float32", CPU, **options)


# A1


@pytest.mark.parametrize("plan", ["everything resident", "text encoder first"])
def test_model_without_a_tokenizer_is_refused(copy: Callable[..., Path], plan: str) -> None:
    folder = copy()
    (folder / "tokenizer" / "tokenizer.json").write_text("")
    refused(folder, "its tokenizer is missing: .* contains no tokenizer.json or spiece.model", plan=find_plan(plan))
    shutil.rmtree(folder / "tokenizer")
    refused(folder, "its tokenizer is missing", plan=find_plan(plan))
    with pytest.raises(UnknownModelError, match="its tokenizer is missing"):
        read_model_directory(folder)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError(), OSError(24, "open files")])
def test_lack_of_resources_is_not_blamed_on_the_files(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("wantui.generation.load._load_pipeline_folder", fail)
    with pytest.raises(LoadError) as caught:
        load_pipeline_parts(NANO, None, "float32")
    assert SHORTAGE_ADVICE in str(caught.value)
    assert "copy them again" not in str(caught.value)


def test_tokenizer_without_a_vocabulary_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0)] + [(f"▁{i}{i}", -2.0) for i in range(131)]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder / "tokenizer")
    refused(folder, "the tokenizer maps red, blue, left, right to the same tokens: its vocabulary was not loaded")


@pytest.mark.parametrize(("words", "knows"), [(5000, "5,103"), (-2, "101")])
def test_tokenizer_of_another_model_is_refused(copy: Callable[..., Path], words: int, knows: str) -> None:
    folder, letters = copy(), "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0)]
    vocabulary += [(f"▁{letters[i % 26]}{i}", -2.0) for i in range(100 + words)]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder / "tokenizer")
    refused(folder, rf"its tokenizer has {knows} tokens .* has \d+ embeddings: they belong to different models")


@pytest.mark.parametrize(
    ("tokens", "embeddings", "fits"),
    [
        (256_300, 256_384, True),  # UMT5
        (250_100, 256_384, False),  # tokenizer of mT5: special tokens of equal ids, and other ids for all words
        (250_100, 250_112, True),  # mT5
        (32_100, 32_128, True),  # T5
        (32_100, 256_384, False),
        (120, 134, False),  # nano without its last tokens
        (134, 134, True),
    ],
)
def test_vocabulary_fits_a_text_encoder_with_few_embeddings_more(tokens: int, embeddings: int, fits: bool) -> None:
    vocabulary = {str(token): token for token in range(tokens)}
    assert (find_vocabulary_error(vocabulary, embeddings) is None) == fits


def test_vocabulary_with_a_duplicate_token_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"][40][0] = "▁red"
    path.write_text(json.dumps(content))
    assert T5Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)("red").input_ids[0] == 40
    refused(folder, "its tokenizer cannot be used: its vocabulary contains '▁red' more than once, with the ids 26, 40")


def test_text_encoder_that_ignores_the_words_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    change(folder, "text_encoder", lambda tensors: tensors["shared.weight"].fill_(0.5))
    refused(folder, "/model was loaded, but cannot be used: the text encoder returns the same embedding, .* prompts")


@pytest.fixture
def cached(tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub model in the cache: a snapshot of links to files that are named by their content."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--someone--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("a" * 40)
    (root / "blobs").mkdir()
    source = Path(tiny_models["wan2.1"].location)
    snapshot = root / "snapshots" / ("a" * 40)
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        blob = shutil.copy(path, root / "blobs" / str(number))
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.mark.parametrize(
    "missing", ["tokenizer/tokenizer.json", "text_encoder/model.safetensors", "vae/config.json", "tokenizer"]
)
def test_missing_files_of_a_cached_model_are_fetched(
    cached: Path, tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    asked = []

    def bring(model: WanModel, revision: str | None, replaced: tuple[str, ...]) -> Path:
        asked.append((model.location, revision))
        shutil.rmtree(cached)
        shutil.copytree(tiny_models["wan2.1"].location, cached)
        return cached

    monkeypatch.setattr(fetch, "fetch_model", bring)
    model = find_model("someone/tiny")
    load_pipeline_parts(model, None, "float32")
    assert asked == []
    shutil.rmtree(cached / missing) if missing == "tokenizer" else (cached / missing).unlink()
    with pytest.raises(LoadError, match=r"not all on this machine.*Fetch the model: wantui models fetch someone/tiny"):
        load_pipeline_parts(model, None, "float32", may_fetch=False)
    assert asked == []
    load_pipeline_parts(model, None, "float32")
    assert asked == [("someone/tiny", None)]


def test_missing_files_of_a_cached_model_are_named_offline(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(cached / "tokenizer")

    def offline(*_: object) -> Path:
        raise fetch.NotFetchedError("no network")

    monkeypatch.setattr(fetch, "fetch_model", offline)
    with pytest.raises(LoadError, match=r"its tokenizer is missing: .*; no network"):
        load_pipeline_parts(find_model("someone/tiny"), None, "float32")


# A2


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "transformer_2", "vae"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("{tensor}.scale_weight", r"ignore: they are scales of 8-bit weights in ComfyUI's format\. Use files in"),
        ("scaled_fp8", "they are scales of 8-bit weights"),
        ("{tensor}.lora_A.weight", "they belong to a LoRA. Merge it"),
        ("something.else", "which the model would ignore"),
    ],
)
def test_unknown_tensors_are_refused_with_a_hint(copy: Callable[..., Path], part: str, name: str, hint: str) -> None:
    folder = copy("a14b")
    written = name.format(tensor=sorted(load_file(folder / part / WEIGHTS[part]))[0].removesuffix(".weight"))
    change(folder, part, lambda tensors: tensors.update({written: torch.ones(1)}))
    called = {"text_encoder": "text encoder", "vae": "VAE"}.get(part, part)
    refused(folder, rf"its {called} has {written} in its files, .*{hint}")


UNSCALED = {
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""Types of weights that the library would load, rounded or with their meaning lost."""


def cast(tensors: dict[str, torch.Tensor], name: str, dtype: torch.dtype) -> None:
    tensors[name] = tensors[name].float().to(dtype)


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "transformer_2", "vae"])
def test_tensors_of_wrong_shape_or_dtype_are_refused(copy: Callable[..., Path], part: str) -> None:
    folder = copy("a14b")
    name = max(load_file(folder / part / WEIGHTS[part]).items(), key=lambda item: item[1].numel())[0]
    for dtype, called in UNSCALED.items():
        change(folder, part, partial(cast, name=name, dtype=dtype))
        refused(folder, f"has {name} stored as {called}, but weights must be BF16, F16, F32, F64")
    change(folder, part, lambda tensors: tensors.update({name: torch.ones(3, 5)}))
    refused(folder, f"has {name} of shape 3x5 in its files, but needs ")


# C4
@pytest.mark.parametrize("part", ["text_encoder", "transformer", "transformer_2", "vae"])
def test_missing_tensors_are_named(copy: Callable[..., Path], part: str) -> None:
    folder = copy("a14b")
    names = sorted(load_file(folder / part / WEIGHTS[part]))[:2]
    change(folder, part, lambda tensors: [tensors.pop(name) for name in names])
    called = {"text_encoder": "text encoder", "vae": "VAE"}.get(part, part)
    refused(folder, rf"its {called} has no {names[0]} and 1 more in its files.*copy them again")


def sharded(folder: Path, part: str) -> list[Path]:
    """Split the weights of a part into two files and an index, as large models are published."""
    path = folder / part / WEIGHTS[part]
    tensors = load_file(path)
    path.unlink()
    names, files = sorted(tensors), []
    index: dict[str, str] = {}
    for number in (1, 2):
        own = names[number - 1 :: 2]
        file = path.with_name(f"{path.stem}-0000{number}-of-00002.safetensors")
        save_file({name: tensors[name] for name in own}, file, {"format": "pt"})
        index |= dict.fromkeys(own, file.name)
        files.append(file)
    path.with_name(f"{path.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return files


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_sharded_weights_are_read_and_every_shard_is_checked(
    copy: Callable[..., Path], tiny: WanPipeline, part: str
) -> None:
    folder = copy()
    first, second = sharded(folder, part)
    loaded, expected = (
        getattr(one, part).state_dict() for one in (load_pipeline_parts(local(folder), None, "float32"), tiny)
    )
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    tensors = load_file(first)
    name = sorted(tensors)[0]
    save_file(tensors | {"unknown": torch.ones(2)}, first, {"format": "pt"})  # which the index does not name
    refused(folder, "has unknown in its files")
    save_file({key: value for key, value in tensors.items() if key != name}, first, {"format": "pt"})
    refused(folder, f"has no {name} in its files")
    save_file(tensors | {sorted(load_file(second))[0]: torch.ones(2)}, first, {"format": "pt"})
    refused(folder, "is in .*00001-of-00002.safetensors and in .*00002-of-00002.safetensors")
    index = first.with_name(f"{WEIGHTS[part]}.index.json")
    for outside in ("../../x.safetensors", "/x.safetensors"):
        index.write_text(json.dumps({"weight_map": {name: outside}}))
        refused(folder, f"index.json refers to {outside}, which is outside the model folder")
    index.write_text(json.dumps({"weight_map": {name: first.name, "y": second.name}}))
    first.unlink()
    refused(folder, f"index.json lists {first.name}, but its .* does not contain it")


def test_all_published_forms_of_text_encoder_weights_are_read(
    copy: Callable[..., Path], tiny_models: dict[str, WanModel], tiny: WanPipeline
) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], steps=2)
    expected = latents_of(tiny, recipe)
    folder = copy()
    path = folder / "text_encoder" / WEIGHTS["text_encoder"]
    tensors = load_file(path)
    embedding = tensors.pop("shared.weight")
    forms = (
        {"encoder.embed_tokens.weight": embedding},
        {"shared.weight": embedding, "encoder.embed_tokens.weight": embedding.clone()},
        {
            "shared.weight": embedding,
            "decoder.x.weight": torch.ones(32),
            "lm_head.weight": embedding + 1,
        },
        {"shared.weight": embedding, "encoder._extra_state": torch.empty(0, dtype=torch.uint8)},
    )
    for form in forms:
        save_file(tensors | form, path, {"format": "pt"})
        assert torch.equal(latents_of(load_pipeline(local(folder), None, "float32", CPU), recipe), expected)
    path.unlink()
    torch.save(tensors | {"shared.weight": embedding}, path.with_name("pytorch_model.bin"))
    assert torch.equal(latents_of(load_pipeline(local(folder), None, "float32", CPU), recipe), expected)
    legacy = path.with_name("pytorch_model.bin")
    torch.save(tensors | {"shared.weight": embedding}, legacy, _use_new_zipfile_serialization=False)
    assert torch.equal(latents_of(load_pipeline(local(folder), None, "float32", CPU), recipe), expected)
    torch.save(tensors | {"shared.weight": embedding, "x.y": embedding}, path.with_name("pytorch_model.bin"))
    refused(folder, "has x.y in its files")


def test_contradicting_duplicate_embeddings_are_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    change(
        folder,
        "text_encoder",
        lambda tensors: tensors.update({"encoder.embed_tokens.weight": tensors["shared.weight"] + 1}),
    )
    refused(
        folder,
        r"contains different values for encoder\.embed_tokens\.weight and shared\.weight, which must be equal",
    )


def test_quantised_part_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    refused(folder, "its transformer is stored quantised, which is not supported")


def edit_index(folder: Path, **changes: object) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# C4
def test_second_transformer_requires_a_boundary_noise_level(copy: Callable[..., Path]) -> None:
    folder = copy("a14b")
    edit_index(folder, boundary_ratio=None)
    refused(folder, "has boundary_ratio None and a transformer_2: a model must have both or neither")
    with pytest.raises(UnknownModelError, match="has a transformer_2, but no boundary_ratio"):
        read_model_directory(folder)
    for boundary in (1.5, True, "0.9"):
        edit_index(folder, boundary_ratio=boundary)
        with pytest.raises(UnknownModelError, match="but must be between 0 and 1"):
            read_model_directory(folder)
    edit_index(folder, boundary_ratio=0.9, transformer_2=[None, None])
    refused(folder, "has boundary_ratio 0.9 and no transformer_2: a model must have both or neither")
    with pytest.raises(UnknownModelError, match=r"has a boundary_ratio in model_index\.json, but no transformer_2"):
        read_model_directory(folder)
    edit_index(folder, transformer_2=["diffusers", "WanTransformer3DModel"])
    shutil.rmtree(folder / "transformer_2")
    with pytest.raises(UnknownModelError, match="but no transformer_2"):
        read_model_directory(folder)


def test_parts_of_different_models_are_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    shutil.rmtree(folder / "transformer")
    tiny_transformer(48, 1).save_pretrained(folder / "transformer")
    refused(folder, "its VAE has 16 latent channels, but its transformer has 48 input and 48 output channels")
    shutil.rmtree(folder / "transformer")
    shutil.copytree(Path(NANO.location) / "transformer", folder / "transformer")
    refused(folder, "its text encoder returns 32 values per token, but its transformer expects 128")


# A4


def spoil(folder: Path, name: str, value: float) -> None:
    change(folder, "vae", lambda tensors: tensors[name].fill_(value))


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_vae_that_decodes_nan_or_one_colour_is_refused(copy: Callable[..., Path], value: float) -> None:
    folder = copy()
    spoil(folder, "decoder.conv_out.weight", value)
    refused(folder, "the VAE returns NaN, infinity or one colour: its weights are damaged or not loaded")


def test_vae_that_encodes_nan_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    spoil(folder, "encoder.conv_out.weight", float("nan"))
    with pytest.raises(LoadError, match="the VAE encodes images as NaN or infinity"):
        fit_latents_to_rgb(load_pipeline(local(folder), None, "float32", CPU))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tiled", [False, True])
def test_non_finite_frames_are_an_error(tiny_models: dict[str, WanModel], bad: float, tiled: bool) -> None:
    pipeline = load_pipeline(tiny_models["wan2.1"], None, "float32", CPU)
    latents = latents_of(pipeline, recipe_for(tiny_models["wan2.1"], steps=2))
    calls = 0

    def spoilt(decoder: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            output[0, 0, 0, 0, 0] = bad
        return output

    if tiled:
        pipeline.vae.enable_tiling(16, 16, 12, 12)
    handle = pipeline.vae.decoder.register_forward_hook(spoilt)
    with pytest.raises(NotFiniteError, match="decoding gave NaN or infinity"):
        list(decode_frames(pipeline, latents))
    handle.remove()
    assert len(list(decode_frames(pipeline, latents))) == 9
    assert not pipeline.vae.decoder._forward_hooks


@pytest.mark.parametrize("which", ["prompt", "negative prompt"])
def test_non_finite_embeddings_are_an_error(tiny: WanPipeline, tiny_models: dict[str, WanModel], which: str) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], negative_prompt="a blue ring")

    def embeddings(prompt: str) -> torch.Tensor:
        bad = prompt == (recipe.prompt if which == "prompt" else recipe.negative_prompt)
        return torch.full((1, 512, 32), float("nan") if bad else 1.0)

    with pytest.raises(NotFiniteError, match=f"the text embedding of the {which} contains NaN or infinity"):
        prepare_inputs(tiny, recipe, embeddings)


def test_non_finite_embeddings_are_not_stored(
    tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = CachedPromptEncoder(tiny_models["wan2.1"], None, "float32", CPU)

    def broken(self: WanPipeline, prompt: object, *_: object, **__: object) -> tuple[torch.Tensor, None]:
        if isinstance(prompt, list):  # of the self-check
            return torch.arange(2.0)[:, None, None].expand(2, 512, 32), None
        return torch.full((1, 512, 32), float("nan")), None

    monkeypatch.setattr(WanPipeline, "encode_prompt", broken)
    with pytest.raises(NotFiniteError, match="the text embedding of 'a red star' contains NaN or infinity"):
        embeddings.encode_prompts(["a red star"])
    monkeypatch.undo()
    assert embeddings("a red star").isfinite().all()


def test_cached_model_with_missing_files_is_listed_as_incomplete(wantui: Wantui, cached: Path, tmp_path: Path) -> None:
    name = "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers"
    (tmp_path / "hub" / "models--someone--tiny").rename(tmp_path / "hub" / name)
    folder = tmp_path / "hub" / name / "snapshots" / ("a" * 40)

    def weights() -> str:
        rows = json.loads(wantui("models", "ls", "--json").out)
        return str(next(row["weights"] for row in rows if row["name"] == "wan2.1-1.3b"))

    assert weights() == "downloaded"
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert weights() == "incomplete"


def edit_config(folder: Path, part: str, **changes: object) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# A4
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents_mean": [0.0]}, r"sets latents_mean to \[0\.0\]\.\.\., but 16 finite numbers are needed"),
        ({"latents_std": [float("nan")] * 16}, r"sets latents_std to \[nan, nan, nan\]\.\.\., but 16 finite"),
        ({"latents_std": [0.0] * 16}, "has a latents_std of 0 or less"),
    ],
)
def test_invalid_latent_statistics_are_refused(
    copy: Callable[..., Path], changes: dict[str, object], message: str
) -> None:
    folder = copy()
    edit_config(folder, "vae", **changes)
    refused(folder, message)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("transformer", "num_layers", "8"),
        ("transformer", "num_attention_heads", 0),
        ("transformer", "ffn_dim", 1e30),
        ("transformer", "patch_size", 2),
        ("transformer", "patch_size", [1, "2", 2]),
        ("vae", "z_dim", None),
        ("vae", "scale_factor_spatial", True),
    ],
)
def test_config_value_of_a_wrong_type_is_refused_naming_the_key(
    copy: Callable[..., Path], part: str, name: str, value: object
) -> None:
    folder = copy()
    edit_config(folder, part, **{name: value})
    with pytest.raises(UnknownModelError, match=rf"cannot use {folder}/{part}/config\.json: its {name} is .*must be"):
        read_model_directory(folder)


@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_part_without_a_class_is_refused(copy: Callable[..., Path], part: str) -> None:
    folder = copy()
    configure(folder / "model_index.json", **{part: []})
    with pytest.raises(
        UnknownModelError, match=rf"its {part} has no class in model_index\.json, but a Wan model needs "
    ):
        read_model_directory(folder)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("tokenizer", "AutoTokenizer"),
        ("tokenizer", "PreTrainedTokenizerFast"),
        ("text_encoder", "T5EncoderModel"),
        ("text_encoder", "AutoModel"),
    ],
)
def test_part_of_another_class_is_refused_before_loading(copy: Callable[..., Path], part: str, name: str) -> None:
    folder = copy()
    configure(folder / "model_index.json", **{part: ["transformers", name]})
    with pytest.raises(UnknownModelError, match=f"cannot use {folder}: its {part} has the class {name} in model_index"):
        read_model_directory(folder)


@pytest.mark.parametrize(("part", "library"), [("transformer", "diffusers"), ("text_encoder", "transformers")])
def test_shards_in_a_subfolder_are_refused_where_the_library_refuses_them(
    copy: Callable[..., Path], part: str, library: str
) -> None:
    folder = copy().resolve()
    path = folder / part / WEIGHTS[part]
    stored = load_file(path)
    (path.parent / "sub").mkdir()
    path.rename(path.parent / "sub" / path.name)
    index_path = path.with_name(f"{path.name}.index.json")
    weight_map = dict.fromkeys(stored, f"sub/{path.name}")
    index_path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    refusals = preview_batch(load_config("nano", [f"model_settings.model_id={folder}"]), "a star").refusals
    if library == "diffusers":
        message = f"{index_path} refers to sub/{path.name}, but diffusers reads only files in the same folder"
        assert message in refusals[0]
        refused(folder, message)
    else:
        assert refusals == ()
        loaded = load_pipeline_parts(local(folder), None, "float32").text_encoder.state_dict()
        assert all(torch.equal(loaded[name], stored[name]) for name in stored)


def test_impossible_file_name_in_an_index_is_a_missing_file(copy: Callable[..., Path]) -> None:
    folder, name = copy(), "x" * 300
    index = {"metadata": {}, "weight_map": {"a": name}}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    configure(folder / "model_index.json", **{name: ["diffusers", "X"]})
    assert Path("vae/config.json") in parts.list_part_files(folder)
    refused(folder, f"diffusion_pytorch_model.safetensors.index.json lists {name}, but its transformer")


def test_special_files_in_a_model_do_not_block(copy: Callable[..., Path]) -> None:
    folder = copy()
    os.mkfifo(folder / "vae" / "more.safetensors")
    assert read_model_directory(folder).vae_parameter_count is None
    (folder / "model_index.json").write_text("[" * 100_000)
    with pytest.raises(UnknownModelError, match=r"model_index\.json cannot be read"):
        read_model_directory(folder)
    (folder / "model_index.json").unlink()
    os.mkfifo(folder / "model_index.json")
    with pytest.raises(UnknownModelError, match="not a regular file"):
        read_model_directory(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def point(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")


def replace_by_page(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "has no weights"),
        (cut, "is not a safetensors file, or is incomplete or damaged"),
        (lengthen, "is not a safetensors file, or is incomplete or damaged"),
        (point, "is only a Git LFS pointer"),
        (replace_by_page, "is not a safetensors file, or is incomplete or damaged"),
    ],
    ids=["gone", "cut", "longer", "pointer", "page"],
)
def test_incomplete_weights_are_refused_when_planning(
    copy: Callable[..., Path], part: str, damage: Callable[[Path], object], message: str
) -> None:
    folder = copy()
    plan = [f"model_settings.model_id={folder}"]
    assert preview_batch(load_config("nano", plan), "a star").refusals == ()
    damage(folder / part / WEIGHTS[part])
    (refusal,) = preview_batch(load_config("nano", plan), "a star").refusals
    assert f"the model in {folder.resolve()} is incomplete: " in refusal
    assert message in refusal


@pytest.mark.parametrize("part", ["text_encoder", "transformer"])
def test_config_with_a_million_layers_is_refused_before_building(copy: Callable[..., Path], part: str) -> None:
    folder = copy()
    config = json.loads((folder / part / "config.json").read_text())
    (folder / part / "config.json").write_text(json.dumps(config | {"num_layers": 1_000_000}))
    refused(folder, "has num_layers 1,000,000; the maximum is 1,000")


def test_weight_index_without_metadata_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    weights = folder / "vae" / WEIGHTS["vae"]
    index = {"weight_map": dict.fromkeys(load_file(weights), weights.name)}
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps(index))
    refused(folder, r"diffusion_pytorch_model\.safetensors\.index\.json has no metadata")


def test_vae_that_ignores_its_latents_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    change(folder, "vae", lambda tensors: tensors["post_quant_conv.weight"].zero_())
    refused(folder, "the VAE returns the same frames for different latents")


def configure(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("tokenizer/tokenizer_config.json", {"padding_side": "left"}, "its tokenizer pads on the left"),
        ("tokenizer/tokenizer_config.json", {"eos_token": "▁a"}, r"its tokenizer has eos_token_id \d+ but its text"),
        (
            "vae/config.json",
            {"scale_factor_spatial": 16},
            r"the VAE decodes latents to 5x64x64 .* promises 5x128x128: correct",
        ),
        (
            "vae/config.json",
            {"scale_factor_temporal": 8},
            r"the VAE decodes latents to 5x64x64 .* promises 9x64x64: correct",
        ),
        ("vae/config.json", {"latents_mean": None}, r"its VAE config sets latents_mean to \[None\]"),
        (
            "transformer/config.json",
            {"attention_head_dim": 33},
            r"cannot be built from .*\(AssertionError",
        ),
        ("transformer/config.json", {"eps": "a"}, r"config of its transformer has eps 'a'; it must be above 0 and at"),
        (
            "transformer/config.json",
            {"eps": 1e9},
            r"has eps 1000000000\.0; it must be above 0 and at most 0\.001\. Copy",
        ),
        ("transformer/config.json", {"eps": 0}, "config of its transformer has eps 0; it must be above 0"),
        ("text_encoder/config.json", {"layer_norm_epsilon": 0.1}, "its text encoder has layer_norm_epsilon 0.1"),
        ("text_encoder/config.json", {"layer_norm_epsilon": float("nan")}, "has layer_norm_epsilon nan"),
        (
            "text_encoder/config.json",
            {"feed_forward_proj": "gated-silu"},
            "has feed_forward_proj 'gated-silu'; it is",
        ),
        ("text_encoder/config.json", {"feed_forward_proj": "x"}, "has feed_forward_proj 'x'; it is 'gated-gelu' in"),
        ("text_encoder/config.json", {"dense_act_fn": "relu"}, "has dense_act_fn 'relu'; it is 'gelu_new' in every"),
        ("text_encoder/config.json", {"relative_attention_max_distance": 64}, "has relative_attention_max_distance 64"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_config_that_would_change_videos_is_refused(
    copy: Callable[..., Path], file: str, values: dict[str, object], message: str
) -> None:
    folder = copy()
    configure(folder / file, **values)
    refused(folder, message)


@pytest.mark.parametrize("extra", [10**9, -1, "3", True])
def test_invalid_number_of_extra_tokens_is_refused(copy: Callable[..., Path], extra: object) -> None:
    folder = copy()
    configure(folder / "tokenizer" / "tokenizer_config.json", extra_ids=extra)
    refused(folder, r"tokenizer_config\.json has extra_ids .*, but must have a whole number from 0 to 10,000\. Replace")


def test_missing_tokenizer_config_that_changes_the_vocabulary_is_reported(
    copy: Callable[..., Path],
) -> None:
    folder = copy()
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    message = r"tokenizer_config\.json is missing: without it, transformers adds 100 tokens to the vocabulary\. Copy"
    refused(folder, message)
    with pytest.raises(TokenizerError, match=message):
        check_tokenizer_fits_model(folder / "tokenizer" / "tokenizer.json")


def test_sentencepiece_tokenizer_without_its_packages_is_refused(
    copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "spiece.model").write_bytes(b"broken")
    monkeypatch.setattr(parts, "SPIECE_PACKAGES", ("sentencepiece", "no_such_package.protobuf"))
    message = r"no tokenizer\.json, and .*spiece\.model needs .*no_such_package\.protobuf, which .* not installed"
    with pytest.raises(UnknownModelError, match=message):
        read_model_directory(folder)
    refused(folder, message)
    monkeypatch.setattr(parts, "SPIECE_PACKAGES", ())

    def parse(_: str) -> None:
        raise ValueError("Error parsing message")

    monkeypatch.setattr(tensors, "SentencePieceExtractor", parse)
    refused(folder, r"spiece\.model cannot be read as a SentencePiece vocabulary: Error parsing message\. Replace it")


def test_tokenizer_config_that_is_not_an_object_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    (folder / "tokenizer" / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UnknownModelError, match=r"tokenizer_config\.json cannot be read"):
        read_model_directory(folder)
