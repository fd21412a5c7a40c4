"""Nano: its world, tokenizer, pictures and judge, and that training computes what the stock modules compute."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from scipy.stats import norm

from wantui.models.nano import NANO_WEIGHTS_FOLDER
from wantui.models.nano.attributes import (
    DIRECTION_BY_MOTION,
    FREQUENCY_BY_SHAPE,
    RGB_BY_BACKGROUND,
    RGB_BY_COLOUR,
    SHAPES,
)
from wantui.models.nano.autoencoder import (
    build_autoencoder,
    decode_clip,
    enable_whole_clip_resampling,
    encode_clip,
    train_decoder,
)
from wantui.models.nano.judge import detect_motion, detect_shape, find_object_pixels, judge_clip
from wantui.models.nano.latent_clips import TRAINING_TEXT_POSITION_COUNT
from wantui.models.nano.muon import orthogonalise_matrices
from wantui.models.nano.render import (
    compute_cell_coverage,
    compute_signed_distance,
    draw_object_masks,
    pool_to_latent_frames,
    render_scenes,
    scale_to_vae_range,
)
from wantui.models.nano.tokenizer import build_nano_tokenizer
from wantui.models.nano.transformer import (
    build_text_encoder,
    build_transformer,
    compute_attention_loss,
    draw_sigmas,
    embed_text,
    predict_velocity,
)
from wantui.models.nano.world import find_held_out_scenes, sample_scenes, write_captions

pytestmark = pytest.mark.torch


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_shape_and_colour_frequencies_match_their_distribution(rng: np.random.Generator) -> None:
    scenes = sample_scenes(40_000, rng)
    n = len(scenes)
    for index, share in enumerate(FREQUENCY_BY_SHAPE.values()):
        # The second object is free of the held-out rule; four standard errors.
        assert abs((scenes.shape[:, 1] == index).mean() - share) < 4 * math.sqrt(share * (1 - share) / n)
    for index in range(len(RGB_BY_COLOUR)):
        assert abs((scenes.colour[:, 0] == index).mean() - 1 / 6) < 4 * math.sqrt(1 / 6 * 5 / 6 / n)
    assert sum(FREQUENCY_BY_SHAPE.values()) == pytest.approx(1)
    assert (scenes.colour[:, 0] != scenes.colour[:, 1]).all()


def test_held_out_scenes_never_occur_in_training(rng: np.random.Generator) -> None:
    assert not find_held_out_scenes(sample_scenes(5000, rng)).any()
    assert find_held_out_scenes(sample_scenes(500, rng, is_evaluation=True)).all()


def test_captions_describe_their_scenes_and_can_omit_details(rng: np.random.Generator) -> None:
    scenes = sample_scenes(300, rng)
    for i, caption in enumerate(write_captions(scenes)):
        for k in range(scenes.object_count[i]):
            start, end = caption.shape_words[k]
            assert caption.text[start:end] == SHAPES[scenes.shape[i, k]]
            start, end = caption.phrases[k]
            phrase, motion = caption.text[start:end], list(DIRECTION_BY_MOTION)[scenes.motion[i, k]]
            assert phrase.split()[1:] == [
                list(RGB_BY_COLOUR)[scenes.colour[i, k]],
                SHAPES[scenes.shape[i, k]],
                "staying" if motion == "still" else "moving",
                motion,
            ]
        assert caption.text.endswith(f"over a {list(RGB_BY_BACKGROUND)[scenes.background[i]]} background")
    partial = write_captions(scenes, rng)
    assert any("background" not in caption.text for caption in partial)
    assert all(
        caption.text[start:end] in (*SHAPES, "shape") for caption in partial for start, end in caption.shape_words
    )


@pytest.mark.parametrize("text", ["", "a red circle", "Schöne Grüße, 圆形 🎈\n\t", "x" * 3000, "</s><pad>", "▁"])
def test_nano_tokenizer_accepts_any_text(text: str) -> None:
    ids = build_nano_tokenizer()(text, truncation=True, max_length=512)["input_ids"]
    assert ids[-1] == 1
    assert 1 <= len(ids) <= 512
    assert max(ids) < 256


def test_world_words_round_trip_through_the_tokenizer(rng: np.random.Generator) -> None:
    tokenizer = build_nano_tokenizer()
    for caption in write_captions(sample_scenes(200, rng), rng):
        ids = tokenizer(caption.text)["input_ids"]
        assert len(ids) <= TRAINING_TEXT_POSITION_COUNT
        assert 2 not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == caption.text
    words = [*SHAPES, *RGB_BY_COLOUR, *DIRECTION_BY_MOTION, *RGB_BY_BACKGROUND]
    split = [word for word in words if len(tokenizer.tokenize(word)) > 1]
    assert {"circle", "square", "triangle", "yellow", "purple", "sandy"} <= set(split)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi),
        ("square", 1.7**2),
        ("ring", math.pi * (1 - 0.25)),
        ("cross", 2 * 2 * 0.6 - 0.6**2),
        ("triangle", 3 * math.sqrt(3) * 0.55**2),
        ("star", 10 * 0.5 * 1.05 * 0.45 * math.sin(math.pi / 5)),
    ],
)
def test_shape_areas_match_their_closed_forms(shape: str, area: float) -> None:
    axis = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * 3 - 1.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    measured = float((compute_signed_distance(shape, x, y) < 0).double().mean()) * 9
    assert measured == pytest.approx(area, rel=2e-3)


def test_objects_move_as_their_scene_says(rng: np.random.Generator) -> None:
    scenes = sample_scenes(60, rng, two_object_fraction=0.0)
    masks = draw_object_masks(scenes, "cpu")
    assert [detect_motion(mask) for mask in masks[:, 0]] == [list(DIRECTION_BY_MOTION)[m] for m in scenes.motion[:, 0]]


def test_visible_masks_of_objects_do_not_overlap(rng: np.random.Generator) -> None:
    _, visible = render_scenes(sample_scenes(30, rng, two_object_fraction=1.0))
    assert float(visible.sum(1).max()) <= 1 + 1e-5


def test_cell_coverage_sums_to_the_mask_area(rng: np.random.Generator) -> None:
    _, masks = render_scenes(sample_scenes(4, rng))
    coverage = compute_cell_coverage(masks)
    coverage = coverage.reshape(*coverage.shape[:-1], 5, 8, 8)
    assert torch.allclose(coverage.mean((-2, -1)), pool_to_latent_frames(masks).mean((-2, -1)), atol=1e-5)


def test_judge_accepts_matching_clips_and_rejects_most_others(rng: np.random.Generator) -> None:
    scenes = sample_scenes(48, rng, is_evaluation=True)
    clips = render_scenes(scenes)[0].float() / 255
    assert all(all(vars(judge_clip(clip, scenes, i)).values()) for i, clip in enumerate(clips))
    shifted = [vars(judge_clip(clips[i - 1], scenes, i)) for i in range(len(clips))]
    right = {name: float(np.mean([verdict[name] for verdict in shifted])) for name in shifted[0]}
    assert max(right.values()) < 0.7


def test_judge_recognises_every_shape_at_every_size(rng: np.random.Generator) -> None:
    scenes = sample_scenes(60, rng, two_object_fraction=0.0, is_evaluation=True)
    scenes.shape[:, 0] = np.arange(60) % len(SHAPES)
    clips = render_scenes(scenes)[0].float() / 255
    assert [detect_shape(find_object_pixels(clip)[8]) for clip in clips] == [SHAPES[s] for s in scenes.shape[:, 0]]


def test_whole_clip_autoencoder_equals_the_diffusers_autoencoder(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    vae = build_autoencoder().eval()
    with torch.no_grad():
        for parameter in vae.parameters():  # away from the identity in time that it starts as
            parameter.add_(0.05 * torch.randn_like(parameter))
        video = scale_to_vae_range(render_scenes(sample_scenes(1, rng))[0])[..., :64, :64]
        stock_latents = vae.encode(video).latent_dist.mode()
        stock_video = vae.decode(stock_latents).sample
        whole = enable_whole_clip_resampling(vae)
        latents, _ = encode_clip(whole, video)
        assert torch.allclose(latents, stock_latents, atol=1e-4 * float(stock_latents.abs().max()))
        decoded = decode_clip(whole, stock_latents).clamp(-1, 1)
        assert torch.allclose(decoded, stock_video, atol=1e-4)


def test_decoder_training_does_not_change_the_encoder() -> None:
    torch.manual_seed(0)
    vae = build_autoencoder()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with torch.compiler.set_stance("force_eager"):
        train_decoder(vae, step_count=2, clip_count=8, device="cpu", log_line=lambda _: None)
    changed = {name.split(".")[0] for name, value in vae.state_dict().items() if not value.equal(before[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_training_forward_equals_the_transformer_with_512_text_positions() -> None:
    torch.manual_seed(0)
    tokenizer, text_encoder, transformer = (
        build_nano_tokenizer(),
        build_text_encoder(141).eval(),
        build_transformer().eval(),
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        ids = tokenizer(
            ["a small red circle", "a star"],
            padding="max_length",
            max_length=TRAINING_TEXT_POSITION_COUNT,
            return_tensors="pt",
        )
        latents, timestep = torch.randn(2, 16, 5, 16, 16), torch.tensor([900.0, 300.0])
        text, bias = embed_text(text_encoder, ids["input_ids"])
        words = torch.zeros(2, 2, TRAINING_TEXT_POSITION_COUNT)
        collapsed, _ = predict_velocity(transformer, latents, timestep, text, bias, words)
        all_positions = torch.cat([text, torch.zeros(2, 512 - TRAINING_TEXT_POSITION_COUNT, text.shape[-1])], dim=1)
        stock = transformer(latents, timestep, all_positions, return_dict=False)[0]
    assert torch.allclose(collapsed, stock, atol=1e-4)


def test_noise_levels_follow_their_published_distribution() -> None:
    torch.manual_seed(0)
    sigma = draw_sigmas(20_000, "cpu").double().numpy()
    for level in (0.1, 0.3, 0.5, 0.7, 0.9):
        expected = 0.9 * norm.cdf((math.log(level / (1 - level)) - 0.4) / 1.2) + 0.1 * level
        assert (sigma < level).mean() == pytest.approx(expected, abs=0.005)


def test_attention_loss_is_minimal_for_attention_on_the_object() -> None:
    coverage = torch.zeros(1, 2, 8)
    coverage[0, 0, 2:4] = 1.0
    on_object, beside = torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)
    on_object[0, ::2, 2:4], beside[0, ::2, 4:6] = 0.5, 0.5
    weight = torch.ones(1)
    assert float(compute_attention_loss(on_object, coverage, weight)) == pytest.approx(math.log(2), abs=1e-4)
    assert float(compute_attention_loss(beside, coverage, weight)) > 10
    assert float(compute_attention_loss(on_object, coverage, 0 * weight)) == 0


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise_matrices(torch.randn(3, 16, 48)))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_bundled_nano_is_complete_small_and_matches_its_definition(nano: WanPipeline) -> None:
    size = sum(path.stat().st_size for path in Path(NANO_WEIGHTS_FOLDER).rglob("*") if path.is_file())
    assert size <= 16 * 1024 * 1024
    assert isinstance(nano.vae, AutoencoderKLWan)
    assert nano.tokenizer.get_vocab() == build_nano_tokenizer().get_vocab()
    assert nano.transformer.config.num_layers == build_transformer().config.num_layers
    shapes = {name: p.shape for name, p in build_transformer().named_parameters()}
    assert {name: p.shape for name, p in nano.transformer.named_parameters()} == shapes
