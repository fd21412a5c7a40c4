"""LoRA adapters merged into tiny models: equal to stock diffusers bit for bit, and to float64."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import recipe_for
from diffusers import WanPipeline
from lora_files import FORMATS, comfy_tensors, diffusers_tensors, make_factors, musubi_tensors, write_adapter
from tiny import FORMS, diffusers_output, latents_of, tiny_pipeline
from torch import Tensor

from wantui.controls.lora import LoraAdapter, LoraFile, LoraRequest
from wantui.generation.adapters import list_adaptable_layer_shapes, merge_adapters
from wantui.generation.errors import LoadError
from wantui.generation.load import load_pipeline
from wantui.generation.quantize import quantize_transformer
from wantui.models.adapters import hash_adapter_file
from wantui.models.catalogue import NANO, WanModel
from wantui.planning import Recipe
from wantui.planning.memory_plan import RESIDENT_PLAN
from wantui.worker.pipelines import load_recipe_pipeline

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline_by_form() -> dict[str, WanPipeline]:
    return {form: tiny_pipeline(form) for form in FORMS}


@pytest.fixture
def pipelines(pipeline_by_form: dict[str, WanPipeline]) -> dict[str, WanPipeline]:
    """Copies of the tiny pipelines, one for each form of the model."""
    return {form: copy.deepcopy(pipeline) for form, pipeline in pipeline_by_form.items()}


def file_of(path: Path) -> LoraFile:
    return LoraFile(path=str(path), fingerprint=hash_adapter_file(path))


def request_for(
    *adapters: tuple[Path, float], path_2: Path | None = None, strength_2: float | None = None
) -> LoraRequest:
    return LoraRequest(
        adapters=tuple(
            LoraAdapter(
                name=path.stem,
                source=file_of(path),
                strength=strength,
                source_2=None if path_2 is None else file_of(path_2),
                strength_2=strength_2,
            )
            for path, strength in adapters
        )
    )


def recipe_with(request: LoraRequest | None, model: WanModel = NANO, **changes: Any) -> Recipe:
    values = {"steps": 2, "frames": 5, "width": 64, "height": 64, "speed": "reference", "guidance_scale": 3.0}
    recipe = recipe_for(model, prompt="a red circle", **values, **changes)
    return recipe if request is None else recipe.model_copy(update={"controls": {"lora": request}})


def weights_of(transformer: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in transformer.named_parameters()}


def shapes_of(pipeline: WanPipeline) -> Mapping[str, tuple[int, int]]:
    return list_adaptable_layer_shapes(pipeline.transformer)


def assert_weights_equal(transformer: Any, expected: Mapping[str, Tensor]) -> None:
    weights = weights_of(transformer)
    assert [name for name, tensor in weights.items() if not torch.equal(tensor, expected[name])] == []


def assert_close_to_float64(transformer: Any, before: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> None:
    """Changed weights differ from the float64 sum by rounding only, and all others not at all."""
    for name, tensor in weights_of(transformer).items():
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and layer in changes:
            exact = before[name].double() + changes[layer]
            assert not torch.equal(tensor, before[name]), name
            assert torch.allclose(tensor.double(), exact, rtol=0, atol=float(exact.abs().max()) * 1e-6), name
        else:
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("form", FORMS)
def test_merged_adapter_equals_stock_diffusers_bit_for_bit(
    form: str, format_name: str, pipelines: dict[str, WanPipeline], tmp_path: Path
) -> None:
    pipeline = pipelines[form]
    path = write_adapter(tmp_path / "style.safetensors", FORMATS[format_name](make_factors(shapes_of(pipeline))))
    stock, request = copy.deepcopy(pipeline), request_for((path, 0.6))
    recipe = recipe_with(request)
    stock.load_lora_weights(path, adapter_name="style")
    if form == "a14b":
        stock.load_lora_weights(path, adapter_name="style", load_into_transformer_2=True)
    stock.set_adapters(["style"], [0.6])
    stock.fuse_lora(components=["transformer", "transformer_2"], adapter_names=["style"])
    merge_adapters(pipeline, request)
    latents = latents_of(pipeline, recipe)
    assert torch.equal(latents, diffusers_output(stock, recipe, "latent"))
    assert not torch.equal(latents, latents_of(tiny_pipeline(form), recipe_with(None)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_adapters_equal_stock_diffusers_bit_for_bit_in_every_precision(
    dtype: torch.dtype, pipelines: dict[str, WanPipeline], tmp_path: Path
) -> None:
    pipeline = pipelines["wan2.1"]
    pipeline.transformer.to(torch.bfloat16)
    paths = [
        write_adapter(tmp_path / f"{'ab'[seed - 1]}.safetensors", comfy_tensors(factors, alpha=1.5))
        for seed in (1, 2)
        for factors in (make_factors(shapes_of(pipeline), rank=seed + 2, seed=seed, dtype=dtype),)
    ]
    stock = copy.deepcopy(pipeline)
    for path in paths:
        stock.load_lora_weights(path, adapter_name=path.stem)
    stock.set_adapters(["a", "b"], [0.7, -0.3])
    stock.fuse_lora(adapter_names=["a", "b"])
    stock.unload_lora_weights()
    merge_adapters(pipeline, request_for((paths[0], 0.7), (paths[1], -0.3)))
    assert_weights_equal(pipeline.transformer, weights_of(stock.transformer))


def test_two_adapters_at_once_equal_the_float64_sum(pipelines: dict[str, WanPipeline], tmp_path: Path) -> None:
    pipeline = pipelines["wan2.1"]
    before, shapes = weights_of(pipeline.transformer), shapes_of(pipeline)
    first, second = make_factors(shapes, rank=3, seed=1), make_factors(shapes, rank=5, seed=2)
    paths = (
        write_adapter(tmp_path / "first.safetensors", comfy_tensors(first, alpha=2.0)),
        write_adapter(tmp_path / "second.safetensors", musubi_tensors(second, alpha=0.5)),
    )
    merge_adapters(pipeline, request_for((paths[0], 0.8), (paths[1], -1.5)))
    changes = {
        layer: 0.8 * 2 / 3 * first[layer][1].double() @ first[layer][0].double()
        - 1.5 * 0.5 / 5 * second[layer][1].double() @ second[layer][0].double()
        for layer in first
    }
    assert_close_to_float64(pipeline.transformer, before, changes)


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_unet__"])
def test_musubi_adapter_of_some_layers_changes_only_them(
    prefix: str, pipelines: dict[str, WanPipeline], tmp_path: Path
) -> None:
    """The stock converter of diffusers needs all layers, and does not know the second prefix."""
    pipeline = pipelines["wan2.1"]
    before = weights_of(pipeline.transformer)
    factors = {name: pair for name, pair in make_factors(shapes_of(pipeline)).items() if "blocks.1.attn" in name}
    path = write_adapter(tmp_path / "some.safetensors", musubi_tensors(factors, alpha=6.0, prefix=prefix))
    merge_adapters(pipeline, request_for((path, 0.5)))
    changes = {layer: 0.5 * 6 / 4 * up.double() @ down.double() for layer, (down, up) in factors.items()}
    assert_close_to_float64(pipeline.transformer, before, changes)


def test_alpha_and_change_of_layers_outside_the_blocks_are_applied(
    pipelines: dict[str, WanPipeline], tmp_path: Path
) -> None:
    pipeline = pipelines["wan2.1"]
    before, shapes = weights_of(pipeline.transformer), shapes_of(pipeline)
    own_names = {"time_embedding.0": "condition_embedder.time_embedder.linear_1", "head.head": "proj_out"}
    tensors, changes = {}, {}
    for own_name, layer in own_names.items():
        outputs, inputs = shapes[layer]
        if layer == "proj_out":
            tensors["diffusion_model.head.head.diff"] = change = 0.1 * torch.randn(outputs, inputs)
            changes[layer] = 2 * change.double()
            continue
        down, up = torch.randn(2, inputs), torch.randn(outputs, 2)
        prefix = f"diffusion_model.{own_name}"
        tensors |= {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
        tensors[f"{prefix}.alpha"] = torch.tensor(1.0)
        changes[layer] = 2 * 0.5 * up.double() @ down.double()
    merge_adapters(pipeline, request_for((write_adapter(tmp_path / "a.safetensors", tensors), 2.0)))
    assert_close_to_float64(pipeline.transformer, before, changes)


def test_stored_settings_of_peft_scale_as_in_stock_diffusers(pipelines: dict[str, WanPipeline], tmp_path: Path) -> None:
    pipeline = pipelines["wan2.1"]
    factors = make_factors(shapes_of(pipeline), rank=4)
    settings = {
        "r": 4,
        "lora_alpha": 7.3,
        "alpha_pattern": {"blocks.1.attn1.to_q": 2.0},
        "target_modules": sorted(factors),
        "use_rslora": True,
    }
    path = write_adapter(
        tmp_path / "a.safetensors",
        diffusers_tensors(factors),
        {f"transformer.{name}": value for name, value in settings.items()},
    )
    stock, before = copy.deepcopy(pipeline), weights_of(pipeline.transformer)
    stock.load_lora_weights(path, adapter_name="a")
    stock.fuse_lora()
    stock.unload_lora_weights()
    merge_adapters(pipeline, request_for((path, 1.0)))
    assert_weights_equal(pipeline.transformer, weights_of(stock.transformer))
    changes = {
        layer: (2.0 if layer == "blocks.1.attn1.to_q" else 7.3) / 2 * up.double() @ down.double()
        for layer, (down, up) in factors.items()
    }
    assert_close_to_float64(pipeline.transformer, before, changes)


def test_two_transformers_get_their_own_files_and_strengths(pipelines: dict[str, WanPipeline], tmp_path: Path) -> None:
    pipeline = pipelines["a14b"]
    before, before_2 = weights_of(pipeline.transformer), weights_of(pipeline.transformer_2)
    high, low = make_factors(shapes_of(pipeline), seed=1), make_factors(shapes_of(pipeline), seed=2)
    high_path = write_adapter(tmp_path / "high.safetensors", diffusers_tensors(high))
    low_path = write_adapter(tmp_path / "low.safetensors", diffusers_tensors(low))
    both = copy.deepcopy(pipeline)
    merge_adapters(both, request_for((high_path, 0.5), path_2=low_path, strength_2=-2.0))
    for transformer, weights, factors, strength in (
        (both.transformer, before, high, 0.5),
        (both.transformer_2, before_2, low, -2.0),
    ):
        changes = {layer: strength * up.double() @ down.double() for layer, (down, up) in factors.items()}
        assert_close_to_float64(transformer, weights, changes)
    merge_adapters(pipeline, request_for((high_path, 0.0), strength_2=1.0))
    assert_weights_equal(pipeline.transformer, before)
    changes = {layer: up.double() @ down.double() for layer, (down, up) in high.items()}
    assert_close_to_float64(pipeline.transformer_2, before_2, changes)


def test_strength_of_zero_changes_no_bit_and_shares_the_loaded_model(
    pipelines: dict[str, WanPipeline], tmp_path: Path
) -> None:
    pipeline = pipelines["wan2.1"]
    before = weights_of(pipeline.transformer)
    path = write_adapter(tmp_path / "a.safetensors", diffusers_tensors(make_factors(shapes_of(pipeline))))
    zero, half = recipe_with(request_for((path, 0.0))), recipe_with(request_for((path, 0.5)))
    merge_adapters(pipeline, request_for((path, 0.0)))
    assert_weights_equal(pipeline.transformer, before)
    assert torch.equal(latents_of(pipeline, zero), latents_of(pipeline, recipe_with(None)))
    assert zero.source.identity == recipe_with(None).source.identity != half.source.identity
    assert zero.source.base_identity == half.source.base_identity
    assert zero.digest != recipe_with(None).digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_change_beyond_the_range_of_the_weights_is_refused_by_layer(
    dtype: torch.dtype, pipelines: dict[str, WanPipeline], tmp_path: Path
) -> None:
    pipeline = pipelines["wan2.1"]
    factors = make_factors(shapes_of(pipeline), dtype=dtype)
    layer = "blocks.1.attn1.to_k"
    down, up = factors[layer]
    factors[layer] = (1e30 * down, 1e30 * up) if dtype == torch.float32 else (1e300 * down, up)
    path = write_adapter(tmp_path / "large.safetensors", diffusers_tensors(factors))
    with pytest.raises(LoadError, match=rf"large\.safetensors.*with it, {layer}\.weight contains NaN or infinity"):
        merge_adapters(pipeline, request_for((path, 1.0)))


@pytest.mark.parametrize(
    ("role", "value", "reason"),
    [
        ("lora_down.weight", float("nan"), "contains NaN or infinity"),
        ("lora_up.weight", float("inf"), "contains NaN or infinity"),
        ("alpha", 0.0, "is 0, but must be positive"),
        ("alpha", -1.0, "is -1, but must be positive"),
    ],
)
def test_value_that_cannot_be_merged_is_refused_by_name(
    role: str, value: float, reason: str, pipelines: dict[str, WanPipeline], tmp_path: Path
) -> None:
    pipeline = pipelines["wan2.1"]
    tensors = comfy_tensors(make_factors(shapes_of(pipeline)), alpha=1.0)
    name = f"diffusion_model.blocks.1.self_attn.k.{role}"
    tensors[name] = torch.tensor(value) if role == "alpha" else tensors[name].clone().fill_(value)
    path = write_adapter(tmp_path / "broken.safetensors", tensors)
    with pytest.raises(LoadError, match=rf"cannot use broken .*broken\.safetensors.*{name} {reason}"):
        merge_adapters(pipeline, request_for((path, 1.0)))


def test_recipe_of_other_adapters_is_refused_before_the_first_step(
    pipelines: dict[str, WanPipeline], tmp_path: Path
) -> None:
    pipeline = pipelines["wan2.1"]
    path = write_adapter(tmp_path / "a.safetensors", diffusers_tensors(make_factors(shapes_of(pipeline))))
    merge_adapters(pipeline, request_for((path, 0.5)))
    with pytest.raises(RuntimeError, match="but the recipe requests"):
        latents_of(pipeline, recipe_with(request_for((path, 0.6))))


@pytest.fixture(scope="module")
def nano_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter for nano, weak enough to leave a video."""
    folder = tmp_path_factory.mktemp("lora")
    shapes = list_adaptable_layer_shapes(load_pipeline(NANO, None, "float32", CPU).transformer)
    return write_adapter(folder / "noise.safetensors", comfy_tensors(make_factors(shapes, rank=2), alpha=0.05))


def test_files_of_the_model_are_not_changed(nano_adapter: Path) -> None:
    """Weights in CPU memory are mapped from the file, and merging changes them in place."""
    file = Path(NANO.location) / "transformer/diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    before = weights_of(load_pipeline(NANO, None, "float32", CPU).transformer)
    merged = load_pipeline(NANO, None, "float32", CPU, lora=request_for((nano_adapter, 1.0)))
    name = "blocks.0.attn1.to_q.weight"
    assert not torch.equal(weights_of(merged.transformer)[name], before[name])
    assert file.read_bytes() == content


def test_adapter_is_merged_before_weights_are_converted_to_8_bits(nano_adapter: Path) -> None:
    request = request_for((nano_adapter, 0.8))
    recipe = recipe_with(request, dtype="bfloat16", weights="float8")
    merged = load_pipeline(NANO, None, "bfloat16", CPU, lora=request)
    quantize_transformer(merged.transformer, "float8")
    loaded = load_recipe_pipeline(recipe, "cpu", RESIDENT_PLAN).pipeline
    assert_weights_equal(loaded.transformer, weights_of(merged.transformer))
    assert torch.equal(latents_of(loaded, recipe), latents_of(merged, recipe))


def test_other_strength_reuses_the_parts_that_adapters_do_not_change(nano_adapter: Path) -> None:
    recipes = [recipe_with(request_for((nano_adapter, strength))) for strength in (0.3, 0.9)]
    first = load_recipe_pipeline(recipes[0], "cpu", RESIDENT_PLAN)
    kept = first.pipeline.text_encoder, first.pipeline.vae, first.latent_to_rgb
    shared = first.detach_shared_parts()
    second = load_recipe_pipeline(recipes[1], "cpu", RESIDENT_PLAN, shared=shared)
    assert (second.pipeline.text_encoder, second.pipeline.vae, second.latent_to_rgb) == kept
    fresh = load_recipe_pipeline(recipes[1], "cpu", RESIDENT_PLAN).pipeline
    assert torch.equal(latents_of(second.pipeline, recipes[1]), latents_of(fresh, recipes[1]))
    assert_weights_equal(second.pipeline.transformer, weights_of(fresh.transformer))
