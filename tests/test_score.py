"""`wantui score`: velocities at renoised videos against closed forms and float64, and the command on batches."""

import json
import math
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from conftest import MakeOnce, Wantui, generate_batch
from tiny import FORMS, tiny_pipeline

from wantui.analysis.information_gap import choose_quadrature_levels, integrate_levels
from wantui.batches import generating_model, score, score_plan
from wantui.controls import CONTROLS
from wantui.generation.renoise import compare_velocities, draw_noise, measure_level_gaps
from wantui.models.catalogue import WanModel
from wantui.storage.batch_check import check_batch
from wantui.storage.information_file import InformationFileError, get_information_path, read_information
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.video_selection import select_videos
from wantui.worker.pipelines import load_recipe_pipeline

pytestmark = pytest.mark.torch

SHARES = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
SHAPE = (2, 1, 4, 4)


class BayesTransformer:
    """A perfect model of a mixture of videos with given shares: its text names one of them, or, with -1, none."""

    def __init__(self, videos: torch.Tensor) -> None:
        self.videos, self.dtype = videos, torch.float64

    @contextmanager
    def cache_context(self, context: str) -> Iterator[None]:
        yield

    def __call__(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool,
    ) -> tuple[torch.Tensor]:
        sigma, concept = float(timestep[0]) / 1000, int(encoder_hidden_states[0, 0, 0])
        if concept >= 0:
            clean = self.videos[concept][None]
        else:
            squares = (hidden_states - (1 - sigma) * self.videos).square().flatten(1).sum(1)
            weights = (SHARES.log() - squares / (2 * sigma**2)).softmax(0)
            clean = torch.einsum("k,k...->...", weights, self.videos)[None]
        return ((hidden_states - clean) / sigma,)


def bayes_pipeline(videos: torch.Tensor) -> Any:
    return SimpleNamespace(
        transformer=BayesTransformer(videos),
        scheduler=SimpleNamespace(config=SimpleNamespace(num_train_timesteps=1000)),
        config=SimpleNamespace(boundary_ratio=None, expand_timesteps=False),
        _execution_device=torch.device("cpu"),
    )


def test_perfect_model_of_a_mixture_has_the_information_of_its_shares() -> None:
    videos = 20 * torch.eye(4, 32, dtype=torch.float64).reshape(4, *SHAPE)
    pipeline, levels = bayes_pipeline(videos), choose_quadrature_levels()
    for concept, share in enumerate(SHARES.tolist()):
        seed_values = []
        for seed in range(40):
            gaps = measure_level_gaps(
                pipeline,
                videos[concept].float().numpy(),
                seed,
                torch.full((1, 1, 1), concept),
                torch.full((1, 1, 1), -1),
                [level.sigma for level in levels],
                draw_count=8,
            )
            values = list(gaps)
            seed_values.append(
                integrate_levels(levels, [v.squared_gap for v in values], [v.pointwise_gain for v in values]).values
            )
        means, errors = np.mean(seed_values, axis=0), np.std(seed_values, axis=0, ddof=1) / math.sqrt(40)
        expected = -math.log(share)
        assert abs(means[3] - expected) < 4 * errors[3] + 0.03 * expected  # the gap over the whole range
        assert abs(means[2] - expected) < 4 * errors[2] + 0.03 * expected  # the pointwise form
        assert max(errors) < 0.2


@pytest.mark.parametrize("form", FORMS)
def test_values_equal_a_float64_model_at_every_level(form: str) -> None:
    channels, sigmas = (48 if form == "5b" else 16), [0.99, 0.9, 0.5]
    video = np.random.default_rng(3).normal(size=(channels, 2, 4, 4)).astype(np.float32)
    texts = torch.randn(2, 1, 512, 32, generator=torch.Generator().manual_seed(1))
    measured = list(measure_level_gaps(tiny_pipeline(form), video, 7, texts[0], texts[1], sigmas, draw_count=2))
    exact = tiny_pipeline(form)
    for transformer in filter(None, (exact.transformer, exact.transformer_2)):
        transformer.double()
    for level_index, sigma in enumerate(sigmas):
        uses_second = form == "a14b" and sigma < 0.875
        transformer = exact.transformer_2 if uses_second else exact.transformer
        sums = np.zeros(3)
        for draw in range(2):
            noise = draw_noise(video.shape, 7, level_index, draw).double()
            target = noise - torch.from_numpy(video).double()[None]
            noised = (1 - sigma) * torch.from_numpy(video).double()[None] + sigma * noise
            timestep = torch.full((1, 8) if form == "5b" else (1,), 1000 * sigma, dtype=torch.float64)
            with torch.no_grad():
                conditional, generic = (
                    transformer(noised, timestep, text.double(), return_dict=False)[0] for text in texts
                )
            errors = [float((velocity - target).square().sum()) for velocity in (generic, conditional)]
            sums += [float((conditional - generic).square().sum()), errors[0] - errors[1], errors[1]]
        values, (gap, gain, error) = measured[level_index], (sums / 2).tolist()
        assert values.squared_gap == pytest.approx(gap, rel=1e-3)
        assert values.squared_error == pytest.approx(error, rel=1e-5)
        assert values.pointwise_gain == pytest.approx(gain, abs=1e-4 * math.sqrt(gap * error))


def test_independent_rounding_adds_to_the_gap_and_cancels_in_the_pointwise_form() -> None:
    random = torch.Generator().manual_seed(0)
    conditional, generic, target, *roundings = (
        torch.randn(1, 400_000, generator=random, dtype=torch.float64) for _ in range(5)
    )
    generic = conditional + 0.01 * generic
    exact = compare_velocities(conditional, generic, target)
    rounded = compare_velocities(conditional + 0.01 * roundings[0], generic + 0.01 * roundings[1], target)
    assert exact.squared_gap == pytest.approx(40, rel=0.02)
    assert rounded.squared_gap == pytest.approx(120, rel=0.02)
    assert abs(rounded.pointwise_gain - exact.pointwise_gain) < 4 * 0.02 * math.sqrt(2 * 2 * 400_000) * 1.1


def test_noise_is_shared_by_the_videos_of_a_seed_but_is_not_their_initial_noise() -> None:
    shape = (16, 5, 16, 16)
    noise = draw_noise(shape, 42, 0, 0)
    assert torch.equal(noise, draw_noise(shape, 42, 0, 0))
    initial = torch.randn(1, *shape, generator=torch.Generator().manual_seed(42))
    others = [initial, draw_noise(shape, 43, 0, 0), draw_noise(shape, 42, 1, 0), draw_noise(shape, 42, 0, 1)]
    for other in others:
        correlation = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(noise.numel())


TEMPLATE = "a red [circle|ring] moving [left|right]"


def options_for(model: WanModel, template: str = TEMPLATE, **changes: object) -> list[str]:
    settings = {
        "model_settings.model_id": model.location,
        "model_settings.steps": 2,
        "model_settings.cfg_scale": 1,
        "video_settings.width": 32,
        "video_settings.height": 32,
        "video_settings.frames": 9,
        "model_settings.device": "cpu",
        "model_settings.dtype": "float32",
        "videos_per_variation": 2,
        "latent_analysis_settings.store_latents": True,
        "prompt_settings.generic_words": "circle|ring: shape",
        **changes,
    }
    return ["-t", template, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]


@pytest.fixture(scope="module")
def batch(make_once: MakeOnce, tiny_models: dict[str, WanModel]) -> Path:
    """A batch that is never changed."""
    return make_once("scored", lambda folder: generate_batch(folder, *options_for(tiny_models["wan2.1"]))) / "batch"


@pytest.fixture
def copied_batch(batch: Path, tmp_path: Path) -> Path:
    return shutil.copytree(batch, tmp_path / "batch")


def measure(wantui: Wantui, *arguments: object) -> Any:
    result = wantui("score", *arguments, "--json", "--device", "cpu")
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.parametrize("fp8_count", [0, 3, 8])
def test_different_speeds_within_a_batch_cause_a_warning(
    copied_batch: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch, fp8_count: int
) -> None:
    monkeypatch.setattr(score_plan, "open_finished_states", lambda video: SimpleNamespace(path=Path(video.name)))
    path = BatchFolder(copied_batch).manifest_path
    stored = json.loads(path.read_text())
    for video in stored["videos"][:fp8_count]:
        video["recipe"]["speed"] = "fp8"
    path.write_text(json.dumps(stored))
    result = wantui("score", copied_batch, "--dry-run", "--device", "cpu")
    assert result.code == 0, result.err
    text = " ".join((result.out + result.err).split())
    assert ("3 of 8 videos were generated with speed fp8" in text) == (fp8_count == 3)
    assert ("speed fp8" in text) == (fp8_count == 3)


def test_command_prints_the_cost_first_and_stores_checksummed_values(copied_batch: Path, wantui: Wantui) -> None:
    result = wantui("score", copied_batch, "--device", "cpu")
    assert result.code == 0, result.err
    assert "8 videos x 16 noise levels x 2 passes = 256 passes, unknown time" in result.err.splitlines()[0]
    assert "circle" in result.out
    assert "smallest p possible with 2 seeds: 0.5" in result.out.replace("\n", " ")
    path = get_information_path(copied_batch, "shape")
    assert f"written: {path}" in result.err
    checked = [item for item in check_batch(copied_batch) if item.path == path]
    assert [item.damage for item in checked] == [""]
    path.write_text(path.read_text().replace('"draws": 1', '"draws": 2'))
    assert "its SHA-256 does not match" in wantui("library", "check", copied_batch).out
    refused = wantui("score", copied_batch, "--device", "cpu")
    assert refused.code == 2
    assert "is damaged" in refused.err


def test_values_equal_those_of_the_stored_latents(copied_batch: Path, wantui: Wantui, tiny_models: Any) -> None:
    document = measure(wantui, copied_batch)
    manifest = read_manifest(BatchFolder(copied_batch))
    content = read_information(get_information_path(copied_batch, "shape"))
    assert content is not None
    entry = manifest.videos[3]
    values = content.videos[entry.id]
    assert (values.prompt, values.generic_prompt) == (
        entry.recipe.prompt,
        entry.recipe.prompt.replace("circle", "shape"),
    )
    pipeline = tiny_pipeline("wan2.1")
    latents = zarr.open_group(copied_batch / entry.files["latents"], mode="r")["latents"][-1]
    embeds = [
        pipeline.encode_prompt(p, None, False, max_sequence_length=512)[0]
        for p in (values.prompt, values.generic_prompt)
    ]
    sigmas = [level.sigma for level in content.levels]
    gaps = list(measure_level_gaps(pipeline, latents, entry.seed, embeds[0].detach(), embeds[1].detach(), sigmas))
    assert values.squared_gaps == pytest.approx([gap.squared_gap for gap in gaps], rel=1e-3)
    assert values.pointwise_gains == pytest.approx([gap.pointwise_gain for gap in gaps], rel=1e-2, abs=1e-2)
    assert [word["word"] for word in document["words"]] != []
    assert document["sentences"] == 2
    assert document["seeds"] == [42, 43]


class Killed(BaseException):
    """As a signal, which no handler of errors catches."""


def test_interrupted_measurement_continues_with_equal_values(
    copied_batch: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_task: Callable[..., Iterator[Any]] = score._measure_task
    calls = []

    def measure_three(*arguments: Any) -> Iterator[Any]:
        calls.append(arguments)
        if len(calls) > 3:
            raise Killed
        return measure_task(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(score, "_measure_task", measure_three)
        with pytest.raises(Killed):
            wantui("score", copied_batch, "--device", "cpu")
    path = get_information_path(copied_batch, "shape")
    partial = read_information(path)
    assert partial is not None
    assert len(partial.videos) == 3
    assert "5 videos x 16 noise levels" in wantui("score", copied_batch, "--dry-run").out
    measure(wantui, copied_batch)
    continued = read_information(path)
    path.unlink()
    measure(wantui, copied_batch)
    assert continued == read_information(path)
    assert "nothing to measure (8 videos already measured)" in wantui("score", copied_batch, "--device", "cpu").err


def test_earlier_model_is_freed_before_the_next_one_is_loaded(
    copied_batch: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers: list[weakref.ref[Any]] = []
    free_counts = []

    def load_and_watch(*arguments: Any, **options: Any) -> Any:
        free_counts.append(sum(transformer() is None for transformer in transformers))
        loaded = load_recipe_pipeline(*arguments, **options)
        loaded.pipeline.transformer.itself = [loaded.pipeline.transformer]  # a cycle, as in fused blocks
        transformers.append(weakref.ref(loaded.pipeline.transformer))
        return loaded

    monkeypatch.setattr(generating_model, "load_recipe_pipeline", load_and_watch)
    for module in (generating_model, score):
        monkeypatch.setattr(module, "get_pipeline_key", lambda recipe: recipe.seed)
    assert wantui("score", copied_batch, "--device", "cpu").code == 0
    assert free_counts == [0, 1]


def test_values_of_another_window_are_replaced_only_on_request(copied_batch: Path, wantui: Wantui) -> None:
    measure(wantui, copied_batch, "--seed", 42)
    refused = wantui("score", copied_batch, "--window", 0.8, "--device", "cpu")
    assert refused.code == 2
    assert "replace its values with --fresh" in refused.err
    document = measure(wantui, copied_batch, "--window", 0.8, "--fresh", "--seed", 42)
    assert min(level["sigma"] for level in document["levels"] if level["is_in_window"]) < 0.9


def test_measurement_that_another_process_replaced_does_not_replace_its_values(
    copied_batch: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "SECONDS_BETWEEN_SAVES", 0)
    request = score_plan.InformationGapRequest(device="cpu", replaces_stored=True)
    selected = select_videos([copied_batch], (), (42,), ())
    plan = score_plan.plan_scores(copied_batch, selected[0].manifest, selected, request)
    measurement = score.measure_scores(plan, request)
    path = get_information_path(copied_batch, "shape")
    while not path.exists():  # until the first save
        next(measurement)
    measure(wantui, copied_batch, "--window", 0.8, "--fresh", "--seed", 43)
    replaced = read_information(path)
    with pytest.raises(InformationFileError, match=r"information_shape\.json was measured with"):
        list(measurement)
    assert read_information(path) == replaced


def test_dry_run_keeps_a_damaged_file(copied_batch: Path, wantui: Wantui) -> None:
    path = get_information_path(copied_batch, "shape")
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    assert wantui("score", copied_batch, "--device", "cpu", "--fresh", "--dry-run").code == 0
    assert path.read_text() == "{}"


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"prompt_settings.generic_words": ""}, (), "no generic word is declared.* --generic 'circle"),
        ({"prompt_settings.generic_words": ""}, ("--generic", "circle"), "--generic: cannot read 'circle'"),
        ({}, ("--generic", "star: shape"), r"none of the declared words: star \(shape\)"),
        ({}, ("--generic", "circle|ring: shape; red: coloured"), "Choose one with --of"),
        ({}, ("--of", "form"), "no words are declared for 'form'. Declared generic words: shape"),
        ({}, ("--window", "1"), "--window: the window must start between"),
        (
            {"latent_analysis_settings.store_latents": False},
            (),
            r"any of 2 videos in .*\. The reason for each: it has no stored latents.*\(--store-latents\)",
        ),
        ({"model_settings.speed": "cached", "model_settings.force_capture": True}, (), "speed: cached, which skips"),
    ],
)
def test_batch_that_cannot_be_measured_is_refused_with_the_remedy(
    tiny_models: dict[str, WanModel],
    tmp_path: Path,
    wantui: Wantui,
    changes: dict[str, object],
    options: tuple[str, ...],
    message: str,
) -> None:
    generate_batch(
        tmp_path, *options_for(tiny_models["wan2.1"], "a [circle|ring] in red", videos_per_variation=1, **changes)
    )
    result = wantui("score", tmp_path / "batch", "--device", "cpu", *options)
    assert result.code == 2
    assert re.search(message, result.err.replace("\n", " ")), result.err
    assert not list((tmp_path / "batch").glob("analysis/*"))


def test_only_controls_that_keep_the_conditional_prediction_can_be_scored() -> None:
    """The score calls the model itself: it would ignore any other control."""
    assert {kind.name for kind in CONTROLS if kind.keeps_conditional_prediction} == {
        "lora",
        "guidance",
        "guidance_schedule",
    }


def test_guided_and_weighted_videos_are_named(tiny_models: dict[str, WanModel], tmp_path: Path, wantui: Wantui) -> None:
    generate_batch(
        tmp_path,
        *options_for(
            tiny_models["wan2.1"],
            "a [circle|ring|(ring:2)] in red",
            **{"model_settings.cfg_scale": 3, "videos_per_variation": 1},
        ),
    )
    result = wantui("score", tmp_path / "batch", "--device", "cpu")
    assert result.code == 1
    assert "left out: ring.2 seed 42: it was generated with word weights" in result.err
    assert "2 of 2 videos were generated with guidance" in result.err
    assert "no differences: two words must share at least two seeds" in result.out


def test_a14b_is_measured_with_both_transformers(
    tiny_models: dict[str, WanModel], tmp_path: Path, wantui: Wantui
) -> None:
    generate_batch(tmp_path, *options_for(tiny_models["a14b"], "a [circle|ring] in red"))
    document = measure(wantui, tmp_path / "batch")
    assert len(document["videos"]) == 4
    assert all(math.isfinite(video["gap_whole"]) and video["gap"] > 0 for video in document["videos"])
