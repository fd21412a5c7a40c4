"""Contributions of marked words to the cross-attention, against an explicit float64 sum over heads of p W_O v."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_reference import PROMPT, marks
from conftest import LoadOnce, recipe_for
from diffusers import WanPipeline
from diffusers.hooks import apply_group_offloading
from tiny import FORMS, diffusers_output

from wantui.analysis.word_contributions import read_contribution_curves
from wantui.captures.contributions import CONTRIBUTIONS, ContributionRequest
from wantui.config import load_config
from wantui.generation import word_contributions
from wantui.generation.attention_check import CaptureMismatchError
from wantui.generation.denoise import denoise_latents
from wantui.generation.fuse import fuse_blocks
from wantui.generation.load import load_pipeline
from wantui.generation.make_video import generate_video
from wantui.generation.quantize import quantize_transformer
from wantui.generation.token_spans import tokenize_prompt
from wantui.generation.word_contributions import compute_contribution_norms, read_dense_weight
from wantui.models.catalogue import WanModel
from wantui.planning import CaptureRequests, Recipe, preview_batch
from wantui.planning.disk_estimate import estimate_recipe_disk
from wantui.storage.video_files import VideoFiles
from wantui.storage.zarr_group import CaptureError, open_capture

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
NAME = CONTRIBUTIONS.name


def marked(model: WanModel, request: ContributionRequest | None = None, **changes: object) -> Recipe:
    request = request or ContributionRequest(per_block=True)
    values: dict[str, object] = {
        "prompt": PROMPT,
        "marks": marks(PROMPT, ("red", 1.0), ("star", 1.0), ("star", 1.0)),
        "capture": CaptureRequests(more={NAME: request}),
        "steps": 3,
    }
    return recipe_for(model, **values | changes)


@contextmanager
def record_attention(pipeline: WanPipeline) -> Iterator[list[tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Attention module, query, key [places, heads, dim] and value of every cross-attention, in float64."""
    calls: list[tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    handles, latest = [], {}
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        for block in transformer.blocks if transformer is not None else ():
            attention = block.attn2

            def keep(name: str, module: Any, attention: Any = attention) -> Any:
                def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
                    latest[name] = output[0].double().reshape(output.shape[1], attention.heads, -1)
                    if len(latest) == 3:
                        calls.append((attention, latest["q"], latest["k"], latest["v"]))
                        latest.clear()

                return module.register_forward_hook(hook)

            handles += [keep("q", attention.norm_q), keep("k", attention.norm_k), keep("v", attention.to_v)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def sum_over_heads(
    call: tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor], tokens: list[int], weights: dict[int, float]
) -> torch.Tensor:
    """The norm at each place of the sum over tokens and heads of p W_O^h v, one term after the other."""
    attention, q, k, v = call
    logits = torch.einsum("nhd,thd->hnt", q, k) / math.sqrt(q.shape[2])
    for token, weight in weights.items():
        logits[:, :, token] += math.log(weight) if weight else -math.inf
    p = logits.softmax(2)
    weight_by_head = attention.to_out[0].weight.double().unflatten(1, v.shape[1:])
    total = torch.zeros(q.shape[0], len(weight_by_head), dtype=torch.float64)
    for token in tokens:
        for head in range(v.shape[1]):
            total += p[head, :, token, None] * (weight_by_head[:, head] @ v[token, head])
    norms: torch.Tensor = total.norm(dim=1)
    return norms


@pytest.mark.parametrize("weight", [1.0, 3.0, 0.4])
@pytest.mark.parametrize("form", FORMS)
def test_contributions_equal_an_explicit_sum_over_heads_and_leave_latents_bit_identical(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, weight: float
) -> None:
    pipeline = load_once(tiny_models[form], "float32")
    changes: dict[str, Any] = {"flow_shift": 12.0 if form == "a14b" else 3.0}
    if weight != 1:
        changes |= {"marks": marks(PROMPT, ("red", weight), ("star", 1.0)), "weighting": "attention"}
    recipe = marked(tiny_models[form], **changes)
    words = tokenize_prompt(pipeline.tokenizer, recipe.prompt, recipe.marks).words
    red_tokens = next(word.token_positions for word in words if word.map_name == "red")
    weights = {} if weight == 1 else dict.fromkeys(red_tokens, weight)
    block_count, seen_transformers = len(pipeline.transformer.blocks), set()
    with record_attention(pipeline) as calls:
        for step in denoise_latents(pipeline, recipe):
            maps = step.values_by_capture[NAME]
            assert set(maps) == {word.map_name for word in words} | {"output"}
            for index, call in enumerate(calls[:block_count]):  # the first pass of a step is that with the prompt
                for word in words:
                    expected = sum_over_heads(call, list(word.token_positions), weights)
                    computed = maps[word.map_name][index].flatten().double()
                    assert (computed / expected - 1).abs().max() < 1e-5
                output = sum_over_heads(call, list(range(512)), weights)
                assert (maps["output"][index].flatten().double() / output - 1).abs().max() < 1e-5
            seen_transformers.add(id(calls[0][0]))
            calls.clear()
    assert len(seen_transformers) == (2 if form == "a14b" else 1)
    plain = recipe.model_copy(update={"capture": CaptureRequests()})
    assert torch.equal(step.latents, [step.latents for step in denoise_latents(pipeline, plain)][-1])
    if weight == 1:
        assert torch.equal(step.latents, diffusers_output(pipeline, recipe, "latent"))


def test_norms_of_random_attention_equal_the_norm_of_the_summed_vectors() -> None:
    random = torch.Generator().manual_seed(0)
    heads, positions, tokens, width = 3, 70, 2, 5
    p = torch.rand(heads, positions, tokens, generator=random)
    vectors = torch.randn(tokens, heads, width, generator=random, dtype=torch.float64)
    flat = vectors.flatten(0, 1)
    expected = torch.einsum("hnt,thw->nw", p.double(), vectors).norm(dim=1)
    assert torch.allclose(compute_contribution_norms(p, flat @ flat.T).double(), expected, rtol=1e-6)
    assert not compute_contribution_norms(torch.zeros(heads, 4, tokens), flat @ flat.T).any()


def test_contributions_that_cancel_between_heads_are_zero() -> None:
    vector = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    opposite = torch.cat([vector, -vector])
    norms = compute_contribution_norms(torch.full((2, 3, 1), 0.25), opposite @ opposite.T)
    assert torch.equal(norms, torch.zeros(3))


@pytest.mark.parametrize("way", ["fused", "group offload", "float8", "mean over blocks"])
def test_contributions_do_not_depend_on_weight_storage_or_fused_blocks(
    tiny_models: dict[str, WanModel], way: str
) -> None:
    model = tiny_models["wan2.1"]
    recipe = marked(model)

    def first(pipeline: WanPipeline, recipe: Recipe = recipe) -> dict[str, torch.Tensor]:
        maps: dict[str, torch.Tensor] = next(denoise_latents(pipeline, recipe)).values_by_capture[NAME]
        return maps

    plain = first(load_pipeline(model, None, "float32", CPU))
    pipeline = load_pipeline(model, None, "float32", CPU)
    tolerance = 1e-4
    if way == "fused":
        fuse_blocks(pipeline.transformer)
        maps = first(pipeline)
    elif way == "group offload":
        apply_group_offloading(
            pipeline.transformer, onload_device=CPU, offload_device=CPU, offload_type="leaf_level", use_stream=False
        )
        maps = first(pipeline)
    elif way == "float8":
        quantize_transformer(pipeline.transformer, "float8")
        maps, tolerance = first(pipeline), 0.5
    else:
        averaged = first(pipeline, marked(model, ContributionRequest()))
        maps = {name: values.expand_as(plain[name]) for name, values in averaged.items()}
        plain = {name: values.mean(0, keepdim=True).expand_as(values) for name, values in plain.items()}
    for name in plain:
        assert torch.allclose(maps[name], plain[name], rtol=tolerance), name


def test_int8_weights_are_read_as_they_are_applied() -> None:
    pytest.importorskip("torchao")
    blocks = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(16, 8)])})
    layer: Any = blocks["blocks"][0]  # type: ignore[index]
    quantize_transformer(blocks, "int8")
    x = torch.eye(16)
    assert torch.allclose(read_dense_weight(layer).T, layer(x) - layer.bias, atol=1e-6)


def test_word_that_a_scheduled_prompt_lacks_has_no_contribution_in_its_steps(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    later = "a red circle moving left"
    schedule = {
        "times": {"unit": "step", "moments": [2]},
        "interpolation": "step",
        "prompts": [{"prompt": later, "marks": [mark.model_dump() for mark in marks(later, ("red", 1.0))]}],
    }
    recipe = marked(tiny_models["wan2.1"], controls={"prompt_schedule": schedule}, steps=4)
    maps = [step.values_by_capture[NAME] for step in denoise_latents(tiny, recipe)]
    assert [bool(each["star"].isnan().all()) for each in maps] == [False, False, True, True]
    assert not any(each["red"].isnan().any() for each in maps)


def test_wrong_output_projection_is_refused(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_contributions, "read_dense_weight", lambda layer: 1.1 * layer.weight.data)
    with pytest.raises(CaptureMismatchError, match="differs from the sum over all words by"):
        next(denoise_latents(tiny, marked(tiny_models["wan2.1"])))


def store_video(pipeline: WanPipeline, recipe: Recipe, folder: Path, name: str) -> VideoFiles:
    files = VideoFiles(folder / f"{name}.mp4", folder / f"{name}.jpg", {NAME: folder / f"{name}.zarr"})
    for _ in generate_video(pipeline, recipe, files):
        pass
    return files


def test_stored_contributions_equal_those_of_the_steps_and_their_predicted_size(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    model = tiny_models["wan2.1"]
    recipe = marked(model, ContributionRequest(interval=2, per_block=True), steps=6)
    group = open_capture(store_video(tiny, recipe, tmp_path, "v").capture_paths[NAME])
    steps = [step for step in denoise_latents(tiny, recipe) if NAME in step.values_by_capture]
    assert group["steps"][:].tolist() == [step.evaluation_index for step in steps] == [0, 2, 4, 5]
    for name in ("red", "star", "star_2", "output"):
        assert np.array_equal(group[name][:], np.stack([s.values_by_capture[NAME][name].numpy() for s in steps]))
    path = tmp_path / "v.zarr"
    assert [curves.map_name for curves in read_contribution_curves(path, recipe)] == ["red", "star", "star_2"]
    with pytest.raises(CaptureError, match=r"belongs to another video \(seed"):
        read_contribution_curves(path, recipe.model_copy(update={"seed": recipe.seed + 1}))
    predicted = estimate_recipe_disk(recipe, model).sum_capture_bytes(NAME)
    assert predicted == sum(group[name].nbytes for name in ("red", "star", "star_2", "output"))


def test_resumed_video_has_the_contributions_of_an_uninterrupted_one(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    recipe = marked(tiny_models["wan2.1"], steps=5)
    whole = open_capture(store_video(tiny, recipe, tmp_path, "whole").capture_paths[NAME])
    files = VideoFiles(tmp_path / "cut.mp4", tmp_path / "cut.jpg", {NAME: tmp_path / "cut.zarr"}, tmp_path / "cut.ckpt")
    generation = generate_video(tiny, recipe, files)
    for _ in range(3):
        next(generation)
    generation.close()
    assert (tmp_path / "cut.ckpt").exists()
    for _ in generate_video(tiny, recipe, files):
        pass
    resumed = open_capture(tmp_path / "cut.zarr")
    for name in ("red", "star", "star_2", "output"):
        assert np.array_equal(whole[name][:], resumed[name][:])


def plan(template: str, **settings: object) -> list[str]:
    overrides = [f"contribution_settings.{key}={value}" for key, value in settings.items()]
    return list(preview_batch(load_config("nano", overrides), template).refusals)


def test_contributions_without_marks_or_with_bends_are_refused_by_name(tmp_path: Path) -> None:
    assert not plan("a (red) circle", store_contributions="true")
    assert (
        "store_contributions is on, but the template marks no words"
        in plan("a red circle", store_contributions="true")[0]
    )
    config = tmp_path / "bent.yaml"
    config.write_text(
        "model_settings: {model_id: nano}\n"
        "contribution_settings: {store_contributions: true}\n"
        "attention_bending_settings: {bends: [{words: circle, mode: translate, translate_x: 0.2}]}\n"
    )
    refusals = preview_batch(load_config(str(config)), "a (red) circle").refusals
    assert any("cannot be combined with attention bending" in text for text in refusals)
