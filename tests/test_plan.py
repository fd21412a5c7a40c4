"""Plans: recipes, paired seeds, Wan's rules for sizes, and the estimate of disk space."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import recipe_for
from diffusers import WanPipeline
from huggingface_hub import constants
from pydantic import ValidationError

from wantui.config import load_config
from wantui.errors import UserError
from wantui.generation.denoise import prepare_inputs
from wantui.models.catalogue import CATALOGUE, NANO, UnknownModelError, WanModel, find_model
from wantui.planning import Batch, Recipe, estimate_batch_disk, plan_batch, preview_batch
from wantui.planning.disk_estimate import list_captured_steps
from wantui.storage.manifest import create_manifest

pytestmark = pytest.mark.torch


def planned(template: str = "a [red|blue] circle", *overrides: str, config: str = "nano") -> Batch:
    return plan_batch(load_config(config, overrides), template)


def test_video_k_of_every_variation_has_the_same_seed() -> None:
    batch = planned("a [red|blue|green] circle", "videos_per_variation=4", "model_settings.seed=100")
    assert [v.recipe.seed for v in batch.videos] == [100, 101, 102, 103] * 3
    assert [(v.variation_index, v.seed_number) for v in batch.videos] == [(i, k) for i in range(3) for k in range(1, 5)]


def test_recipe_round_trips_and_its_digest_depends_on_its_fields() -> None:
    recipe = planned('ein "schöner" (Kreis) 圆').videos[0].recipe
    again = Recipe.model_validate_json(recipe.to_json())
    assert again == recipe
    assert again.digest == recipe.digest
    for field, value in (("seed", 1), ("prompt", "x"), ("guidance_scale", 4.5), ("sampler", "euler"), ("frames", 5)):
        assert recipe.model_copy(update={field: value}).digest != recipe.digest


def test_recipe_is_immutable_and_refuses_unknown_fields() -> None:
    recipe = planned().videos[0].recipe
    with pytest.raises(ValidationError):
        recipe.seed = 1
    with pytest.raises(ValidationError):
        Recipe.model_validate({**recipe.model_dump(), "colour": "red"})


def test_mark_spans_in_recipes_match_their_words() -> None:
    for video in planned("a [tall|] (man) and a (woman)").videos:
        recipe = video.recipe
        assert [recipe.prompt[m.start : m.end] for m in recipe.marks] == ["man", "woman"]


@pytest.mark.parametrize("asked", range(1, 40))
def test_frame_count_is_rounded_as_in_the_pipeline(asked: int, tiny: WanPipeline) -> None:
    batch = planned("a circle", f"video_settings.frames={asked}")
    frames = batch.videos[0].recipe.frames
    size = {"height": 16, "width": 16, "num_frames": asked}
    stock = tiny("a", **size, num_inference_steps=1, guidance_scale=1.0, output_type="latent").frames
    assert frames == (stock.shape[2] - 1) * 4 + 1
    assert bool(batch.warnings) == (frames != asked)
    if batch.warnings:
        assert f"{asked} frames" in batch.warnings[0]
        assert f"will generate {frames}" in batch.warnings[0]


def test_duration_and_fps_give_frames_unless_frames_is_set() -> None:
    by_duration = ("video_settings.frames=null", "video_settings.fps=16")
    assert planned("a circle", *by_duration, "video_settings.duration=5.0625").videos[0].recipe.frames == 81
    batch = planned("a circle", *by_duration, "video_settings.duration=5")
    assert batch.videos[0].recipe.frames == 81
    assert "5 s at 16 fps are 80 frames" in batch.warnings[0]
    assert planned("a circle", "video_settings.duration=99").videos[0].recipe.frames == 17


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("video_settings.width=130", "width: 130 is not a multiple of 16; the nearest are 128 or 144"),
        ("video_settings.height=1000", "height: 1000 is not a multiple of 16; the nearest are 992 or 1008"),
        ("video_settings.width=17", "width: 17 is not a multiple of 16; the nearest are 16 or 32"),
    ],
)
def test_invalid_size_is_refused_with_the_nearest_valid_sizes(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        planned("a circle", setting)


def test_wan_22_5b_requires_multiples_of_32() -> None:
    with pytest.raises(UserError, match="height: 720 is not a multiple of 32; the nearest are 704 or 736"):
        planned("a", "model_settings.model_id=wan2.2-5b", "video_settings.width=1280", "video_settings.height=720")


def test_video_beyond_the_maximum_length_is_refused() -> None:
    with pytest.raises(UserError, match="at most 4093"):
        planned("a", "video_settings.frames=null", "video_settings.duration=3600")


@pytest.mark.parametrize(
    ("model", "width", "height", "shift"),
    [
        ("wan2.1-1.3b", 832, 480, 3.0),
        ("wan2.1-14b", 1280, 720, 5.0),
        ("wan2.1-14b", 720, 1280, 5.0),
        ("wan2.2-5b", 1280, 704, 5.0),
        ("wan2.2-a14b", 832, 480, 12.0),
        ("nano", 128, 128, 3.0),
    ],
)
def test_flow_shift_depends_on_model_and_size_unless_given(model: str, width: int, height: int, shift: float) -> None:
    size = (f"model_settings.model_id={model}", f"video_settings.width={width}", f"video_settings.height={height}")
    assert planned("a", *size).videos[0].recipe.flow_shift == shift
    assert planned("a", *size, "model_settings.flow_shift=7").videos[0].recipe.flow_shift == 7.0


def test_weighting_method_is_set_only_for_weighted_words() -> None:
    assert planned("a (circle:1.5)").videos[0].recipe.weighting == "attention"
    assert planned("a (circle)").videos[0].recipe.weighting is None
    multiply = planned("a [(circle:1.5)|star]", "prompt_settings.embedding_method=multiply")
    assert [video.recipe.weighting for video in multiply.videos] == ["multiply", "multiply", None, None]


def test_settings_without_effect_are_refused() -> None:
    asked = "attention_analysis_settings.store_attention=true"
    assert "marks no word" in planned("a circle", asked).refusals[0]
    assert planned("a [(circle)|star]", asked).refusals == ()
    assert "needs store_latents" in planned("a", "latent_analysis_settings.store_predicted_clean=true").refusals[0]
    nothing = planned(
        "a", "model_settings.model_id=wan2.2-a14b", "model_settings.cfg_scale=1", "model_settings.cfg_scale_2=3"
    )
    assert "cfg_scale_2 has no effect if cfg_scale is at most 1" in nothing.refusals[0]
    assert "nano has one" in planned("a circle", "model_settings.cfg_scale_2=3").refusals[0]
    assert planned("a", "model_settings.model_id=wan2.2-a14b", "model_settings.cfg_scale_2=3").refusals == ()


def test_prompt_over_512_tokens_is_refused() -> None:
    refusal = planned("a [red|" + "blue " * 510 + "] circle").refusals[0]
    assert re.search(r"has 512 words, but the model reads only 512 tokens", refusal)
    (refusal,) = planned("a [red|" + "blue " * 509 + "] circle").refusals
    assert "has 513 tokens, but the model reads only 512" in refusal
    assert planned("a [red|" + "blue " * 508 + "] circle").refusals == ()


def test_negative_prompt_over_512_tokens_is_refused_if_a_pass_reads_it() -> None:
    def refuse(negative_prompt: str, *settings: str) -> tuple[str, ...]:
        return planned("a circle", f"prompt_settings.negative_prompt={negative_prompt}", *settings).refusals

    (refusal,) = refuse("blue " * 512)
    assert refusal.startswith("prompt_settings.negative_prompt has 512 words, but the model reads only 512 tokens")
    (refusal,) = refuse("blue " * 510 + ",")
    assert re.fullmatch(r"the negative prompt 'blue .* has 513 tokens, but the model reads only 512 .*", refusal)
    assert refuse("blue " * 511) == ()
    assert refuse("blue " * 600, "model_settings.cfg_scale=1") == ()
    assert refuse("blue " * 600, "model_settings.model_id=wan2.1-1.3b") != ()


@pytest.mark.parametrize(
    ("fps", "duration", "whole", "frames"), [(25, 4.64, 116, 117), (30, 16.4, 492, 493), (25, 1.16, 29, 29)]
)
def test_duration_is_computed_in_decimal_arithmetic(fps: int, duration: float, whole: int, frames: int) -> None:
    # As floats 25 x 4.64 is 115.99999999999999, of which 113 frames were made.
    by_duration = ("video_settings.frames=null", f"video_settings.fps={fps}", f"video_settings.duration={duration}")
    batch = planned("a circle", *by_duration)
    assert batch.videos[0].recipe.frames == frames
    assert any(f"are {whole} frames" in warning for warning in batch.warnings) is (frames != whole)
    both = planned("a circle", f"video_settings.fps={fps}", f"video_settings.duration={duration}",
                   f"video_settings.frames={frames}")  # fmt: skip
    assert any("has no effect" in warning for warning in both.warnings) is (frames != whole)


def test_nano_far_beyond_its_training_gets_a_warning() -> None:
    sizes = {"width": 832, "height": 528, "frames": 81}
    for name, value in sizes.items():
        (warning,) = planned("a circle", f"video_settings.{name}={value}").warnings
        assert warning.startswith("nano was trained on 128x128 pixels and 17 frames, but the videos have ")
        assert "set video_settings.width=128, height=128 and frames=17" in warning
    assert planned("a circle", "video_settings.width=512", "video_settings.frames=65").warnings == ()
    assert not any("trained on" in text for text in planned("a cat", "model_settings.model_id=wan2.1-1.3b").warnings)


def test_duration_beside_frames_is_reported_as_ignored() -> None:
    (warning,) = planned("a circle", "video_settings.duration=9").warnings
    assert warning == "video_settings.duration: 9 s has no effect, because frames is set: 17 frames"
    assert planned("a circle", "video_settings.duration=9", "video_settings.frames=null").warnings != (warning,)
    assert planned("a circle", "video_settings.duration=9", "video_settings.frames=18").warnings == (
        "video_settings.duration: 9 s has no effect, because frames is set: 18 frames",
        "video_settings: 18 frames, which is not 4k + 1: the model will generate 17",
    )


def test_equal_prompts_cause_a_warning() -> None:
    assert planned("a [red|red] circle").warnings == ("variations red and red.2 have the same prompt",)


def test_seed_beyond_63_bits_is_refused() -> None:
    with pytest.raises(UserError, match="63 bits"):
        planned("a", f"model_settings.seed={2**63 - 1}", "videos_per_variation=2")


def test_models_are_found_by_name_hub_id_and_directory(tiny_models: dict[str, WanModel]) -> None:
    assert find_model("nano") is NANO
    for model in CATALOGUE:
        assert find_model(model.name) is find_model(model.location) is model
    for form, expected in (("wan2.1", (16, 16, None)), ("a14b", (16, 16, 0.875)), ("5b", (48, 32, None))):
        result = find_model(tiny_models[form].location)
        assert (result.latent_channels, result.size_multiple, result.boundary_ratio) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wan3", "Choose from nano, wan2.1-1.3b"),
        ("./nowhere", "does not exist"),
        ("/", "model_index.json is missing"),
        ("a/b/c", "unknown model"),
    ],
)
def test_unknown_model_is_refused_with_the_known_names(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        find_model(name)


def test_model_directory_of_another_pipeline_is_refused() -> None:
    Path("other").mkdir()
    Path("other/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UnknownModelError, match="its pipeline class is StableDiffusionPipeline, not WanPipeline"):
        find_model("./other")
    Path("other/model_index.json").write_text("{}")
    with pytest.raises(UnknownModelError, match=r"its pipeline class is missing in model_index\.json"):
        find_model("./other")
    Path("other/model_index.json").write_text("{")
    with pytest.raises(UnknownModelError, match="cannot be read"):
        find_model("./other")


@pytest.mark.parametrize(("part", "other"), [("transformer", "FluxTransformer2DModel"), ("vae", "AutoencoderKL")])
def test_wan_pipeline_with_a_foreign_part_is_refused(part: str, other: str, tiny_models: dict[str, WanModel]) -> None:
    shutil.copytree(tiny_models["wan2.1"].location, "other")
    index = json.loads(Path("other/model_index.json").read_text())
    index[part][1] = other
    Path("other/model_index.json").write_text(json.dumps(index))
    with pytest.raises(UnknownModelError, match=f"cannot use .*: its {part} has the class {other} "):
        find_model("./other")


def test_copy_of_nano_is_not_treated_as_the_shipped_model() -> None:
    shutil.copytree(NANO.location, "nano")
    assert planned("a", "model_settings.model_id=./nano").videos[0].recipe.model == str(Path("nano").resolve())


def test_recipe_contains_the_commit_of_a_cached_hub_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked = ("video_settings.frames=5", "model_settings.revision=stable")
    assert planned("a", *asked, config="default").videos[0].recipe.revision == "stable"
    copy = tmp_path / "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers"
    for branch, commit in (("main", "a" * 40), ("stable", "b" * 40)):
        (copy / "refs").mkdir(parents=True, exist_ok=True)
        (copy / "refs" / branch).write_text(commit)
        (copy / "snapshots" / commit).mkdir(parents=True)
        (copy / "snapshots" / commit / "model_index.json").write_text("{}")
    assert planned("a", *asked, config="default").videos[0].recipe.revision == "b" * 40
    assert planned("a", config="default").videos[0].recipe.revision == "a" * 40


def test_missing_weights_are_named_for_any_revision() -> None:
    for asked in ((), ("model_settings.revision=stable",)):
        warnings = planned("a", "video_settings.frames=5", *asked, config="default").warnings
        assert any("the weights of wan2.1-1.3b are not on this machine" in text for text in warnings)


def test_revision_of_a_local_model_causes_a_warning() -> None:
    (warning,) = planned("a circle", "model_settings.revision=stable").warnings
    assert "model_settings.revision: stable has no effect" in warning
    assert planned("a circle").warnings == ()


@pytest.mark.parametrize("setting", ["output_dir", "model_settings.transformer_file", "model_settings.model_id"])
@pytest.mark.parametrize("path", ["$NOT_SET/x", "~nobody_here/x", "a\x1bb", "x" * 300])
def test_setting_without_a_valid_path_is_named(setting: str, path: str) -> None:
    named = "cannot find the model" if setting.endswith("model_id") else setting
    with pytest.raises(UserError, match=f"^{named}: cannot use the path"):
        planned("a circle", f"{setting}={path}")


@pytest.mark.parametrize("key", ["revision", "transformer_file"])
def test_blank_revision_or_transformer_file_is_refused(key: str) -> None:
    Path("c.yaml").write_text(f'model_settings:\n  model_id: nano\n  {key}: " "\n')
    with pytest.raises(UserError, match=f"c.yaml:3: model_settings.{key}: should not be empty"):
        load_config("c.yaml")


@pytest.mark.parametrize("template", ["[a|(cat) (dog) (bird)] sits", "[(cat) (dog) (bird)|a] sits"])
def test_disk_estimate_counts_the_marks_of_each_variation(template: str) -> None:
    # All videos had the marks of the first one.
    settings = ("attention_analysis_settings.store_attention=true", "videos_per_variation=2")
    batch = planned(template, *settings)
    positions, masses = 5 * 8 * 8, 3
    of_words = 2 * 20 * positions * 4 * (3 + masses + 0 + masses)
    assert estimate_batch_disk(batch).sum_capture_bytes("attention") == of_words
    outline = preview_batch(batch.config, template)
    assert estimate_batch_disk(outline) == estimate_batch_disk(batch)
    predicted = [video.predicted["bytes"] for video in create_manifest(batch, "a").videos]
    assert sum(predicted) == pytest.approx(estimate_batch_disk(batch).total_bytes, abs=len(predicted))
    assert len(set(predicted)) == 2


@pytest.mark.parametrize(("interval", "stored"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (9, [0, 5])])
def test_first_and_last_state_are_always_captured(interval: int, stored: list[int]) -> None:
    assert list_captured_steps("unipc", 5, interval) == stored


def test_disk_estimate_of_latents_is_exact() -> None:
    settings: tuple[Any, ...] = ("latent_analysis_settings.store_latents=true", "videos_per_variation=3")
    batch = planned("a [red|blue] circle", *settings)
    states = 20 + 1
    assert estimate_batch_disk(batch).sum_capture_bytes("latents") == 2 * 3 * states * math.prod((16, 5, 16, 16)) * 4
    half = planned("a [red|blue] circle", *settings, "latent_analysis_settings.storage_dtype=float16")
    assert estimate_batch_disk(half).sum_capture_bytes("latents") * 2 == estimate_batch_disk(batch).sum_capture_bytes(
        "latents"
    )
    clean = planned("a [red|blue] circle", *settings, "latent_analysis_settings.store_predicted_clean=true")
    assert (
        estimate_batch_disk(clean).sum_capture_bytes("latents")
        == 2 * 3 * (states + states - 1) * math.prod((16, 5, 16, 16)) * 4
    )
    heun = planned("a [red|blue] circle", *settings, "model_settings.sampler=heun")
    assert (
        estimate_batch_disk(heun).sum_capture_bytes("latents") == 2 * 3 * states * math.prod((16, 5, 16, 16)) * 4
    )  # S9: no predictors


def test_latent_shapes_match_the_pipeline(tiny_models: dict[str, WanModel], tiny: WanPipeline) -> None:
    recipe = recipe_for(tiny_models["wan2.1"], width=48, height=32, frames=13)
    expected = tiny_models["wan2.1"].compute_latent_shape(48, 32, 13)
    assert prepare_inputs(tiny, recipe).noise.shape == torch.Size((1, *expected))


@pytest.mark.parametrize(
    ("negative", "shown"),
    [
        ("(worst quality:1.4), ugly", "(worst quality:1.4)"),
        ("[low], ugly", "["),
        ("<lora:x:1>", "<lora:x:1>"),
        ("a|b", "|"),
    ],
)
def test_syntax_in_a_negative_prompt_causes_a_warning(negative: str, shown: str) -> None:
    batch = plan_batch(load_config("nano", [f"prompt_settings.negative_prompt={negative}"]), "a circle")
    assert [one for one in batch.warnings if one.startswith(f"prompt_settings.negative_prompt: '{shown}'")]  # A7


def test_mark_without_effect_causes_a_warning() -> None:
    config, storing = load_config("nano"), load_config("nano", ["attention_analysis_settings.store_attention=true"])
    (warning,) = plan_batch(config, "a [(circle)|(ring)] and (red:1.5)").warnings
    assert warning.startswith(
        "(circle) and 1 other mark store nothing: turn on attention maps (store_attention, "
    )  # C13
    assert plan_batch(storing, "a (circle)").warnings == ()
    assert plan_batch(config, "a (circle:1.5)").warnings == ()


@pytest.mark.parametrize(
    ("overrides", "template", "number"),
    [
        (["prompt_settings.max_variations=1000000000"], "[0|1|2|3|4|5|6|7|8|9]" * 7, "20,000,000"),
        (["videos_per_variation=100000"], "a [red|blue] circle", "200,000"),
        (["prompt_settings.max_variations=1" + "0" * 30], "[0|1|2|3|4|5|6|7|8|9]" * 20, r"about 10\^20"),
    ],
)
def test_too_many_videos_are_refused_before_planning(overrides: list[str], template: str, number: str) -> None:
    with pytest.raises(UserError, match=f"cannot plan {number} videos: a batch has at most 100,000"):
        plan_batch(load_config("nano", overrides), template)  # B7
