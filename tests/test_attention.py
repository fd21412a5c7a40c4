"""Attention maps and weights of marked words, against a softmax over all 512 positions in float64."""

import copy
import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import zarr
from attention_reference import PROMPT, attention_hook, exact_attention, marks, projections_of
from conftest import LoadOnce, recipe_for
from diffusers import WanPipeline
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_dispatch import dispatch_attention_fn
from tiny import FORMS, diffusers_output

from wantui.captures.attention import AttentionRequest
from wantui.generation import attention_hooks
from wantui.generation import step_cache as cache
from wantui.generation.attention_check import AttentionCheckResults, BlockCheckResult, CaptureMismatchError
from wantui.generation.controls.word_weights import WordWeights
from wantui.generation.cross_attention import CrossAttentionObserver
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.fuse import fuse_blocks
from wantui.generation.make_video import StepFinished, generate_video
from wantui.generation.token_spans import MarkOutOfRangeError, tokenize_prompt
from wantui.models.catalogue import NANO, WanModel
from wantui.planning import CaptureRequests, Recipe
from wantui.planning.disk_estimate import estimate_recipe_disk
from wantui.planning.map_names import assign_map_names
from wantui.storage import attention_maps
from wantui.storage.attention_maps import AttentionMapsError, open_attention_maps
from wantui.storage.video_files import VideoFiles

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def marked(model: WanModel, attention: AttentionRequest | None = None, **changes: object) -> Recipe:
    values: dict[str, object] = {
        "prompt": PROMPT,
        "marks": marks(PROMPT, ("red", 1.0), ("star", 1.0), ("star", 1.0)),
        "capture": CaptureRequests(attention=attention or AttentionRequest()),
    }
    return recipe_for(model, **values | changes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_maps_equal_a_float64_softmax_and_latents_stay_bit_identical(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, dtype: str
) -> None:
    pipeline = load_once(tiny_models[form], dtype)
    changes = {"dtype": dtype, "steps": 3, "flow_shift": 12.0 if form == "a14b" else 3.0}
    changes["marks"] = marks(PROMPT, ("red", 1.0), ("star", 1.0), ("blue star", 1.0))
    recipe = marked(tiny_models[form], AttentionRequest(per_token=True, unconditional=True), **changes)
    start = prepare_inputs(pipeline, recipe)
    attention = attention_hook(start)
    grid = attention.position_grid
    words = {word.map_name: word.token_positions for word in attention.prompts_by_context["cond"][0].words}
    assert {name: len(tokens) for name, tokens in words.items()} == {"red": 1, "star": 1, "blue_star": 2}
    length = attention.prompts_by_context["cond"][0].token_count
    with projections_of(pipeline) as seen:
        for step in denoise_latents(pipeline, recipe, start):
            latents = step.latents
            blocks, calls = len(pipeline.transformer.blocks), list(seen)
            seen.clear()
            assert "attention" in step.values_by_capture
            p = torch.stack([exact_attention(q, k) for q, k in calls[:blocks]]).mean((0, 1))
            expected = {name: p[:, list(tokens)].sum(1) for name, tokens in words.items()}
            expected |= {f"blue_star.{index}": p[:, token] for index, token in enumerate(words["blue_star"])}
            expected |= {
                "prompt_mass": p[:, : length - 1].sum(1),
                "end_mass": p[:, length - 1],
                "pad_mass": p[:, length:].sum(1),
            }
            maps = step.values_by_capture["attention"].maps_by_context["cond"]
            assert maps.keys() == expected.keys()
            for name, values in expected.items():
                assert maps[name].shape == (1, 1, *grid)
                assert (maps[name].flatten().double() / values - 1).abs().max() < 1e-4
            uncond = step.values_by_capture["attention"].maps_by_context["uncond"]
            assert set(uncond) == {"prompt_mass", "end_mass", "pad_mass"}
            q = torch.stack([exact_attention(q, k) for q, k in calls[blocks:]]).mean((0, 1))
            assert (uncond["pad_mass"].flatten().double() / q[:, 1:].sum(1) - 1).abs().max() < 1e-4
    assert attention.check_results.max_map_error < 1e-4
    assert attention.check_results.max_output_error < (1e-5 if dtype == "float32" else 1e-2)
    assert torch.equal(latents, diffusers_output(pipeline, recipe, "latent"))


def test_word_with_a_special_token_inside_sums_only_its_own_tokens(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    prompt = "a red </s> star moving left"
    changes = {"prompt": prompt, "marks": marks(prompt, ("red </s> star", 1.0))}
    start = prepare_inputs(tiny, marked(tiny_models["wan2.1"], AttentionRequest(per_token=True), **changes))
    (word,) = attention_hook(start).prompts_by_context["cond"][0].words
    assert word.token_positions[-1] - word.token_positions[0] + 1 > len(word.token_positions)
    step = next(
        denoise_latents(tiny, marked(tiny_models["wan2.1"], AttentionRequest(per_token=True), **changes), start)
    )
    maps = step.values_by_capture["attention"].maps_by_context["cond"]
    pieces = [maps[f"{word.map_name}.{i}"] for i in range(len(word.token_positions))]
    assert torch.allclose(maps[word.map_name], sum(pieces), rtol=1e-5)


def files_in(folder: Path) -> VideoFiles:
    return VideoFiles(
        folder / "v.mp4", folder / "v.jpg", {"trajectory": folder / "v.zarr", "attention": folder / "a.zarr"}
    )


def store_video(pipeline: WanPipeline, recipe: Recipe, folder: Path) -> VideoFiles:
    files = files_in(folder)
    for _ in generate_video(pipeline, recipe, files):
        pass
    return files


def test_maps_of_a_step_are_freed_once_recorded(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    listener = Mock()
    recorded: list[list[str]] = []
    listener.on_step.side_effect = lambda step: recorded.append(list(step.values_by_capture))
    recipe = marked(tiny_models["wan2.1"], steps=2)
    for event in generate_video(tiny, recipe, files_in(tmp_path), [listener]):
        assert not isinstance(event, StepFinished) or not event.step.values_by_capture
    assert recorded == [["attention"]] * 2


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-7), ("float16", 1e-3)])
def test_stored_maps_equal_the_maps_of_each_step(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, dtype: str, tolerance: float
) -> None:
    recipe = marked(tiny_models["wan2.1"], AttentionRequest(dtype=dtype, interval=2), steps=6)  # type: ignore[arg-type]
    files = store_video(tiny, recipe, tmp_path)
    steps = [step for step in denoise_latents(tiny, recipe) if "attention" in step.values_by_capture]
    maps = open_attention_maps(files.capture_paths["attention"])
    assert maps.evaluations.tolist() == [step.evaluation_index for step in steps] == [0, 2, 4, 5]
    assert maps.sigmas == pytest.approx([step.sigma for step in steps])
    for name in ("red", "star", "star_2", "prompt_mass", "end_mass", "pad_mass"):
        of_steps = np.stack(
            [step.values_by_capture["attention"].maps_by_context["cond"][name].numpy() for step in steps]
        )
        assert maps.read_map(name).shape == of_steps.shape
        assert np.abs(maps.read_map(name) / of_steps - 1).max() <= tolerance
    total = sum(maps.read_map(name).astype(np.float64) for name in ("prompt_mass", "end_mass", "pad_mass"))
    assert np.abs(total - 1).max() < (1e-3 if dtype == "float16" else 1e-5)
    assert maps.metadata_by_word["star_2"] | {"tokens": 0, "token_texts": 0} == {
        "text": "star", "start": 22, "end": 26, "weight": 1.0, "tokens": 0, "token_texts": 0
    }  # fmt: skip
    assert maps.group["blocks"][:].all()
    assert maps.group.attrs["self_check"]["output_error"] < 1e-5
    assert maps.group.attrs["self_check"]["padding_merged"]


@pytest.mark.parametrize("per_token", [False, True])
def test_disk_use_of_maps_is_predicted(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, per_token: bool
) -> None:
    capture = AttentionRequest(per_token=per_token, unconditional=True, per_block=True, compress=False)
    recipe = marked(tiny_models["wan2.1"], capture, negative_prompt="a star, and no star")
    group = zarr.open_group(store_video(tiny, recipe, tmp_path).capture_paths["attention"], mode="r")
    sizes = [one.nbytes for _, one in group.members(None) if isinstance(one, zarr.Array) and one.ndim == 6]
    predicted = estimate_recipe_disk(recipe, tiny_models["wan2.1"]).sum_capture_bytes("attention")
    assert predicted >= sum(sizes) if per_token else predicted == sum(sizes)


def test_per_block_per_head_and_downsampled_maps_match_the_plain_map(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    def first(**options: object) -> torch.Tensor:
        capture = AttentionRequest.model_validate(options)
        step = next(denoise_latents(tiny, marked(tiny_models["wan2.1"], capture, width=80, height=64)))
        assert "attention" in step.values_by_capture
        red: torch.Tensor = step.values_by_capture["attention"].maps_by_context["cond"]["red"]
        return red

    plain = first()
    assert plain.shape == (1, 1, 3, 4, 5)
    blocks, heads, both = first(per_block=True), first(per_head=True), first(per_block=True, per_head=True)
    assert blocks.shape == (2, 1, 3, 4, 5)
    assert heads.shape == (1, 2, 3, 4, 5)
    assert both.shape == (2, 2, 3, 4, 5)
    for result in (blocks.mean(0), heads.mean(1)[0], both.mean((0, 1))[None]):
        assert torch.allclose(result, plain[0], rtol=1e-5)
    assert not torch.allclose(blocks[0], blocks[1], rtol=1e-2)
    small = first(downsample=2)
    assert small.shape == (1, 1, 3, 2, 3)
    assert torch.allclose(small[..., 0, 0], plain[..., :2, :2].mean((-2, -1)))
    assert torch.allclose(small[..., 1, 2], plain[..., 2:, 4:].mean((-2, -1)))


def test_fused_blocks_give_same_maps_with_and_without_word_weights(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    recipe = marked(tiny_models["wan2.1"], steps=2)
    weighted = recipe.model_copy(update={"marks": marks(PROMPT, ("red", 3.0)), "weighting": "attention"})
    for asked in (recipe, weighted):
        pipeline = copy.deepcopy(tiny)
        plain = list(denoise_latents(pipeline, asked))
        fuse_blocks(pipeline.transformer)
        fused = list(denoise_latents(pipeline, asked))
        for one, other in zip(plain, fused, strict=True):
            assert torch.allclose(one.latents, other.latents, atol=1e-4)
            red, fused_red = (
                step.values_by_capture["attention"].maps_by_context["cond"]["red"] for step in (one, other)
            )
            assert torch.allclose(red, fused_red, rtol=1e-4)
        bare = list(denoise_latents(pipeline, asked.model_copy(update={"capture": CaptureRequests()})))
        assert torch.equal(bare[-1].latents, fused[-1].latents)


@pytest.mark.parametrize("way", ["fused projections", "layerwise casting", "group offload", "tiled decode"])
def test_maps_are_exact_with_fused_projections_casting_offloading_and_tiling(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], way: str
) -> None:
    model, pipeline = tiny_models["wan2.1"], copy.deepcopy(tiny)
    if way == "fused projections":
        pipeline.transformer.fuse_qkv_projections()
    elif way == "layerwise casting":
        pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    elif way == "group offload":
        apply_group_offloading(
            pipeline.transformer,
            onload_device=CPU,
            offload_device=CPU,
            offload_type="block_level",
            num_blocks_per_group=1,
        )
    else:
        pipeline.vae.enable_tiling()
    recipe = marked(model, steps=2)
    with projections_of(pipeline) as seen:
        step = next(denoise_latents(pipeline, recipe))
    assert "attention" in step.values_by_capture
    p = torch.stack([exact_attention(q, k) for q, k in seen[:2]]).mean((0, 1))
    tokens = tokenize_prompt(pipeline.tokenizer, PROMPT, recipe.marks).words[0].token_positions
    result = step.values_by_capture["attention"].maps_by_context["cond"]["red"].flatten().double()
    assert (result / p[:, list(tokens)].sum(1) - 1).abs().max() < 1e-4


def test_skipped_block_is_recorded_and_has_no_map(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_FIRST_BLOCK_CHANGE", 1e9)
    pipeline = copy.deepcopy(tiny)
    recipe = marked(tiny_models["wan2.1"], AttentionRequest(per_block=True), steps=3, speed="cached")
    maps = open_attention_maps(store_video(pipeline, recipe, tmp_path).capture_paths["attention"])
    blocks = maps.group["blocks"][:]
    assert blocks.tolist() == [[True, True], [True, False], [True, False]]
    assert np.isfinite(maps.read_map("red")).all((1, 2, 3, 4, 5)).tolist() == [True, False, False]
    assert np.isnan(maps.read_map("red")[1, 1]).all()


@pytest.mark.parametrize("per_block", [True, False])
def test_skipped_pass_is_recorded_and_has_no_map(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, per_block: bool
) -> None:
    pipeline = copy.deepcopy(tiny)
    asked = AttentionRequest(per_block=per_block)
    recipe = marked(tiny_models["wan2.1"], asked, steps=3, speed="cached", magnitudes=((1.0, 0.0), (0.0, 0.0)))
    maps = open_attention_maps(store_video(pipeline, recipe, tmp_path).capture_paths["attention"])
    assert maps.group["blocks"][:].tolist() == [[True, True], [False, False], [False, False]]
    assert np.isfinite(maps.read_map("red")).all((1, 2, 3, 4, 5)).tolist() == [True, False, False]
    assert np.isnan(maps.read_map("red")[1]).all()


def test_differing_padding_is_not_merged(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    pipeline = copy.deepcopy(tiny)
    recipe = marked(tiny_models["wan2.1"], steps=1)

    def drift(m: Any, i: Any, out: torch.Tensor) -> torch.Tensor:
        return out + torch.linspace(0, 1, out.shape[1])[None, :, None]

    for block in pipeline.transformer.blocks:
        block.attn2.norm_k.register_forward_hook(drift)
    start = prepare_inputs(pipeline, recipe)
    with projections_of(pipeline) as seen:
        step = next(denoise_latents(pipeline, recipe, start))
    assert not attention_hook(start).check_results.is_padding_merged
    p = torch.stack([exact_attention(q, k) for q, k in seen[:2]]).mean((0, 1))
    length = attention_hook(start).prompts_by_context["cond"][0].token_count
    result = step.values_by_capture["attention"].maps_by_context["cond"]["pad_mass"].flatten().double()
    assert (result / p[:, length:].sum(1) - 1).abs().max() < 1e-4


def test_attention_that_differs_from_the_kernel_is_refused(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_hooks, "dispatch_attention_fn", lambda *a, **k: dispatch_attention_fn(*a, **k) * 1.01)
    with pytest.raises(CaptureMismatchError, match=r"differs from the output of the model's kernel by 0\.0099"):
        next(denoise_latents(tiny, marked(tiny_models["wan2.1"])))


def test_maps_with_nan_are_refused(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    attended = CrossAttentionObserver._compute_attention
    monkeypatch.setattr(
        CrossAttentionObserver, "_compute_attention", lambda *arguments: attended(*arguments) * math.nan
    )
    with pytest.raises(
        CaptureMismatchError, match="the maps differ from a softmax over all text positions in float64 by nan"
    ):
        list(denoise_latents(tiny, marked(tiny_models["wan2.1"])))


FOUND: dict[str, Any] = {"output_error": 1e-6, "weighted_error": 0.0, "map_error": 1e-7, "padding_merged": False}


def test_resumed_self_check_equals_the_original() -> None:
    first, second = AttentionCheckResults(), AttentionCheckResults()
    first.add_result("transformer cond 0", BlockCheckResult(**FOUND))
    second.restore_results(json.loads(json.dumps(first.serialize_results())))
    second.add_result("transformer cond 0", BlockCheckResult(**FOUND | {"output_error": 2e-6}))  # of a later step
    assert second.serialize_results() == first.serialize_results()
    assert not second.is_padding_merged


DAMAGED_CHECKS: list[Any] = [
    *(None, "text", [], {}, {"output_error": 0.0}, {"blocks": []}, {"blocks": {"a": None}}, {"blocks": {"a": {}}}),
    *({"blocks": {"a": FOUND | {name: value}}} for name in FOUND for value in ("1", None, math.nan, [])),  # type: ignore[var-annotated]
]


@pytest.mark.parametrize("damaged", DAMAGED_CHECKS, ids=str)
def test_damaged_self_check_record_reads_as_empty(damaged: Any) -> None:
    check = AttentionCheckResults()
    check.restore_results(damaged)
    assert check.results_by_block == {}


def test_interrupted_capture_restores_the_pipeline(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    before = [block.attn2.processor for block in tiny.transformer.blocks]
    steps = denoise_latents(tiny, marked(tiny_models["wan2.1"]))
    next(steps)
    steps.close()
    assert [block.attn2.processor for block in tiny.transformer.blocks] == before


def test_mark_beyond_the_token_limit_is_refused_by_name(tiny: WanPipeline) -> None:
    prompt = "a star and " * 300 + "one ring"
    with pytest.raises(MarkOutOfRangeError, match="the model does not read the marked 'ring' at character 3304"):
        tokenize_prompt(tiny.tokenizer, prompt, marks(prompt, ("ring", 1.0)))


def test_prompt_of_512_tokens_has_exact_maps(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    prompt = "a red star and " * 127 + "a red star"
    recipe = marked(tiny_models["wan2.1"], prompt=prompt, marks=marks(prompt, ("red", 1.0)), steps=1)
    start = prepare_inputs(tiny, recipe)
    step = next(denoise_latents(tiny, recipe, start))
    attention = attention_hook(start)
    assert attention.prompts_by_context["cond"][0].token_count == 512
    assert attention.check_results.max_map_error < 1e-4
    assert "attention" in step.values_by_capture
    assert not step.values_by_capture["attention"].maps_by_context["cond"]["pad_mass"].any()


# Weights.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_weighting_multiplies_the_odds_of_a_word_exactly(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], dtype: str
) -> None:
    pipeline = copy.deepcopy(load_once(tiny_models["wan2.1"], dtype))
    weighted = marks(PROMPT, ("red", 2.5), ("star", 1.0), ("star", 0.5))
    recipe = marked(tiny_models["wan2.1"], marks=weighted, weighting="attention", dtype=dtype, steps=1)
    start = prepare_inputs(pipeline, recipe)
    assert "attention" in start.hooks_by_capture
    outputs, values = [], []
    for block in pipeline.transformer.blocks:
        block.attn2.to_out[0].register_forward_pre_hook(lambda m, i: outputs.append(i[0].double()))
        block.attn2.to_v.register_forward_hook(lambda m, i, out: values.append(out.double()))
    with projections_of(pipeline) as seen:
        step = next(denoise_latents(pipeline, recipe, start))
    by_token = {
        t: w.weight for w in attention_hook(start).prompts_by_context["cond"][0].words for t in w.token_positions
    }
    maps = []
    for (q, k), output, value in list(zip(seen, outputs, values, strict=True))[:2]:
        p = exact_attention(q, k, by_token)
        maps.append(p)
        expected = torch.einsum("hnt,thd->nhd", p, value[0].unflatten(1, (q.shape[1], -1))).flatten(1)
        assert (output[0] - expected).norm() / expected.norm() < (1e-5 if dtype == "float32" else 5e-3)
    red = (
        torch.stack(maps)
        .mean((0, 1))[:, list(attention_hook(start).prompts_by_context["cond"][0].words[0].token_positions)]
        .sum(1)
    )
    assert "attention" in step.values_by_capture
    assert (
        step.values_by_capture["attention"].maps_by_context["cond"]["red"].flatten().double() / red - 1
    ).abs().max() < 1e-4


def test_unconditional_pass_is_not_weighted(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    recipe = marked(
        tiny_models["wan2.1"], marks=marks(PROMPT, ("red", 4.0)), weighting="attention", capture=CaptureRequests()
    )
    start = prepare_inputs(tiny, recipe)
    outputs: list[torch.Tensor] = []
    handle = tiny.transformer.register_forward_hook(lambda m, i, out: outputs.append(out[0]))
    next(denoise_latents(tiny, recipe, start))
    plain = prepare_inputs(tiny, recipe.model_copy(update={"weighting": None}))
    next(denoise_latents(tiny, recipe.model_copy(update={"weighting": None}), plain))
    handle.remove()
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])


@pytest.mark.parametrize("weighting", ["attention", "multiply", "interpolation"])
def test_only_weight_one_leaves_the_video_unchanged(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], weighting: str
) -> None:
    def latents(weight: float, method: str | None) -> torch.Tensor:
        recipe = marked(
            tiny_models["wan2.1"], marks=marks(PROMPT, ("red", weight)), weighting=method, capture=CaptureRequests()
        )
        *_, last = denoise_latents(tiny, recipe)
        return last.latents

    assert torch.equal(latents(1.0, weighting), latents(1.0, None))
    assert not torch.equal(latents(2.0, weighting), latents(1.0, None))


def test_embedding_weights_change_only_the_tokens_of_the_word(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    recipe = marked(tiny_models["wan2.1"], marks=marks(PROMPT, ("red", 2.5)), capture=CaptureRequests())
    plain = prepare_inputs(tiny, recipe).prompts.prompts[0].embeds[0]
    prompt = tokenize_prompt(tiny.tokenizer, PROMPT, recipe.marks)
    tokens = list(prompt.words[0].token_positions)
    others = [token for token in range(512) if token not in tokens]
    start = prepare_inputs(tiny, recipe.model_copy(update={"weighting": "multiply"}))
    times = start.prompts.prompts[0].embeds[0]
    assert torch.equal(times[others], plain[others])
    assert torch.equal(times[tokens], 2.5 * plain[tokens])
    between = (
        prepare_inputs(tiny, recipe.model_copy(update={"weighting": "interpolation"})).prompts.prompts[0].embeds[0]
    )
    end = plain[prompt.token_count - 1]
    assert end.any()
    assert torch.equal(between[others], plain[others])
    assert torch.allclose(between[tokens], end + 2.5 * (plain[tokens] - end))


def test_attention_mass_of_a_word_grows_with_its_weight(nano: WanPipeline) -> None:
    prompt = "a large red circle moving left over a dark background"
    masses = []
    for weight in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
        recipe = marked(
            NANO,
            prompt=prompt,
            marks=marks(prompt, ("red", weight)),
            weighting=None if weight == 1 else "attention",
            width=128,
            height=128,
            frames=17,
            steps=2,
        )
        maps = [
            step.values_by_capture["attention"].maps_by_context["cond"]["red"] for step in denoise_latents(nano, recipe)
        ]
        masses.append(float(torch.stack(maps).mean()))
    assert masses == sorted(masses)
    assert masses[-1] > 4 * masses[0]


def test_missing_maps_are_reported(tmp_path: Path) -> None:
    with pytest.raises(AttentionMapsError, match=r"is missing\. Restore it|cannot be read"):
        open_attention_maps(tmp_path / "a.zarr")
    zarr.open_group(tmp_path / "b.zarr", mode="w")
    with pytest.raises(AttentionMapsError, match=r"is missing\. Restore it|cannot be read"):
        open_attention_maps(tmp_path / "b.zarr")


# S4
@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 3.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-3)])
def test_weighted_output_is_exact_for_weights_below_and_above_one(
    load_once: LoadOnce, weight: float, dtype: str, tolerance: float
) -> None:
    prompt = "a large red circle moving left over a dark background"
    pipeline = copy.deepcopy(load_once(NANO, dtype))
    recipe = marked(
        NANO, prompt=prompt, marks=marks(prompt, ("circle", weight)), weighting="attention", dtype=dtype,
        width=128, height=128, frames=17, steps=2, guidance_scale=1.0,
    )  # fmt: skip
    start = prepare_inputs(pipeline, recipe)
    attention = attention_hook(start)
    by_token = dict.fromkeys(attention.prompts_by_context["cond"][0].words[0].token_positions, weight)
    outputs, values = [], []
    for block in pipeline.transformer.blocks:
        block.attn2.to_out[0].register_forward_pre_hook(lambda m, i: outputs.append(i[0].double()))
        block.attn2.to_v.register_forward_hook(lambda m, i, out: values.append(out.double()))
    with projections_of(pipeline) as seen:
        for _ in denoise_latents(pipeline, recipe, start):
            pass
    for (q, k), output, value in zip(seen, outputs, values, strict=True):
        expected = torch.einsum(
            "hnt,thd->nhd", exact_attention(q, k, by_token), value[0].unflatten(1, (q.shape[1], -1))
        )
        expected = expected.flatten(1)
        assert (output[0] - expected).norm() / expected.norm() < tolerance
        worst = ((output[0] - expected).norm(dim=1) / expected.norm(dim=1)).max()
        assert worst < (1e-4 if dtype == "float32" else 1e-2)
    assert attention.check_results.max_word_weights_error < tolerance


# S4
def test_word_of_weight_zero_gets_no_attention(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    capture = AttentionRequest()
    asked = marks(PROMPT, ("red", 0.0), ("star", 2.0))
    recipe = marked(tiny_models["wan2.1"], capture, marks=asked, weighting="attention", steps=1)
    step = next(denoise_latents(tiny, recipe))
    maps = step.values_by_capture["attention"].maps_by_context["cond"]
    assert not maps["red"].any()
    assert torch.allclose(maps["prompt_mass"] + maps["end_mass"] + maps["pad_mass"], torch.ones(()), atol=1e-6)


# S4
def test_wrongly_applied_weights_are_refused(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = WordWeights.apply_to_attention
    monkeypatch.setattr(WordWeights, "apply_to_attention", lambda *a: ((r, 1.01 * out, p) for r, out, p in apply(*a)))
    recipe = marked(tiny_models["wan2.1"], marks=marks(PROMPT, ("red", 0.5)), weighting="attention")
    with pytest.raises(CaptureMismatchError, match=r"differs from the model's attention by 0\.01 of its norm"):
        next(denoise_latents(tiny, recipe))


# S4
@pytest.mark.parametrize(("weights", "way"), [((2.0, 3.0), "_correct_outputs"), ((2.0, 0.5), "_recompute_outputs")])
def test_output_is_recomputed_only_for_weights_below_one(
    tiny: WanPipeline,
    tiny_models: dict[str, WanModel],
    monkeypatch: pytest.MonkeyPatch,
    weights: tuple[float, float],
    way: str,
) -> None:
    taken: list[str] = []

    def record_calls(name: str) -> None:
        original = getattr(WordWeights, name)

        def recorded(*arguments: Any) -> Any:
            taken.append(name)
            return original(*arguments)

        monkeypatch.setattr(WordWeights, name, recorded)

    for name in ("_correct_outputs", "_recompute_outputs"):
        record_calls(name)
    asked = marks(PROMPT, ("red", weights[0]), ("star", weights[1]))
    next(denoise_latents(tiny, marked(tiny_models["wan2.1"], marks=asked, weighting="attention")))
    assert set(taken) == {way}


# B5
NAMES = {
    "steps sigmas blocks uncond cond prompt_mass end_mass pad_mass": [
        "word_steps", "word_sigmas", "word_blocks", "word_uncond", "word_cond",
        "word_prompt_mass", "word_end_mass", "word_pad_mass",
    ],
    "star star star_2 star": ["star", "star_2", "star_2_2", "star_3"],
    "star_2 star star": ["star_2", "star", "star_3"],
    "Star star STAR": ["Star", "star_2", "STAR_3"],
    "steps Steps word_steps": ["word_steps", "word_Steps_2", "word_steps_3"],
    "! !!": ["word", "word_2"],
}  # fmt: skip


@pytest.mark.parametrize("words", NAMES)
def test_map_names_are_unique_among_words_and_arrays(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path, words: str
) -> None:
    asked = marks(words, *((word, 1.0) for word in words.split()))
    capture = AttentionRequest(per_token=True, unconditional=True)
    recipe = marked(tiny_models["wan2.1"], capture, prompt=words, negative_prompt=words, marks=asked, steps=1)
    maps = open_attention_maps(store_video(tiny, recipe, tmp_path).capture_paths["attention"])
    assert list(maps.metadata_by_word) == NAMES[words]
    assert [maps.metadata_by_word[name]["text"] for name in maps.metadata_by_word] == words.split()
    assert maps.evaluations.tolist() == [0]
    for name in NAMES[words]:
        assert maps.read_map(name).shape == (1, 1, 1, 3, 2, 2)


# B5
def test_map_names_of_long_marks_are_short(tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path) -> None:
    one = "red star " * 30 + "ring"
    prompt = f"{one} and {one}s {'ö' * 150}"
    asked = marks(prompt, (one, 1.0), (f"{one}s", 1.0), ("ö" * 150, 1.0))
    with pytest.raises(MarkOutOfRangeError):  # nano's tokenizer has no ö
        store_video(tiny, marked(tiny_models["wan2.1"], prompt=prompt, marks=asked, steps=1), tmp_path)
    recipe = marked(tiny_models["wan2.1"], AttentionRequest(per_token=True), prompt=prompt, marks=asked[:2], steps=1)
    maps = open_attention_maps(store_video(tiny, recipe, tmp_path).capture_paths["attention"])
    assert [words["text"] for words in maps.metadata_by_word.values()] == [one, f"{one}s"]
    assert all(len(name.encode()) <= 200 for name in assign_map_names([one, f"{one}s", "ö" * 150]))


def test_self_check_record_of_an_earlier_version_can_be_resumed() -> None:
    stored = {"output_error": 0.01, "weighted_error": 0.0, "map_error": 0.02, "pads_taken_together": False}
    check = AttentionCheckResults()
    check.restore_results({"blocks": {"transformer cond 0": stored}})
    assert (check.max_output_error, check.max_map_error, check.is_padding_merged) == (0.01, 0.02, False)
    again = AttentionCheckResults()
    again.restore_results(check.serialize_results())
    assert again.results_by_block == check.results_by_block


def test_word_record_of_an_earlier_version_provides_token_texts() -> None:
    stored = {"text": "star", "start": 6, "end": 10, "weight": 1.0, "tokens": [5], "pieces": ["star"]}
    assert attention_maps._parse_word_metadata(stored)["token_texts"] == ["star"]
