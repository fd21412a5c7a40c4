"""Memory plans: what each needs, which is chosen, what comes after it, and where the parts of a pipeline are."""

import copy
import math
import subprocess
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock, patch

import pytest
import torch
from conftest import LoadOnce, needs_torchao, recipe_for
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.hooks.group_offloading import ModuleGroup
from tiny import latents_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wantui.batches import rerun
from wantui.captures.attention import AttentionRequest, count_text_columns
from wantui.config import load_config
from wantui.config.plans import PLAN_BY_FORMER_NAME, PlanName
from wantui.generation import bench, cross_attention, fused_attention, kernels, load
from wantui.generation import placement as memory
from wantui.generation import prompt_encoding as encoding
from wantui.generation.bench import WAN_2_2_5B_VAE_CONFIG
from wantui.generation.cuda_errors import is_fatal_cuda_error, is_out_of_memory
from wantui.generation.decode import _decode_latent_frames, decode_chunks, decode_frames
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.errors import LoadError
from wantui.generation.fuse import fuse_blocks, is_fused
from wantui.generation.fused_decoder import NormAndSilu, fuse_decoder
from wantui.generation.load import load_pipeline
from wantui.generation.placement import PipelinePlacement, select_gpu, stream_blocks
from wantui.generation.prompt_encoding import CachedPromptEncoder, collect_prompts
from wantui.generation.self_check import check_text_encoder
from wantui.models.catalogue import CATALOGUE, NANO, WanModel, find_model
from wantui.models.fingerprint import fingerprint_model
from wantui.models.magnitudes import Magnitudes
from wantui.planning import CaptureRequests, PromptMark, Recipe, preview_batch
from wantui.planning import requirements as installed
from wantui.planning.disk_estimate import build_denoising_size, estimate_extra_gpu_bytes
from wantui.planning.flops import count_block_parameters, count_full_precision_parameters, count_transformer_parameters
from wantui.planning.memory_plan import (
    MEMORY_PLANS,
    PLAN_SLUGS,
    RESIDENT_PLAN,
    SMALL_TILE_SIDE_PIXELS,
    TILE_SIDE_PIXELS,
    ChosenPlan,
    MemoryPlan,
    choose_memory_plan,
    estimate_activation_bytes,
    estimate_peak_bytes,
    estimate_peak_working_bytes,
    estimate_required_bytes,
    find_next_plan,
    find_plan,
)
from wantui.planning.model_source import WeightsForm
from wantui.planning.weight_bytes import estimate_block_bytes, estimate_transformer_bytes
from wantui.storage.embeddings import EmbeddingStore
from wantui.worker import pipeline_cache as warm
from wantui.worker import pipelines
from wantui.worker.pipeline_cache import PipelineCache
from wantui.worker.pipelines import choose_recipe_plan, load_recipe_pipeline

pytestmark = pytest.mark.torch

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GB = 1_000_000_000


def recipe_of(model: WanModel, **changes: Any) -> Recipe:
    size = {"width": 832, "height": 480, "frames": 81, "dtype": model.dtype}
    return recipe_for(model, **size | changes)


SMALL, LARGE = find_model("wan2.1-1.3b"), find_model("wan2.1-14b")


def test_settings_offer_every_memory_plan() -> None:
    assert get_args(PlanName) == ("auto", *PLAN_SLUGS)


def test_former_plan_names_are_read_as_slugs() -> None:
    assert set(PLAN_BY_FORMER_NAME.values()) <= set(PLAN_SLUGS)
    assert len(set(PLAN_BY_FORMER_NAME.values())) == len(PLAN_BY_FORMER_NAME) == 9, (
        "every plan that had another name before slugs"
    )
    for name, slug in PLAN_BY_FORMER_NAME.items():
        assert find_plan(name) is find_plan(slug)
        settings = load_config("nano", [f"memory_settings.plan={name}"]).settings
        assert settings.memory_settings.plan == slug


@pytest.mark.parametrize("model", CATALOGUE[1:], ids=lambda model: model.name)
def test_parameter_counts_match_the_published_architecture(model: WanModel) -> None:
    with torch.device("meta"):
        built = WanTransformer3DModel(
            num_attention_heads=model.head_count,
            attention_head_dim=model.transformer_width // model.head_count,
            in_channels=model.latent_channels,
            out_channels=model.latent_channels,
            ffn_dim=model.feed_forward_width,
            num_layers=model.block_count,
            text_dim=model.text_width,
            freq_dim=model.timestep_width,
            cross_attn_norm=True,
        )
    assert sum(p.numel() for p in built.parameters()) == count_transformer_parameters(model)
    kept = WanTransformer3DModel._keep_in_fp32_modules
    in_full = sum(p.numel() for name, p in built.named_parameters() if any(part in name for part in kept))
    assert in_full == count_full_precision_parameters(model)
    assert sum(p.numel() for p in built.blocks[0].parameters()) == count_block_parameters(model)


@pytest.mark.parametrize(("weights", "most"), [("float8", 0.3), pytest.param("int8", 0.1, marks=needs_torchao)])
def test_weights_in_8_bits_have_predicted_size_and_a_similar_video(weights: WeightsForm, most: float) -> None:
    recipe = recipe_for(NANO, frames=5, steps=8, dtype="bfloat16", width=64, height=64)
    whole = load_pipeline(NANO, None, "bfloat16", CPU)
    narrow = load_pipeline(NANO, None, "bfloat16", CPU, weights=weights)
    for pipeline, held in ((whole, "full"), (narrow, weights)):
        asked = recipe.model_copy(update={"weights": held})
        assert bytes_of(pipeline.transformer) == estimate_transformer_bytes(NANO, asked)
        assert bytes_of(pipeline.transformer.blocks[0]) == estimate_block_bytes(NANO, asked)
    exact, near = latents_of(whole, recipe), latents_of(narrow, recipe)
    assert 0 < float((near - exact).norm() / exact.norm()) < most
    assert torch.equal(latents_of(narrow, recipe), near)


@needs_torchao
def test_int8_weights_can_be_offloaded_by_block() -> None:
    recipe = recipe_for(NANO, frames=5, steps=2, dtype="bfloat16", width=64, height=64)
    there = latents_of(load_pipeline(NANO, None, "bfloat16", CPU, weights="int8"), recipe)
    pipeline = load_pipeline(NANO, None, "bfloat16", CPU, weights="int8")
    pipeline.transformer.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )
    assert torch.equal(latents_of(pipeline, recipe), there)


def test_int8_without_torchao_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    outline = preview_batch(load_config("nano", ["model_settings.weights=int8"]), "a circle")
    assert any("int8 needs torchao: pip install torchao" in refusal for refusal in outline.refusals)
    with pytest.raises(LoadError, match="int8 needs torchao"):
        load_pipeline(NANO, None, "bfloat16", CPU, weights="int8")


def test_large_model_in_8_bits_needs_no_streaming() -> None:
    recipe = recipe_of(LARGE)
    assert choose_memory_plan(LARGE, recipe, 24 * GB).plan.transformer_placement == "streamed"
    assert (
        choose_memory_plan(LARGE, recipe.model_copy(update={"weights": "float8"}), 24 * GB).plan.transformer_placement
        != "streamed"
    )


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of all parameters; torchao stores a quantised one as values and a scale."""

    def tensors(parameter: Any) -> list[torch.Tensor]:
        return [parameter.qdata, parameter.scale] if hasattr(parameter, "qdata") else [parameter]

    return sum(tensor.nbytes for parameter in module.parameters() for tensor in tensors(parameter))


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many bytes of tensors live at a time, at most; also where they hold no data."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.live += storage.nbytes()
                self.most = max(self.most, self.live)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _freed(self, storage: int, size: int) -> None:
        self.seen.discard(storage)
        self.live -= size


def measure_decoded_tensor_bytes(model: WanModel, vae: AutoencoderKLWan, width: int, height: int) -> int:
    """Return the most bytes that tensors take while a VAE on the meta device decodes."""
    latents = torch.empty(1, *model.compute_latent_shape(width, height, 17), device="meta")
    pipeline = Mock(vae=vae, _execution_device=latents.device, wantui_placement=None)
    with torch.no_grad(), LiveBytes() as live:
        for _ in _decode_latent_frames(pipeline, latents):
            pass
    return int(live.most)


def test_vae_memory_scales_with_its_tensors() -> None:
    """Of Wan 2.1 a GPU needs 1.16 times what its tensors take, as was measured there."""
    nano = AutoencoderKLWan.load_config(Path(NANO.location) / "vae")
    for name, config in (("wan2.1-1.3b", {}), ("wan2.2-5b", WAN_2_2_5B_VAE_CONFIG), ("nano", nano)):
        model, width, height = find_model(name), 416, 256
        with torch.device("meta"):
            vae = AutoencoderKLWan.from_config(config)
        assert sum(p.numel() for p in vae.parameters()) == model.vae_parameter_count
        most = measure_decoded_tensor_bytes(model, vae, width, height)
        assert model.decode_bytes_per_pixel * width * height == pytest.approx(22_660 / 19_510 * most, rel=0.05)


def test_memory_of_a_fused_decoder_scales_with_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU needs what the tensors take, as was measured there: cuDNN needs no workspace for this layout."""

    def normalise_without_temporary_tensors(norm: NormAndSilu, values: Tensor, output: Tensor | None = None) -> Tensor:
        return torch.empty_like(values) if output is None else output  # like the kernel

    monkeypatch.setattr(NormAndSilu, "forward", normalise_without_temporary_tensors)
    for name, config in (("wan2.1-1.3b", {}), ("wan2.2-5b", WAN_2_2_5B_VAE_CONFIG)):
        model, width, height = find_model(name), 416, 256
        with torch.device("meta"):
            vae = AutoencoderKLWan.from_config(config)
        fuse_decoder(vae)
        most = measure_decoded_tensor_bytes(model, vae, width, height)
        assert model.fused_decode_bytes_per_pixel * width * height == pytest.approx(most, rel=0.01)
        assert model.fused_decode_bytes_per_pixel < model.decode_bytes_per_pixel


def test_catalogue_entry_of_nano_matches_its_files() -> None:
    result = find_model(str(Path(NANO.location)))
    assert (result.text_encoder_parameter_count, result.vae_parameter_count) == (
        NANO.text_encoder_parameter_count,
        NANO.vae_parameter_count,
    )


@pytest.mark.parametrize(
    ("model", "free", "plan"),
    [
        (SMALL, 80, "resident"),
        (SMALL, 24, "encode-first"),
        (SMALL, 12, "offload"),
        (SMALL, 8, "tiled"),
        (LARGE, 80, "resident"),
        (LARGE, 48, "encode-first"),
        (LARGE, 24, "stream"),
        (LARGE, 8, "stream-tiled"),
    ],
)
def test_first_fitting_plan_is_chosen_with_its_reason(model: WanModel, free: int, plan: str) -> None:
    recipe = recipe_of(model)
    chosen = choose_memory_plan(model, recipe, free * GB)
    assert chosen.plan.slug == plan
    assert chosen.fits
    assert chosen.peak_bytes is not None
    assert chosen.peak_bytes <= free * GB
    assert f"{free}.0 GB are free" in chosen.reason
    if chosen.plan is not RESIDENT_PLAN:
        assert chosen.reason.startswith("resident needs")


def test_smallest_plan_is_tried_when_none_fits() -> None:
    recipe = recipe_of(LARGE)
    chosen = choose_memory_plan(LARGE, recipe, 2 * GB)
    assert not chosen.fits
    assert estimate_required_bytes(chosen.plan, LARGE, recipe) == min(
        estimate_required_bytes(plan, LARGE, recipe) or 0 for plan in MEMORY_PLANS
    )


def test_requested_plan_is_used_regardless_of_free_memory() -> None:
    chosen = choose_memory_plan(LARGE, recipe_of(LARGE), 8 * GB, RESIDENT_PLAN)
    assert (chosen.plan, chosen.fits) == (RESIDENT_PLAN, False)
    assert "requested; it needs" in chosen.reason


def test_resident_plan_is_tried_for_a_model_of_unknown_size() -> None:
    unknown = find_model("someone/some-wan")
    assert choose_memory_plan(unknown, recipe_of(unknown), 8 * GB).plan is RESIDENT_PLAN


@pytest.mark.parametrize(
    ("free", "name", "reason"),
    [
        (80 * GB, "encode-first", "did not fit, and 80.0 GB are free"),
        (8 * GB, "tiled", "did not fit, and encode-first needs 13.7 GB, and 8.0 GB are free"),
        (1 * GB, "sequential", "no plan fits"),
    ],
)
def test_next_fitting_plan_follows_a_failed_one(
    free: int, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "resolve_device", lambda _: GPU)
    monkeypatch.setattr(pipelines, "query_free_gpu_bytes", lambda _: free)
    chosen = choose_recipe_plan(recipe_of(SMALL), "cuda", find_plan("encode-first"))
    assert chosen.plan.slug == name
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("speed", "provenance", "free", "slug"),
    [
        ("fused", {"tile": None, "blocks": "fused", "threads": None}, 80 * GB, "resident"),
        ("fused", {"tile": 128, "blocks": "fused", "threads": None}, 80 * GB, "small-tiles"),
        ("fused", {"tile": 128, "blocks": "reference", "threads": None}, 80 * GB, "sequential"),
        ("fp8", {"tile": 128, "blocks": "fp8", "threads": None}, 80 * GB, "small-tiles"),
        ("reference", {"tile": 128, "blocks": "reference", "threads": None}, 80 * GB, "small-tiles"),
        ("fused", {"tile": 256, "blocks": "fused", "threads": None}, 80 * GB, "tiled"),
        ("fused", {"tile": 128, "blocks": "fused", "threads": None}, 3 * GB, "sequential"),
        ("fused", {"tile": 128, "blocks": "reference", "threads": 8}, 80 * GB, "small-tiles"),
        ("fused", {"tile": None, "blocks": "reference", "threads": 8}, 80 * GB, "resident"),
        ("fused", {"tile": 128, "threads": None}, 80 * GB, "small-tiles"),
        ("fused", {"blocks": "fused", "threads": None}, 3 * GB, "sequential"),
        ("fused", {}, 80 * GB, "resident"),
    ],
)
def test_rerun_chooses_a_plan_with_the_tiles_and_blocks_of_the_original(
    speed: str, provenance: dict[str, Any], free: int, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pipelines, rerun):
        monkeypatch.setattr(module, "resolve_device", lambda _: GPU)
    monkeypatch.setattr(pipelines, "query_free_gpu_bytes", lambda _: free)
    assert rerun.choose_rerun_plan(recipe_of(SMALL, speed=speed), "cuda", provenance).slug == slug


@pytest.mark.parametrize("blocks", ["fused", "reference"])
def test_rerun_on_a_cpu_chooses_a_plan_for_cpus(blocks: str) -> None:
    provenance = {"tile": 128, "blocks": blocks}
    assert rerun.choose_rerun_plan(recipe_of(SMALL, speed="fused"), "cpu", provenance).slug == "small-tiles"


def test_plan_is_chosen_again_for_each_video_after_low_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe_of(NANO)
    loaded: list[MemoryPlan] = []
    result = [ChosenPlan(find_plan(name), None, "") for name in ("tiled", "tiled", "encode-first")]
    asked = iter(result)
    monkeypatch.setattr(warm, "choose_recipe_plan", lambda *_: next(asked))

    def load(recipe: Recipe, device: str, plan: MemoryPlan, *_: object, **__: object) -> Mock:
        loaded.append(plan)
        return Mock(plan=plan, latent_to_rgb=Mock(r2=1.0))

    monkeypatch.setattr(warm, "load_recipe_pipeline", load)
    monkeypatch.setattr(warm, "check_weight_fingerprints", lambda _: None)
    pipeline, claim, manifest = (
        PipelineCache(Mock(), "cuda"),
        Mock(device="auto", first_plan_slug="encode-first"),
        Mock(videos=[]),
    )
    for _ in range(5):
        pipeline.get_pipeline(claim, recipe, manifest, Mock(), Mock())
    assert loaded == [result[0].plan, result[2].plan]


def ladder(model: WanModel | None, on_gpu: bool) -> list[str]:
    recipe = None if model is None else recipe_of(model)
    result, plan = [], find_next_plan(RESIDENT_PLAN, on_gpu, model, recipe)
    while plan is not None:
        result.append(plan.slug)
        plan = find_next_plan(plan, on_gpu, model, recipe)
    return result


def test_each_next_plan_needs_less_memory() -> None:
    for model in (SMALL, LARGE):
        plans = [find_plan(name) for name in ladder(model, True)]
        estimates = [estimate_peak_bytes(plan, model, recipe_of(model), streams_encoder=True) for plan in plans]
        peaks = [peak for peak in estimates if peak is not None]
        assert len(peaks) == len(plans)
        assert peaks == sorted(peaks, reverse=True)
        assert len(set(peaks)) == len(peaks) >= 4


def test_plan_order_on_a_cpu_skips_plans_without_benefit() -> None:
    assert ladder(SMALL, on_gpu=False) == ["encode-first", "tiled", "small-tiles"]


@pytest.mark.parametrize(
    ("device", "plan", "calls"),
    [
        (GPU, "resident", ["to"]),
        (GPU, "encode-first", ["to"]),
        (GPU, "tiled", ["vae.enable_tiling", "to"]),
        (GPU, "offload", []),
        (GPU, "sequential", ["vae.enable_tiling", "transformer.enable_group_offload"]),
        (CPU, "small-tiles", ["vae.enable_tiling", "to"]),
    ],
)
def test_offloaded_pipeline_is_never_moved_to_the_gpu_whole(device: torch.device, plan: str, calls: list[str]) -> None:
    pipeline = Mock(transformer_2=None, text_encoder=None)
    PipelinePlacement(pipeline, device, find_plan(plan))
    assert [call[0] for call in pipeline.mock_calls] == calls


def test_streamed_transformer_is_not_moved_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Mock(text_encoder=None)
    streamed: list[object] = []
    monkeypatch.setattr(memory, "stream_blocks", lambda transformer, device: streamed.append(transformer))
    PipelinePlacement(pipeline, GPU, find_plan("stream"))
    assert streamed == [pipeline.transformer, pipeline.transformer_2]
    assert pipeline.mock_calls == []


@pytest.mark.parametrize(
    ("model", "size", "saved"),
    [
        ("wan2.1-1.3b", (832, 480, 81), 0.49),
        ("wan2.1-1.3b", (1280, 720, 49), 0.69),
        ("wan2.1-14b", (832, 480, 81), 0.97),
        ("wan2.2-5b", (1280, 704, 49), 1.58),
    ],
)
def test_fused_blocks_need_less_memory_as_measured(model: str, size: tuple[int, int, int], saved: float) -> None:
    """GB between the peaks of reference and fused denoising that tests/benchmarks/gpu.py printed on an H100."""
    known, (width, height, frames) = find_model(model), size
    recipe = recipe_of(known, width=width, height=height, frames=frames)
    less = estimate_activation_bytes(known, recipe) - estimate_activation_bytes(known, recipe, is_fused=True)
    assert less / GB == pytest.approx(saved, abs=0.07)


@pytest.mark.parametrize(("plan", "less"), [("stream-tiled", True), ("sequential", False)])
def test_plan_with_fused_blocks_predicts_their_memory(plan: str, less: bool) -> None:
    reference, fused = (
        estimate_peak_bytes(find_plan(plan), LARGE, recipe_of(LARGE, width=1280, height=720, speed=speed), True) or 0
        for speed in ("reference", "fused")
    )
    assert (fused < reference - GB, fused == reference) == (less, not less)


def test_resident_layers_around_streamed_blocks_match_the_architecture() -> None:
    with torch.device("meta"):
        built = WanTransformer3DModel(num_attention_heads=40, ffn_dim=13824, num_layers=1, cross_attn_norm=True)
    kept = built._keep_in_fp32_modules
    around = [(name, p) for name, p in built.named_parameters() if not name.startswith("blocks.")]
    rest = sum(p.numel() * (4 if any(part in name for part in kept) else 2) for name, p in around)
    one, two = LARGE, find_model("wan2.2-a14b")
    recipe = recipe_of(one, width=1280, height=720)
    assert estimate_transformer_bytes(one, recipe) - one.block_count * estimate_block_bytes(one, recipe) == rest
    peaks = [estimate_peak_bytes(find_plan("stream"), model, recipe) for model in (one, two)]
    assert peaks[1] == (peaks[0] or 0) + rest  # most is needed while the VAE decodes


def test_kernels_run_on_the_requested_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("cpu", "cuda", "cuda:1"):
        select_gpu(torch.device(name))
    assert current == [torch.device("cuda:1")]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines are loaded as on a GPU, and stay in the machine's memory."""
    monkeypatch.setattr(load, "can_fuse_pipeline", lambda *_: True)
    monkeypatch.setattr(load, "explain_missing_compiler", lambda: None)
    monkeypatch.setattr(load, "apply_memory_plan", lambda *_: None)


@pytest.mark.parametrize("model", ["wan2.1", "5b", "a14b"])
def test_fused_pipeline_is_checked_after_fusing(
    model: str, tiny_models: dict[str, WanModel], as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    ours = fused_attention.apply_norm_and_rotary

    def counted(*arguments: Any) -> None:
        checked.append(arguments[0].shape[1])
        ours(*arguments)

    monkeypatch.setattr(fused_attention, "apply_norm_and_rotary", counted)
    pipeline = load_pipeline(tiny_models[model], None, "float32", GPU, speed="fused")
    transformers = [one for one in (pipeline.transformer, pipeline.transformer_2) if one is not None]
    assert all(is_fused(one) for one in transformers)
    assert checked == [64] * sum(len(one.blocks) for one in transformers)


def test_missing_kernel_requirements_are_reported_before_loading(
    as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_pipeline_parts", Mock(side_effect=AssertionError))
    with pytest.raises(LoadError, match=r"chose the attention kernel _flash_3, but .*`wantui bench` again"):
        load_pipeline(SMALL, None, "bfloat16", GPU, speed="fused", attention_kernel="_flash_3")
    monkeypatch.setattr(load, "explain_missing_compiler", lambda: "no C compiler is installed")
    with pytest.raises(
        LoadError, match=r"no C compiler is installed\. Install it, or choose model_settings.speed: reference"
    ):
        load_pipeline(SMALL, None, "bfloat16", GPU, speed="fused")
    with pytest.raises(LoadError, match="no C compiler is installed"):
        bench.measure_throughput(torch.device("cuda"), "fused", print)


@pytest.mark.parametrize(
    ("device", "dtype", "triton_version", "is_refused"),
    [
        (GPU, torch.bfloat16, "3.6", True),
        (GPU, torch.float32, "3.6", False),
        (GPU, torch.bfloat16, None, False),
        (torch.device("cpu"), torch.bfloat16, "3.6", False),
    ],
)
def test_missing_compiler_for_attention_maps_is_reported_before_the_first_step(
    device: torch.device,
    dtype: torch.dtype,
    triton_version: str | None,
    is_refused: bool,
    tiny_models: dict[str, WanModel],
    load_once: LoadOnce,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "find_triton_version", lambda: triton_version)
    monkeypatch.setattr(kernels, "explain_missing_compiler", lambda: "no C compiler is installed")
    monkeypatch.setattr(cross_attention, "find_device", lambda _: device)
    name = str(dtype).removeprefix("torch.")
    pipeline = load_once(tiny_models["wan2.1"], name)
    capture = CaptureRequests(attention=AttentionRequest(interval=1))
    recipe = recipe_for(tiny_models["wan2.1"], dtype=name, capture=capture)
    if not is_refused:
        assert prepare_inputs(pipeline, recipe).hooks_by_capture
        return
    with pytest.raises(LoadError, match=r"attention maps, word weights and bends compile .*, but no C compiler"):
        prepare_inputs(pipeline, recipe)


def test_float32_needs_the_kernel_of_the_decoder(
    tiny_models: dict[str, WanModel], as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_fused(load_pipeline(tiny_models["wan2.1"], None, "float32", GPU, speed="fused").transformer)
    monkeypatch.setattr(load, "explain_missing_compiler", lambda: "no C compiler is installed")
    with pytest.raises(LoadError, match="speed: fused compiles kernels on this machine, but no C compiler"):
        load_pipeline(tiny_models["wan2.1"], None, "float32", GPU, speed="fused")


def test_kernel_build_failure_names_its_requirements(
    tiny_models: dict[str, WanModel], as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiler(*_: object) -> None:
        raise subprocess.CalledProcessError(1, ["gcc", "main.c"])

    monkeypatch.setattr(fused_attention, "apply_norm_and_rotary", compiler)
    with pytest.raises(LoadError, match=r"speed: fused needs kernels.*'gcc', 'main.c'.*python3-dev.*speed: reference"):
        load_pipeline(tiny_models["wan2.1"], None, "float32", GPU, speed="fused")


@pytest.mark.parametrize("fused", [False, True])
def test_streaming_moves_only_blocks_and_changes_no_bit(
    tiny: WanPipeline, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    there, transformer = (copy.deepcopy(tiny.transformer) for _ in range(2))
    if fused:
        fuse_blocks(there)
        fuse_blocks(transformer)
    offload = transformer.enable_group_offload
    # A CPU has no streams; what comes and goes is the same.
    monkeypatch.setattr(transformer, "enable_group_offload", lambda **how: offload(**{**how, "use_stream": False}))
    stream_blocks(transformer, CPU)
    came: list[list[torch.nn.Module]] = []
    onload = ModuleGroup.onload_

    def recorded_onload(group: ModuleGroup) -> None:
        came.append(group.modules)
        onload(group)

    monkeypatch.setattr(ModuleGroup, "onload_", recorded_onload)
    inputs = (torch.randn(1, 16, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 512, transformer.config.text_dim))
    with torch.no_grad():
        streamed = transformer(*inputs, return_dict=False)[0]
        assert torch.equal(streamed, there(*inputs, return_dict=False)[0])
    assert came == [[block] for block in transformer.blocks]


class Part(torch.nn.Module):
    """Tells where it was put, and believes it."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.name, self.log, self.where = name, log, "cpu"

    def to(self, device: Any) -> "Part":  # type: ignore[override]
        self.where = torch.device(device).type
        self.log.append(f"{self.name} to {self.where}")
        return self


def test_offload_plan_keeps_one_part_on_the_gpu() -> None:
    log: list[str] = []
    parts = {name: Part(name, log) for name in ("vae", "transformer", "transformer_2")}
    placement = PipelinePlacement(Mock(text_encoder=None, **parts), GPU, find_plan("offload"))
    for name in ("transformer", "transformer", "transformer_2", "vae", "transformer"):
        placement.ensure_on_device(parts[name])
        assert [part.name for part in parts.values() if part.where == "cuda"] == [name]
    assert log[:3] == ["transformer to cuda", "transformer to cpu", "transformer_2 to cuda"]


def test_tiles_larger_than_the_picture_give_the_same_frames(tiny: WanPipeline) -> None:
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = list(decode_frames(tiny, latents))
    tiny.vae.enable_tiling()
    try:
        tiled = list(decode_frames(tiny, latents))
        chunks = list(decode_chunks(tiny, latents))
    finally:
        tiny.vae.disable_tiling()
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4], "frames are not held until all are decoded"
    assert len(whole) == len(tiled) == 9
    assert all((one == other).all() for one, other in zip(whole, tiled, strict=True))


def test_tiles_overlap_by_a_quarter() -> None:
    pipeline = Mock(transformer_2=None)
    PipelinePlacement(pipeline, CPU, find_plan("tiled"))
    PipelinePlacement(pipeline, CPU, find_plan("small-tiles"))
    sides = [call.args for call in pipeline.vae.enable_tiling.call_args_list]
    assert sides == [
        (TILE_SIDE_PIXELS, TILE_SIDE_PIXELS, 192, 192),
        (SMALL_TILE_SIDE_PIXELS, SMALL_TILE_SIDE_PIXELS, 96, 96),
    ]


# Prompts that are encoded first.


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wantui" / "embeddings"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stored_embeddings_are_bit_identical_to_the_pipelines(kept: Path, dtype: str) -> None:
    recipe = recipe_of(NANO, dtype=dtype, negative_prompt="blurred", width=128, height=128, frames=17)
    embeddings = CachedPromptEncoder(NANO, None, dtype, CPU)
    assert embeddings.encode_prompts(collect_prompts([recipe])) == 2
    assert embeddings.encode_prompts(collect_prompts([recipe])) == 0
    assert len(list(kept.iterdir())) == 2
    whole = load_pipeline(NANO, None, dtype, CPU)
    without = load_pipeline(NANO, None, dtype, CPU, find_plan("encode-first"))
    assert without.text_encoder is None
    ours, stock = prepare_inputs(without, recipe, embeddings), prepare_inputs(whole, recipe)
    assert torch.equal(ours.prompts.prompts[0].embeds, stock.prompts.prompts[0].embeds)
    assert ours.negative_prompt_embeds is not None
    assert stock.negative_prompt_embeds is not None
    assert torch.equal(ours.negative_prompt_embeds, stock.negative_prompt_embeds)


def test_negative_prompt_is_not_encoded_without_guidance() -> None:
    assert collect_prompts([recipe_of(NANO, guidance_scale=1.0, negative_prompt="blurred")] * 2) == [
        recipe_of(NANO).prompt
    ]


def test_text_encoder_that_does_not_fit_is_streamed_by_layer(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    real = CachedPromptEncoder._encode_and_store

    def encode(self: CachedPromptEncoder, pipeline: WanPipeline, prompts: Any) -> None:
        tried.append("encode")
        if len(tried) == 1:
            raise torch.OutOfMemoryError("no room")
        real(self, pipeline, prompts)

    monkeypatch.setattr(CachedPromptEncoder, "_encode_and_store", encode)
    with patch.object(CachedPromptEncoder, "_stream_encoder", lambda self, pipeline: tried.append("stream")):
        CachedPromptEncoder(NANO, None, "float32", CPU).encode_prompts(["a", "b"])
    assert tried == ["encode", "stream", "encode"]


def test_damaged_embedding_file_is_rewritten(kept: Path) -> None:
    embeddings = CachedPromptEncoder(NANO, None, "float32", CPU)
    embeddings.encode_prompts(["a"])
    embeddings.store.find_embedding_path("a").write_bytes(b"\x93NUMPY nonsense")
    assert embeddings.encode_prompts(["a"]) == 1


def test_deleted_embeddings_are_encoded_again(kept: Path) -> None:
    embeddings = CachedPromptEncoder(NANO, None, "float32", CPU)
    embeddings.encode_prompts(["a"])
    first = embeddings("a")
    embeddings.store.find_embedding_path("a").unlink()
    assert torch.equal(embeddings("a"), first)


def test_unwritable_embedding_store_is_reported_with_a_remedy(kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("not a folder")
    with pytest.raises(LoadError, match=r"cannot store text embeddings in .*embeddings.*set XDG_CACHE_HOME"):
        CachedPromptEncoder(NANO, None, "float32", CPU).encode_prompts(["a"])


def test_embeddings_of_a_read_only_cache_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    import numpy as np

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    store = EmbeddingStore({}, tmp_path)
    store.write_embedding("a", np.arange(4.0))
    monkeypatch.setattr(os, "utime", refuse)
    embedding = store.read_embedding("a")
    assert embedding is not None
    assert embedding.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_oldest_unneeded_embeddings_are_deleted_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    import numpy as np

    store = EmbeddingStore({}, tmp_path)
    for age, prompt in enumerate(("new", "old", "needed")):
        store.write_embedding(prompt, np.zeros(100, np.float32))
        os.utime(store.find_embedding_path(prompt), (1000 - age, 1000 - age))
    monkeypatch.setattr("wantui.storage.embeddings.MAX_CACHE_BYTES", 1100)
    store.remove_least_used_files({"needed"})
    assert [store.find_embedding_path(prompt).exists() for prompt in ("new", "old", "needed")] == [True, False, True]


def test_two_workers_can_store_the_same_embedding_concurrently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    store, values, save = EmbeddingStore({}, tmp_path / "kept"), np.arange(4.0), np.save

    def meanwhile(file: Any, array: Any, **options: Any) -> None:
        monkeypatch.setattr(np, "save", save)
        store.write_embedding("a", values)
        save(file, array, **options)

    monkeypatch.setattr(np, "save", meanwhile)
    store.write_embedding("a", values)
    assert np.array_equal(store.read_embedding("a"), values)  # type: ignore[arg-type]
    assert list(store.directory.iterdir()) == [store.find_embedding_path("a")]


def test_embeddings_of_another_worker_are_reused(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = (CachedPromptEncoder(NANO, None, "float32", CPU) for _ in range(2))
    encoded: list[str] = []

    def meanwhile(pipeline: WanPipeline, device: torch.device) -> None:
        check_text_encoder(pipeline, device)
        monkeypatch.setattr(encoding, "check_text_encoder", check_text_encoder)
        other.encode_prompts(["a"])
        encode = pipeline.encode_prompt

        def recorded_encode(prompt: str, *arguments: Any, **options: Any) -> Any:
            encoded.append(prompt)
            return encode(prompt, *arguments, **options)

        pipeline.encode_prompt = recorded_encode

    monkeypatch.setattr(encoding, "check_text_encoder", meanwhile)
    ours.encode_prompts(["a", "b"])
    assert encoded == ["b"]


def test_other_model_revision_has_other_embeddings(kept: Path) -> None:
    one = EmbeddingStore({"model": "a", "revision": "1"}).find_embedding_path("a circle")
    assert one != EmbeddingStore({"model": "a", "revision": "2"}).find_embedding_path("a circle")


def test_gpu_only_plan_is_refused_on_a_cpu(kept: Path) -> None:
    recipe = recipe_of(NANO, revision=fingerprint_model(Path(NANO.location)))
    with pytest.raises(LoadError, match="is for GPUs"):
        choose_recipe_plan(recipe, "cpu", requested_slug="stream")
    assert choose_recipe_plan(recipe, "cpu").plan is RESIDENT_PLAN
    loaded = load_recipe_pipeline(
        recipe_of(NANO), "cpu", choose_recipe_plan(recipe, "cpu", find_plan("encode-first")).plan
    )
    assert loaded.pipeline.text_encoder is None
    assert loaded.embeddings is not None


ALLOCATOR_ASSERTION = (
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154, please report a bug'
)
"""Message of torch that is out of memory on a MIG instance."""


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (RuntimeError("shapes do not match"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("CUDA error: out of memory"), False),  # as where memory is pinned
        (RuntimeError(ALLOCATOR_ASSERTION), False),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at driver_api.cpp"), False),
        (RuntimeError("Triton Error [CUDA]: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemmEx`"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (ValueError("CUDA error"), False),
    ],
)
def test_fatal_gpu_error_is_distinguished_from_a_failed_video(error: Any, lost: bool) -> None:
    signs = ("out of memory", "ALLOC_FAILED", "CUDACachingAllocator")
    assert is_out_of_memory(error) == any(sign in str(error) for sign in signs)
    assert is_fatal_cuda_error(error) == lost
    wrapped = ValueError("it cannot be loaded")
    wrapped.__cause__ = error
    assert is_fatal_cuda_error(wrapped) == lost


def test_predicted_peak_equals_measured_peak_without_the_encoder() -> None:
    small = recipe_of(SMALL, width=480, height=480, frames=33)
    chosen = choose_memory_plan(SMALL, small, 16 * GB)
    assert chosen.plan.slug == "encode-first"
    assert chosen.peak_bytes is not None
    assert chosen.working_bytes is not None
    assert chosen.working_bytes < 0.8 * chosen.peak_bytes
    assert chosen.working_bytes == estimate_peak_bytes(
        chosen.plan, replace(SMALL, text_encoder_parameter_count=0), small
    )
    resident = choose_memory_plan(SMALL, small, 80 * GB)
    assert resident.working_bytes == resident.peak_bytes


def test_earlier_states_of_a_trajectory_are_predicted_where_they_fit() -> None:
    recipe, tiled = recipe_of(LARGE, steps=50), find_plan("tiled")
    states_bytes = 4 * 50 * 16 * 21 * 60 * 104
    required_bytes = estimate_required_bytes(tiled, LARGE, recipe) or 0
    working_bytes = estimate_peak_working_bytes(tiled, LARGE, recipe) or 0
    roomy, narrow = (choose_memory_plan(LARGE, recipe, free, tiled) for free in (80 * GB, required_bytes))
    assert roomy.working_bytes == roomy.peak_bytes == working_bytes + states_bytes
    assert narrow.fits
    assert narrow.working_bytes == narrow.peak_bytes == working_bytes
    untracked = recipe.model_copy(update={"capture": CaptureRequests(geometry=False)})
    assert choose_memory_plan(LARGE, untracked, 80 * GB, tiled).peak_bytes == working_bytes


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("unconditional", [False, True])
def test_memory_of_per_block_maps_is_predicted(nano: WanPipeline, per_head: bool, unconditional: bool) -> None:
    alone = recipe_for(NANO, steps=2, width=128, height=128, frames=17)
    marks = (PromptMark(text="circle", start=12, end=18),)
    capture = CaptureRequests(
        attention=AttentionRequest(per_block=True, per_head=per_head, unconditional=unconditional)
    )
    shown = alone.model_copy(update={"prompt": "a large red circle", "marks": marks, "capture": capture})
    result = []
    for recipe in (alone, shown):
        steps = denoise_latents(nano, recipe)
        next(steps)  # which checks the maps of some places, in float64
        with LiveBytes() as live:
            next(steps)
        result.append(live.most)
    head_count = NANO.head_count if per_head else 1
    block_bytes = 4 * math.prod(build_denoising_size(shown, NANO).position_grid) * 24 * head_count
    predicted_bytes = estimate_extra_gpu_bytes(shown, NANO)
    assert predicted_bytes - block_bytes == pytest.approx(result[1] - result[0], rel=0.01)
    needed = [estimate_peak_working_bytes(find_plan("offload"), LARGE, recipe) or 0 for recipe in (alone, shown)]
    assert needed[1] - needed[0] == estimate_extra_gpu_bytes(shown, LARGE)


@pytest.mark.parametrize("unconditional", [False, True])
def test_memory_of_maps_by_head_of_a_long_prompt_is_predicted(nano: WanPipeline, unconditional: bool) -> None:
    prompt = "a large red circle " * 25
    alone = recipe_for(NANO, steps=2, width=128, height=128, frames=17, prompt=prompt.strip())
    capture = CaptureRequests(attention=AttentionRequest(per_head=True, unconditional=unconditional))
    marks = (PromptMark(text="circle", start=12, end=18),)
    peaks = []
    for recipe in (alone, alone.model_copy(update={"marks": marks, "capture": capture})):
        steps = denoise_latents(nano, recipe)
        next(steps)
        with LiveBytes() as live:
            next(steps)
        peaks.append(live.most)
    measured_bytes, predicted_bytes = peaks[1] - peaks[0], estimate_extra_gpu_bytes(recipe, NANO)
    map_bytes = 4 * math.prod(build_denoising_size(alone, NANO).position_grid) * NANO.head_count
    assert 104 * map_bytes <= measured_bytes <= predicted_bytes  # 101 columns in multiples of 8
    if not unconditional:
        columns = count_text_columns(101)  # 100 words and the end token
        predicted_columns = count_text_columns(len(alone.prompt) + 2)  # a token per character
        assert measured_bytes == pytest.approx(predicted_bytes * columns / predicted_columns, rel=0.06)


def test_memory_of_a_bent_output_depends_on_the_dtype() -> None:
    bends = {"bends": [{"name": "flip", "words": ["red"], "transform": {"mode": "flip", "flip_horizontal": True}}]}
    wide, narrow = (
        recipe_of(SMALL, dtype=dtype, controls={"attention_bending": bends}) for dtype in ("float32", "bfloat16")
    )
    value_count = math.prod(build_denoising_size(wide, SMALL).position_grid) * SMALL.transformer_width
    assert estimate_extra_gpu_bytes(wide, SMALL) - estimate_extra_gpu_bytes(narrow, SMALL) == 2 * value_count


@pytest.mark.parametrize("magnitudes", [(), ((1.0, 0.0), (0.0, -1.0))])
def test_step_cache_memory_is_predicted(nano: WanPipeline, magnitudes: Magnitudes) -> None:
    fused = recipe_for(NANO, steps=4, speed="fused", width=128, height=128, frames=17)
    cached = fused.model_copy(update={"speed": "cached", "magnitudes": magnitudes})
    result = []
    for recipe in (fused, cached):
        start = prepare_inputs(nano, recipe)
        with LiveBytes() as live:
            for _ in denoise_latents(nano, recipe, start):
                pass
        result.append(live.most)
    counted = estimate_activation_bytes(NANO, cached) - estimate_activation_bytes(NANO, fused)
    assert result[1] - result[0] == pytest.approx(counted, rel=0.01)
