"""Attention bending: warps against scipy and numpy, blocks and denoising runs against whole maps edited in float64."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LoadOnce, Wantui, batch, recipe_for
from diffusers import WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, _get_qkv_projections
from scipy import ndimage
from tiny import FORMS, diffusers_output

from wantui.captures.attention import AttentionRequest
from wantui.controls.attention_bending import BendRequest
from wantui.controls.bend_transforms import TRANSFORM_BY_MODE, Frequency, Region
from wantui.errors import UserError
from wantui.generation import bent_attention
from wantui.generation.bent_attention import MIN_ROW_SUM, BlockBender, ResolvedBend, TextColumns
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.fuse import fuse_blocks
from wantui.generation.map_warps import build_region_mask, build_warp
from wantui.models.catalogue import WanModel
from wantui.planning import CaptureRequests, PromptMark, Recipe

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
PROMPT = "a red star and a blue star moving left"
SCIPY_MODES = {"edge": "nearest", "zero": "grid-constant", "reflect": "reflect"}
PARAMETERS_BY_MODE: dict[str, dict[str, object]] = {
    "amplify": {"amplify_factor": 1.7},
    "scale": {"scale_factor": 1.3},
    "rotate": {"rotate_degrees": 35},
    "translate": {"translate_x": 0.23, "translate_y": -0.11},
    "flip": {"flip_horizontal": True},
    "blur": {"blur_sigma": 0.8},
    "sharpen": {"sharpen_amount": 1.5},
    "region": {"region_x1": 0.3, "region_y2": 0.8, "region_feather": 0.2},
    "frequency": {"frequency_low": 0.5, "frequency_high": 1.5},
}


def bend(mode: str = "translate", words: tuple[str, ...] = ("red",), **changes: Any) -> BendRequest:
    parameters = changes.pop("parameters", PARAMETERS_BY_MODE[mode])
    return BendRequest.model_validate(
        {"name": mode, "words": words, "transform": {"mode": mode, **parameters}, **changes}
    )


def edit_map(request: BendRequest, values: np.ndarray) -> np.ndarray:
    """Return the transform of one map [height, width] in float64, by scipy and numpy."""
    return np.asarray(_edit_map(request, values))


def _edit_map(request: BendRequest, values: np.ndarray) -> Any:
    transform, mode = request.transform, SCIPY_MODES[request.border]
    height, width = values.shape
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    match transform.mode:
        case "amplify":
            return values * transform.amplify_factor
        case "scale":
            matrix = np.eye(2) / transform.scale_factor
            return ndimage.affine_transform(values, matrix, centre - matrix @ centre, order=1, mode=mode)
        case "rotate":
            turn = math.radians(transform.rotate_degrees)
            # Of (y, x), with y down: seen counter-clockwise, the source of a point is the point turned clockwise.
            matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
            return ndimage.affine_transform(values, matrix, centre - matrix @ centre, order=1, mode=mode)
        case "translate":
            shift = (transform.translate_y * height, transform.translate_x * width)
            return ndimage.shift(values, shift, order=1, mode=mode)
        case "flip":
            return np.flip(values, (1,) * transform.flip_horizontal + (0,) * transform.flip_vertical)
        case "blur":
            return ndimage.gaussian_filter(values, transform.blur_sigma, mode=mode.removeprefix("grid-"))
        case "sharpen":
            blurred = ndimage.gaussian_filter(values, transform.sharpen_sigma, mode=mode.removeprefix("grid-"))
            return np.maximum(values + transform.sharpen_amount * (values - blurred), 0)
        case "region":
            return values * build_region_mask(transform, height, width).numpy()
        case "frequency":
            vertical, horizontal = (np.fft.fftfreq(size, 1 / size) for size in values.shape)
            cycles = np.hypot(*np.meshgrid(vertical, horizontal, indexing="ij"))
            high = math.inf if transform.frequency_high is None else transform.frequency_high
            kept = (cycles >= transform.frequency_low) & (cycles <= high)
            return np.fft.ifft2(np.fft.fft2(values) * kept).real
    raise AssertionError


def warp(request: BendRequest, values: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    height, width = values.shape[-2:]
    function = build_warp(request.transform, request.border, height, width, CPU, dtype)
    return np.asarray(function(torch.from_numpy(values).to(dtype)))


@pytest.mark.parametrize("border", ["edge", "zero", "reflect"])
@pytest.mark.parametrize("mode", PARAMETERS_BY_MODE)
def test_warps_equal_scipy_and_numpy(mode: str, border: str) -> None:
    request = bend(mode, border=border)
    maps = np.random.default_rng(0).random((3, 2, 9, 14))
    expected = np.stack([[edit_map(request, one) for one in row] for row in maps])
    assert np.abs(warp(request, maps) - expected).max() < 1e-12
    assert np.abs(warp(request, maps, torch.float32) - expected).max() < 2e-5


@pytest.mark.parametrize("border", ["edge", "zero", "reflect"])
@pytest.mark.parametrize("sigma", [0.3, 2.5, 30.0])
def test_blur_kernel_grows_with_sigma(sigma: float, border: str) -> None:
    request = bend("blur", parameters={"blur_sigma": sigma}, border=border)
    values = np.random.default_rng(1).random((7, 5))
    assert np.abs(warp(request, values) - edit_map(request, values)).max() < 1e-12


@pytest.mark.parametrize(
    "parameters", [{"frequency_low": 2.0}, {"frequency_high": 3.0}, {"frequency_low": 1, "frequency_high": 1}]
)
def test_frequency_bands_equal_numpy(parameters: dict[str, object]) -> None:
    request = bend("frequency", parameters=parameters)
    for shape in ((8, 8), (9, 14), (1, 5)):
        values = np.random.default_rng(2).random(shape)
        assert np.abs(warp(request, values) - edit_map(request, values)).max() < 1e-12


def test_frequency_without_limits_is_identity() -> None:
    assert bend("frequency", parameters={}).is_identity
    assert Frequency(frequency_low=0, frequency_high=None).is_identity


def test_positive_values_move_right_and_down_and_rotate_counter_clockwise() -> None:
    values = np.zeros((5, 5))
    values[2, 3] = 1  # right of the centre
    right = warp(bend(parameters={"translate_x": 0.2}, border="zero"), values)
    assert right[2, 4] == right.sum() == 1
    down = warp(bend(parameters={"translate_y": 0.4}, border="zero"), values)
    assert down[4, 3] == down.sum() == 1
    turned = warp(bend("rotate", parameters={"rotate_degrees": 90}), values)
    assert np.abs(turned - np.rot90(values)).max() < 1e-12
    assert turned[1, 2] == pytest.approx(1)  # above the centre
    larger = warp(bend("scale", parameters={"scale_factor": 2}), values)
    assert larger[2, 4] == 1
    mirrored = warp(bend("flip"), values)
    assert mirrored[2, 1] == 1


def test_translation_and_its_inverse_restore_a_periodic_map() -> None:
    column = np.array([3.0, 1.0, -2.0, 5.0] * 4)
    values = column[:, None] + 2 * column  # period 4 along both sides
    there = warp(bend(parameters={"translate_x": 0.25, "translate_y": -0.25}), values, torch.float32)
    back = warp(bend(parameters={"translate_x": -0.25, "translate_y": 0.25}), there, torch.float32)
    assert np.array_equal(there[4:-4, 4:-4], values[4:-4, 4:-4].astype(np.float32))
    assert np.array_equal(back[4:-4, 4:-4], values[4:-4, 4:-4].astype(np.float32))


def test_region_is_a_rectangle_with_ramps_only_inside_the_frame() -> None:
    hard = build_region_mask(Region(region_x1=0.25, region_x2=0.75, region_y2=0.5), 4, 8)
    assert hard.tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]] * 2 + [[0] * 8] * 2
    soft = build_region_mask(Region(region_x1=0.5, region_feather=0.5), 1, 4)
    assert soft.tolist() == [[0, 0.25, 0.75, 1]]
    removed = build_region_mask(Region(region_x1=0.5, region_feather=0.5, region_part="remove"), 1, 4)
    assert (soft + removed == 1).all()


# Blocks

GRID = (2, 4, 5)
TOKEN_COUNT = 6


def random_attention(dtype: torch.dtype = torch.float32, heads: int = 3, dim: int = 8) -> tuple[torch.Tensor, ...]:
    """Query, key, value and the output of the model's kernel; the padding has equal keys and values."""
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(1, math.prod(GRID), heads, dim, generator=generator)
    key, value = (torch.randn(1, 512, heads, dim, generator=generator) for _ in range(2))
    key[:, TOKEN_COUNT:], value[:, TOKEN_COUNT:] = key[:, -1:] - 1, value[:, -1:]
    query, key, value = (part.to(dtype) for part in (query, key, value))
    p = torch.einsum("nhd,thd->hnt", query[0].double(), key[0].double()).div(math.sqrt(dim)).softmax(2)
    output = torch.einsum("hnt,thd->nhd", p, value[0].double()).flatten(1)[None]
    return query, key, value, output.to(dtype)


def edit_attention(p: np.ndarray, bends: list[tuple[BendRequest, list[int]]], grid: tuple[int, ...]) -> np.ndarray:
    """Bend whole maps [heads, positions, 512] in float64, one column, head and frame after the other."""
    p = p.copy()
    for request, tokens in bends:
        for head in range(p.shape[0]):
            for token in tokens:
                frames = p[head, :, token].reshape(grid)
                bent = np.stack([edit_map(request, frame) for frame in frames])
                p[head, :, token] = (frames + request.strength * (bent - frames)).reshape(-1)
        if request.renormalise:
            p /= np.maximum(p.sum(2, keepdims=True), MIN_ROW_SUM)
    return p


def resolve(request: BendRequest, tokens: tuple[int, ...]) -> ResolvedBend:
    return ResolvedBend(request, tokens, "all" in request.words and request.padding, (True,))


def columns_of(request: BendRequest, tokens: tuple[int, ...]) -> list[int]:
    return [*tokens, *(range(TOKEN_COUNT, 512) if request.padding else ())]


ALL = tuple(range(TOKEN_COUNT))
BEND_LISTS: dict[str, list[tuple[BendRequest, tuple[int, ...]]]] = {
    **{mode: [(bend(mode), (1, 3))] for mode in PARAMETERS_BY_MODE},
    **{f"{mode} renormalised": [(bend(mode, renormalise=True), (1, 3))] for mode in PARAMETERS_BY_MODE},
    "strength": [(bend(strength=0.4), (2,))],
    "negative strength": [(bend(strength=-1.5, renormalise=True), (2,))],
    "two in order": [(bend(border="zero"), (1,)), (bend("scale", renormalise=True), (1, 2))],
    "renormalised first": [(bend(border="zero", renormalise=True), (1,)), (bend("blur"), (2,))],
    "with padding": [(bend(padding=True), (1,))],
    "padding only": [(bend("amplify", padding=True, renormalise=True), ())],
    "all words": [(bend(words=("all",)), ALL)],
    **{f"all {mode}": [(bend(mode, words=("all",), padding=True, border="zero"), ALL)] for mode in PARAMETERS_BY_MODE},
    "all renormalised": [(bend(words=("all",), padding=True, border="zero", renormalise=True), ALL)],
    "all in order": [
        (bend(words=("all",), padding=True, border="zero", strength=0.7, renormalise=True), ALL),
        (bend("rotate", words=("all",), padding=True), ALL),
    ],
    "all and one": [(bend(words=("all",), padding=True), ALL), (bend("blur"), (1,))],
}


@pytest.mark.parametrize("collects_maps", [False, True])
@pytest.mark.parametrize("name", BEND_LISTS)
def test_bent_block_equals_whole_maps_edited_in_float64(name: str, collects_maps: bool) -> None:
    query, key, value, output = random_attention()
    bends = BEND_LISTS[name]
    p = torch.einsum("nhd,thd->hnt", query[0].double(), key[0].double()).div(math.sqrt(8)).softmax(2).numpy()
    edited = edit_attention(p, [(request, columns_of(request, tokens)) for request, tokens in bends], GRID)
    expected = np.einsum("hnt,thd->nhd", edited, value[0].double().numpy()).reshape(len(p[0]), -1)
    text = TextColumns(16, TOKEN_COUNT)
    bent, maps = BlockBender(GRID).bend_block(
        query,
        key,
        value,
        output,
        [resolve(request, tokens) for request, tokens in bends],
        text,
        collects_maps=collects_maps,
        keeps_heads=True,
    )
    assert np.abs(bent[0].numpy() - expected).max() < 2e-5 * max(1, np.abs(expected).max())
    assert (np.abs(expected - output[0].numpy()) > 1e-3).any()
    if collects_maps:
        assert maps is not None
        merged = np.concatenate([edited[:, :, :15], edited[:, :, 15:].sum(2, keepdims=True)], 2)
        assert np.abs(maps.numpy() - merged).max() < 1e-5
        resolved = [resolve(*each) for each in bends]
        means = BlockBender(GRID).bend_block(query, key, value, output, resolved, text, collects_maps=True)[1]
        assert means is not None
        assert torch.allclose(means, maps.mean(0, keepdim=True), atol=1e-6)
    else:
        assert maps is None


def test_renormalised_rows_sum_to_one() -> None:
    query, key, value, output = random_attention()
    for mode in PARAMETERS_BY_MODE:
        first, second = bend(mode, renormalise=True, border="zero"), bend("blur", renormalise=True)
        bends = [resolve(first, (1, 3)), resolve(second, (2,))]
        _, maps = BlockBender(GRID).bend_block(
            query, key, value, output, bends, TextColumns(16, TOKEN_COUNT), collects_maps=True, keeps_heads=True
        )
        assert maps is not None
        assert (maps.sum(2) - 1).abs().max() < 1e-5


def test_renormalised_rows_without_attention_stay_finite() -> None:
    query, key, value, output = random_attention()
    for words in (("all",), ("a", "b")):
        changes = {"border": "zero", "renormalise": True, "padding": True}
        request = bend("translate", words, parameters={"translate_x": 1.0}, **changes)
        bent, _ = BlockBender(GRID).bend_block(
            query, key, value, output, [resolve(request, ALL)], TextColumns(16, TOKEN_COUNT)
        )
        assert (bent == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bent_blocks_in_16_bits_differ_by_rounding_only(dtype: torch.dtype) -> None:
    query, key, value, output = random_attention(dtype)
    p = torch.einsum("nhd,thd->hnt", query[0].double(), key[0].double()).div(math.sqrt(8)).softmax(2).numpy()
    for name, bends in BEND_LISTS.items():
        edited = edit_attention(p, [(request, columns_of(request, tokens)) for request, tokens in bends], GRID)
        expected = np.einsum("hnt,thd->nhd", edited, value[0].double().numpy()).reshape(len(p[0]), -1)
        bent, _ = BlockBender(GRID).bend_block(
            query, key, value, output, [resolve(*each) for each in bends], TextColumns(16, TOKEN_COUNT)
        )
        assert bent.dtype == dtype
        scale = max(float(np.linalg.norm(expected)), float(output.double().norm()))
        error = float(np.linalg.norm(bent[0].double().numpy() - expected)) / scale
        assert error < 2e-2 if dtype == torch.bfloat16 else error < 4e-3, name


def test_groups_of_heads_and_chunks_of_rows_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, output = random_attention()

    def bend_lists() -> list[torch.Tensor]:
        results = []
        text = TextColumns(16, TOKEN_COUNT)
        for bends in BEND_LISTS.values():
            resolved = [resolve(*each) for each in bends]
            bent, maps = BlockBender(GRID).bend_block(query, key, value, output, resolved, text, collects_maps=True)
            assert maps is not None
            results += [bent, maps]
        return results

    at_once = bend_lists()
    monkeypatch.setattr(bent_attention, "BENT_MAP_BYTES", 1)
    monkeypatch.setattr(bent_attention, "OUTPUT_CHUNK_BYTES", 800)
    monkeypatch.setattr("wantui.generation.cross_attention_softmax.LOGITS_CHUNK_BYTES", 1500)
    for one, other in zip(at_once, bend_lists(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


# Denoisings


def bent_recipe(model: WanModel, *bends: BendRequest, **changes: object) -> Recipe:
    controls = {"attention_bending": {"bends": [each.model_dump() for each in bends]}} if bends else {}
    return recipe_for(model, **{"prompt": PROMPT, "controls": controls, "width": 96, "height": 64, **changes})


class _WholeMapProcessor(WanAttnProcessor):  # type: ignore[misc]
    """Cross-attention in float64 over 512 positions, with the whole map edited in the first of two passes."""

    def __init__(self, edit: Callable[[int, np.ndarray], np.ndarray], block_index: int, calls: list[int]) -> None:
        super().__init__()
        self.edit, self.block_index, self.calls = edit, block_index, calls

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, *_: Any) -> Any:
        query, key, value = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        query, key = attn.norm_q(query), attn.norm_k(key)
        query, key, value = (part[0].unflatten(1, (attn.heads, -1)).double() for part in (query, key, value))
        p = torch.einsum("nhd,thd->hnt", query, key).div(math.sqrt(query.shape[2])).softmax(2)
        self.calls.append(self.block_index)
        p = torch.from_numpy(self.edit(self.calls.count(self.block_index) - 1, p.numpy()))
        output = torch.einsum("hnt,thd->nhd", p, value).flatten(1)[None].to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](output))


@contextmanager
def whole_maps_edited(pipeline: WanPipeline, edit: Callable[[int, int, np.ndarray], np.ndarray]) -> Iterator[None]:
    """Edit the maps of every block: `edit(block, call, p)`; both transformers have blocks of their own calls."""
    originals = []
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        calls: list[int] = []
        for index, block in enumerate(transformer.blocks if transformer is not None else ()):
            originals.append((block.attn2, block.attn2.processor))

            def edit_block(call: int, p: np.ndarray, index: int = index) -> np.ndarray:
                return edit(index, call, p)

            block.attn2.set_processor(_WholeMapProcessor(edit_block, index, calls))
    try:
        yield
    finally:
        for attention, processor in originals:
            attention.set_processor(processor)


def last_latents(pipeline: WanPipeline, recipe: Recipe) -> torch.Tensor:
    *_, last = denoise_latents(pipeline, recipe)
    return last.latents


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_bent_denoising_equals_one_with_edited_whole_maps(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, is_fused: bool
) -> None:
    changes: dict[str, object] = {"flow_shift": 12.0 if form == "a14b" else 3.0, "negative_prompt": "a red circle"}
    if form == "5b":
        changes |= {"width": 192, "height": 128}
    bends = (
        bend("translate", ("red",), border="zero", renormalise=True, strength=3.0),
        bend("scale", ("red", "blue star"), blocks=(1,), passes="both", if_missing="skip", strength=2.0),
        bend("amplify", ("all",), parameters={"amplify_factor": 2.0}, padding=True, blocks=(0,)),
    )
    recipe = bent_recipe(tiny_models[form], *bends, **changes)
    pipeline = copy.deepcopy(load_once(tiny_models[form], "float32"))
    inputs = prepare_inputs(pipeline, recipe)
    hook: Any = inputs.hooks_by_capture["attention"]
    tokens = {
        context: {resolved.request.name: resolved.tokens for resolved in resolved_bends}
        for context, resolved_bends in hook.bends_by_context.items()
    }
    assert tokens["cond"]["translate"]
    assert tokens["uncond"]["scale"]
    assert "translate" not in tokens["uncond"]

    def edit(block: int, call: int, p: np.ndarray) -> np.ndarray:
        context = "uncond" if call % 2 else "cond"
        edits = [
            (each, [*tokens[context][each.name], *(range(len_of[context], 512) if each.padding else ())])
            for each in bends
            if each.name in tokens[context] and (each.blocks is None or block in each.blocks)
        ]
        return edit_attention(p, edits, hook.position_grid)

    len_of = {"cond": max(tokens["cond"]["amplify"]) + 1, "uncond": 0}
    with whole_maps_edited(pipeline, edit):
        expected = last_latents(pipeline, bent_recipe(tiny_models[form], **changes))
    plain = last_latents(pipeline, bent_recipe(tiny_models[form], **changes))
    if is_fused:
        for transformer in (pipeline.transformer, pipeline.transformer_2):
            if transformer is not None:
                fuse_blocks(transformer)
    bent = last_latents(pipeline, recipe)
    assert (plain - expected).abs().max() > 1e-2
    assert (bent - expected).abs().max() < 1e-3 * (plain - expected).abs().max()


IDENTITIES: dict[str, dict[str, object]] = {
    "amplify": {"amplify_factor": 1},
    "scale": {"scale_factor": 1},
    "rotate": {"rotate_degrees": -360},
    "translate": {"translate_x": 0},
    "flip": {},
    "blur": {"blur_sigma": 0},
    "sharpen": {"sharpen_amount": 0},
    "region": {},
    "frequency": {},
}


def test_identity_bends_leave_all_bits_unchanged(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    assert IDENTITIES.keys() == TRANSFORM_BY_MODE.keys()
    bends = [bend(mode, parameters=parameters, renormalise=True) for mode, parameters in IDENTITIES.items()]
    recipe = bent_recipe(tiny_models["wan2.1"], *bends, bend(strength=0))
    assert not prepare_inputs(tiny, recipe).hooks_by_capture
    assert torch.equal(last_latents(tiny, recipe), diffusers_output(tiny, recipe, "latent"))


def test_renormalising_bend_is_continuous_at_strength_zero(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    model, earlier = tiny_models["wan2.1"], bend("scale", border="zero", parameters={"scale_factor": 0.3})
    weak, zero = (
        last_latents(tiny, bent_recipe(model, earlier, bend("flip", renormalise=True, strength=strength)))
        for strength in (1e-6, 0)
    )
    assert torch.allclose(weak, zero, atol=1e-5)
    assert not torch.allclose(zero, last_latents(tiny, bent_recipe(model, earlier)), atol=1e-5)


@pytest.mark.parametrize("mode", IDENTITIES)
def test_identity_parameters_are_the_identity_of_the_warp(mode: str) -> None:
    request = bend(mode, parameters=IDENTITIES[mode])
    values = np.random.default_rng(3).random((6, 7))
    assert request.is_identity
    assert np.abs(warp(request, values) - values).max() < 1e-12
    assert not bend(mode).is_identity


def test_two_bends_of_a_word_compose_in_the_order_of_the_list(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    first, second = bend(border="zero"), bend("rotate")
    results = [
        last_latents(tiny, bent_recipe(tiny_models["wan2.1"], *bends))
        for bends in ((first, second), (second, first), (first,))
    ]
    assert not torch.equal(results[0], results[1])


def test_bends_act_only_in_their_steps_and_blocks(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    model = tiny_models["wan2.1"]
    plain = list(denoise_latents(tiny, bent_recipe(model)))
    late = list(denoise_latents(tiny, bent_recipe(model, bend(steps={"unit": "step", "moments": [2, 3]}))))
    for index, (one, other) in enumerate(zip(plain, late, strict=True)):
        assert torch.equal(one.velocity, other.velocity) == (index < 2)
    first, last, both, everywhere = (
        last_latents(tiny, bent_recipe(model, bend(blocks=blocks))) for blocks in ((0,), (1,), (0, 1), None)
    )
    assert torch.equal(both, everywhere)
    assert not torch.equal(first, last)


def test_captured_maps_are_bent_and_storing_them_changes_no_bit(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    marks = (PromptMark(text="red", start=2, end=5), PromptMark(text="blue", start=17, end=21))
    shift = bend(parameters={"translate_x": 1 / 3}, border="zero", blocks=(0,))
    for request in (shift, shift.model_copy(update={"renormalise": True})):
        stored = {}
        for name, bends in {"plain": (), "bent": (request,)}.items():
            recipe = bent_recipe(
                tiny_models["wan2.1"],
                *bends,
                marks=marks,
                capture=CaptureRequests(attention=AttentionRequest(per_block=True)),
            )
            stored[name] = next(denoise_latents(tiny, recipe)).values_by_capture["attention"].maps_by_context["cond"]
        plain, bent = (stored[name]["red"][0, 0] for name in ("plain", "bent"))
        width = plain.shape[-1]
        moved = torch.zeros_like(plain)
        moved[..., width // 3 :] = plain[..., : -(width // 3)]
        if not request.renormalise:
            assert torch.allclose(bent, moved, atol=1e-7)
            assert torch.equal(stored["bent"]["blue"][0], stored["plain"]["blue"][0])
        total = sum(stored["bent"][name][0] for name in ("prompt_mass", "end_mass", "pad_mass"))
        assert request.renormalise == torch.allclose(total, torch.ones_like(total), atol=1e-5)
        without = bent_recipe(tiny_models["wan2.1"], request, marks=marks)
        assert torch.equal(last_latents(tiny, recipe), last_latents(tiny, without))


@pytest.mark.parametrize("weight", [3.0, 0.0])
def test_bends_transform_the_attention_after_word_weights(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], weight: float
) -> None:
    marks = (PromptMark(text="red", start=2, end=5, weight=weight),)
    recipe = bent_recipe(tiny_models["wan2.1"], bend("translate", ("red", "star")), marks=marks, weighting="attention")
    hook: Any = prepare_inputs(tiny, recipe).hooks_by_capture["attention"]
    (resolved,) = hook.bends_by_context["cond"]
    weights = hook.prompt_sequence.find_weights(0)

    def edit(_: int, call: int, p: np.ndarray) -> np.ndarray:
        if call % 2:
            return p
        for token, factor in weights.items():
            p[:, :, token] *= factor
        p /= p.sum(2, keepdims=True)
        return edit_attention(p, [(resolved.request, list(resolved.tokens))], hook.position_grid)

    with whole_maps_edited(tiny, edit):
        expected = last_latents(tiny, bent_recipe(tiny_models["wan2.1"], marks=marks))
    assert (last_latents(tiny, recipe) - expected).abs().max() < 1e-4


def offload_linear_layers(pipeline: WanPipeline) -> None:
    """Keep the weights of a linear layer only while it runs, as the memory plan sequential does; otherwise NaN."""

    def hook_layer(layer: torch.nn.Linear) -> None:
        stored = [(parameter, parameter.detach().clone()) for parameter in layer.parameters()]

        def load(*_: object) -> None:
            for parameter, values in stored:
                parameter.data.copy_(values)

        def offload(*_: object) -> None:
            for parameter, _values in stored:
                parameter.data.fill_(math.nan)

        layer.register_forward_pre_hook(load)
        layer.register_forward_hook(offload)
        offload()

    for module in pipeline.transformer.modules():
        if isinstance(module, torch.nn.Linear):
            hook_layer(module)


def test_bends_and_weights_give_the_same_bits_if_layers_are_loaded_one_by_one(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    marks = (PromptMark(text="red", start=2, end=5, weight=1.5),)
    bends = (bend("rotate", renormalise=True), bend("amplify", ("all",), parameters={"amplify_factor": 2.0}))
    recipe = bent_recipe(tiny_models["wan2.1"], *bends, marks=marks, weighting="attention")
    offloaded = copy.deepcopy(tiny)
    offload_linear_layers(offloaded)
    assert torch.equal(last_latents(offloaded, recipe), last_latents(tiny, recipe))


def test_marked_occurrences_are_bent_alone(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    def tokens(*marks: PromptMark) -> tuple[int, ...]:
        recipe = bent_recipe(tiny_models["wan2.1"], bend(words=("star",)), marks=marks)
        hook: Any = prepare_inputs(tiny, recipe).hooks_by_capture["attention"]
        return tuple(hook.bends_by_context["cond"][0].tokens)

    second = PromptMark(text="star", start=22, end=26)
    assert len(tokens()) == 2 * len(tokens(second))
    assert set(tokens(second)) < set(tokens())


def test_missing_words_are_refused_or_skipped(tiny: WanPipeline, tiny_models: dict[str, WanModel]) -> None:
    with pytest.raises(UserError, match="the bend translate needs 'flower', which the prompt lacks"):
        prepare_inputs(tiny, bent_recipe(tiny_models["wan2.1"], bend(words=("flower",))))
    skipped = bent_recipe(tiny_models["wan2.1"], bend(words=("flower",), if_missing="skip"))
    assert not prepare_inputs(tiny, skipped).hooks_by_capture


def test_bend_of_padding_is_skipped_if_the_prompt_fills_all_text_positions(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    request = bend(words=("flower",), padding=True, if_missing="skip")
    for word_count, is_bent in ((510, True), (511, False)):  # and the end token
        recipe = bent_recipe(tiny_models["wan2.1"], request, prompt=" ".join(["star"] * word_count), steps=1)
        assert ("attention" in prepare_inputs(tiny, recipe).hooks_by_capture) == is_bent
        assert last_latents(tiny, recipe).isfinite().all()


def test_rerun_reproduces_a_bent_clip_bit_identically(wantui: Wantui, small: list[str]) -> None:
    bends = "attention_bending_settings.bends=[{words: star, mode: flip, flip_horizontal: yes, renormalise: yes}]"
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small, "--set", bends))
    clip = folder.make_clip_path(0, 1)
    result = wantui("rerun", clip, "-o", "again.mp4", "--device", "cpu")
    assert result.out == f"bit-identical: latents and frames of {clip}\n"
