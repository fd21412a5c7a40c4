"""The frequency calibration: its design, its fit, and its trajectories in batches."""

import numpy as np
import pytest
import torch
from benchmarks.calibration import DATA_FOLDER, REPLICATE_NAMES
from benchmarks.calibration_fits import (
    ModelValues,
    average_replicates,
    centre_twice,
    compute_controlled_slope,
    compute_placebo_slopes,
    compute_relative_means,
    compute_separations,
    compute_spreads,
    fit_measure,
    fit_slope,
    integrate_information,
    read_models,
)
from benchmarks.calibration_measurements import (
    Condition,
    Model,
    draw_initial_noise,
    measure_information,
    pack_steps,
)
from scipy import stats

from wantui.analysis.dispersion import compute_distances_to_median
from wantui.config import load_config
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.load import load_pipeline
from wantui.models.catalogue import NANO
from wantui.models.nano import NANO_WEIGHTS_FOLDER
from wantui.models.nano.frequency_models import FREQUENCY_MODELS_BY_NAME, LATIN_SQUARE
from wantui.models.nano.train import AutoencoderPlan, load_or_train_autoencoder
from wantui.models.nano.world import NATURAL_SHAPE_FREQUENCIES, sample_scenes
from wantui.planning import plan_batch

pytestmark = pytest.mark.torch

FREQUENCIES = np.log([model.shape_frequencies for model in FREQUENCY_MODELS_BY_NAME.values()])


def test_latin_square_gives_each_shape_each_frequency_once() -> None:
    square = np.array(LATIN_SQUARE)
    assert (np.sort(square, axis=0) == np.arange(6)[:, None]).all()
    assert (np.sort(square, axis=1) == np.arange(6)).all()
    logarithms = np.log(NATURAL_SHAPE_FREQUENCIES)[square]
    assert (logarithms[1] == logarithms[0][::-1]).all()
    assert np.abs(np.corrcoef(logarithms)[0, 2:]).max() < 0.06


def test_models_of_equal_frequencies_have_different_seeds() -> None:
    models = FREQUENCY_MODELS_BY_NAME
    assert models["natural"].shape_frequencies == models["natural-again"].shape_frequencies
    assert len({model.seed for model in models.values()}) == len(models)


def test_scenes_follow_the_frequencies_of_a_model() -> None:
    model = FREQUENCY_MODELS_BY_NAME["reversed"]
    scenes = sample_scenes(40_000, np.random.default_rng(0), shape_frequencies=model.shape_frequencies)
    shares = np.bincount(scenes.shape[:, 0], minlength=6) / 40_000
    assert np.allclose(shares, model.shape_frequencies, atol=0.01)


def test_slope_is_exact_for_any_effects_of_models_and_shapes() -> None:
    random = np.random.default_rng(1)
    model_effects, shape_effects = random.normal(size=(8, 1)), random.normal(size=6)
    fit = fit_slope(model_effects + shape_effects - 0.3 * FREQUENCIES, FREQUENCIES)
    assert fit.slope == pytest.approx(-0.3, abs=1e-12)
    assert fit.standard_error == pytest.approx(0, abs=1e-12)
    assert np.allclose(fit.unit_effects, shape_effects - shape_effects.mean())
    assert fit.p < 0.001


def test_slope_and_interval_equal_a_regression_with_dummy_variables() -> None:
    values = np.random.default_rng(2).normal(size=(8, 6))
    fit = fit_slope(values, FREQUENCIES)
    rows = [
        [*np.eye(8)[model], *np.eye(6)[shape][1:], FREQUENCIES[model, shape]]
        for model in range(8)
        for shape in range(6)
    ]
    design = np.array(rows)
    coefficients, residual_sum, _, _ = np.linalg.lstsq(design, values.ravel(), rcond=None)
    degrees_of_freedom = 48 - 14
    variance = np.linalg.inv(design.T @ design)[-1, -1] * residual_sum[0] / degrees_of_freedom
    half_width = stats.t.ppf(0.975, degrees_of_freedom) * variance**0.5
    assert fit.slope == pytest.approx(coefficients[-1])
    assert fit.degrees_of_freedom == degrees_of_freedom
    assert fit.interval == pytest.approx((coefficients[-1] - half_width, coefficients[-1] + half_width))


def test_p_of_a_slope_is_uniform_without_an_effect() -> None:
    random = np.random.default_rng(3)
    fits = [fit_slope(random.normal(size=(8, 6)), FREQUENCIES, seed=i) for i in range(100)]
    assert stats.kstest([fit.p for fit in fits], "uniform").pvalue > 0.01


def test_models_of_equal_frequencies_count_as_one_assignment() -> None:  # S10
    names = ("natural", "reversed", "natural-again")
    models = [ModelValues(name, {}, {}, {}) for name in names]
    values = np.array([[1.0] * 6, [5.0] * 6, [3.0] * 6])
    means, frequencies = average_replicates(models, values)
    expected = {
        tuple(np.log(FREQUENCY_MODELS_BY_NAME[name].shape_frequencies)): mean
        for name, mean in (("natural", 2.0), ("reversed", 5.0))
    }
    assert {tuple(row): row_means[0] for row, row_means in zip(frequencies, means, strict=True)} == expected


def test_shape_effects_do_not_count_as_a_slope() -> None:  # S10
    random = np.random.default_rng(4)
    appearance = -FREQUENCIES[0]  # as if frequent shapes looked simpler, in every model
    fit = fit_slope(appearance + 0.01 * random.normal(size=(8, 6)), FREQUENCIES)
    assert abs(fit.slope) < 0.01 < fit.unit_effects.std()


def test_controlled_slope_is_exact_for_any_covariate() -> None:
    random = np.random.default_rng(9)
    covariate = 0.1 * FREQUENCIES + random.normal(size=FREQUENCIES.shape)
    values = random.normal(size=(8, 1)) + random.normal(size=6) + 0.2 * FREQUENCIES - 3 * covariate
    assert compute_controlled_slope(values, FREQUENCIES, covariate) == pytest.approx(0.2, abs=1e-12)


def test_values_centred_twice_have_no_means() -> None:
    centred = centre_twice(np.random.default_rng(5).normal(size=(3, 8, 6)))
    assert np.allclose(centred.mean(1), 0)
    assert np.allclose(centred.mean(2), 0)


def test_information_of_a_constant_integrand_has_its_closed_form() -> None:
    edges = np.linspace(0.5, 1, 2001)
    integral = integrate_information(np.full((2000, 3), 2.0), edges, window_min_sigma=0.8)
    assert integral == pytest.approx(np.full(3, 2 * (-np.log(0.8) - 0.2)), rel=1e-4)


def test_spreads_are_distances_to_the_median_of_each_shape_and_sentence() -> None:
    states = np.random.default_rng(6).normal(size=(3, 6, 6, 5))  # seeds, shapes, colours
    flat = states.reshape(-1, 5)
    distances = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    spreads = compute_spreads(distances[np.triu_indices(len(flat), k=1)])
    own = states[:, 2].reshape(-1, 5)
    expected = compute_distances_to_median(((own[:, None] - own[None]) ** 2).sum(-1))
    assert np.allclose(spreads["spread"].reshape(3, 6, 6)[:, 2].ravel(), expected)
    sentence = states[:, 2, 4]
    expected = compute_distances_to_median(((sentence[:, None] - sentence[None]) ** 2).sum(-1))
    assert np.allclose(spreads["spread within a sentence"].reshape(3, 6, 6)[:, 2, 4], expected)


def test_separation_has_the_share_of_sorted_pairs_and_of_the_variance() -> None:
    random = np.random.default_rng(8)
    noise = random.normal(size=(2, 5, 1, 6, 8)).repeat(6, axis=2)  # [states, seeds, shapes, colours, values]
    offsets = np.zeros((6, 8))
    offsets[0, 0] = 3.0  # only the first shape differs, and only in the second state
    states = noise.copy()
    states[1] += offsets[:, None] + 1e-3 * random.normal(size=(5, 6, 6, 8))
    found = compute_separations(states.reshape(2, -1, 8), np.array([1.0, 0.0]))
    accuracy, share = found["decodability"].reshape(6, 6), found["variance share"].reshape(6, 6)
    assert np.allclose(accuracy[0], (0.5 + 1.0) / 2)  # the mean of both states by the trapezoidal rule
    for colour in range(6):
        videos = states[1, :, :, colour]
        total = ((videos - videos.mean((0, 1))) ** 2).sum(-1).mean()
        distance = ((videos[:, 0].mean(0) - videos.mean((0, 1))) ** 2).sum()
        assert np.isclose(share[0, colour], distance / total / 2)


def test_stored_models_equal_those_of_the_design_with_all_videos() -> None:
    models = read_models(DATA_FOLDER)
    assert [model.name for model in models] == list(FREQUENCY_MODELS_BY_NAME)
    for model in models:
        assert model.values_by_measure["log_volume|guidance-4 main"].shape == (10, 6, 6)
        for key, values in model.values_by_measure.items():
            is_one_value_of_all_seeds = key.startswith(("decodability", "variance share"))
            assert values.shape == (1 if is_one_value_of_all_seeds else 10, 6, 6)
    assert len(compute_placebo_slopes(models, "turning|guidance-4 main", 50)) == 50


def test_stored_replicates_have_equal_frequencies() -> None:
    first, second = (model for model in read_models(DATA_FOLDER) if model.name in REPLICATE_NAMES)
    assert (first.log_frequencies == second.log_frequencies).all()
    key = "log_volume|guidance-4 main"
    assert not np.allclose(first.values_by_measure[key], second.values_by_measure[key])


def test_only_kept_ranges_of_videos_without_their_shape_are_missing() -> None:
    for model in read_models(DATA_FOLDER):
        for key, values in model.values_by_measure.items():
            measure, _, condition = key.partition("|")
            shares_by_shape = np.isfinite(values).mean((0, 2))
            expected = model.shapes_right_by_condition[condition] if measure == "kept range" else np.ones(6)
            assert shares_by_shape == pytest.approx(expected)


def test_slope_of_stored_data_equals_that_of_a_regression_on_dummy_variables() -> None:
    models = read_models(DATA_FOLDER)
    unequal_models = [model for model in models if model.name != "natural-again"]
    values = compute_relative_means(unequal_models, "log_volume|guidance-4 main")
    frequencies = np.array([model.log_frequencies for model in unequal_models])
    rows, columns = (index.ravel() for index in np.indices(values.shape))
    design = np.column_stack([np.eye(7)[rows], np.eye(6)[columns][:, 1:], frequencies.ravel()])
    coefficients, residual, _, _ = np.linalg.lstsq(design, values.ravel(), rcond=None)
    variance = residual[0] / (42 - 13) * np.linalg.inv(design.T @ design)[-1, -1]
    fit = fit_measure(unequal_models, "log_volume|guidance-4 main")
    assert np.isclose(fit.slope, coefficients[-1])
    assert np.isclose(fit.standard_error, np.sqrt(variance))
    assert fit.degrees_of_freedom == 29


def test_shared_autoencoder_loads_without_training() -> None:
    vae = load_or_train_autoencoder(DATA_FOLDER / "autoencoder", AutoencoderPlan(), "cpu", log_line=pytest.fail)
    assert vae.config.z_dim == 16
    assert not vae.training


@torch.no_grad()
def test_trajectory_in_a_batch_equals_that_of_the_denoising_loop() -> None:
    settings = ["model_settings.sampler=euler", "model_settings.steps=3", f"model_settings.seed={2_000_000}"]
    recipe = plan_batch(load_config("nano", settings), "a large red ring moving left").videos[0].recipe
    pipeline = load_pipeline(NANO, None, "float32", torch.device("cpu"))
    start = prepare_inputs(pipeline, recipe)
    states = [step.latents.flatten() for step in denoise_latents(pipeline, recipe, start)]
    model = Model(NANO_WEIGHTS_FOLDER, "cpu")
    text = model.encode(["a large red ring moving left", "a small blue circle moving up"])
    noise = draw_initial_noise(2_000_000, 1, "cpu").expand(2, -1, -1, -1, -1)
    batch = model.generate(text, noise, Condition("euler", 3, recipe.guidance_scale))
    assert torch.allclose(batch.states[1:, 0], torch.stack(states), atol=1e-4)


def test_unpacked_steps_equal_the_inner_products() -> None:
    states = np.random.default_rng(7).normal(size=(2, 4, 50))
    grams = states @ states.transpose(0, 2, 1)
    products = np.zeros((4, 4))
    products[np.triu_indices(4)] = pack_steps(grams)[1]
    products += np.triu(products, 1).T
    sums = np.tril(np.ones((4, 4)))
    assert np.allclose(sums @ products @ sums.T, grams[1], rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_pointwise_information_is_the_difference_of_two_squared_errors() -> None:
    model = Model(NANO_WEIGHTS_FOLDER, "cpu")
    text, generic = model.encode(["a large red ring moving left"]), model.encode(["a large red shape moving left"])
    final = draw_initial_noise(1, 1, "cpu")
    edges = np.array([0.4, 0.6])
    measured = measure_information(model, final, text, generic, torch.zeros(1, dtype=torch.long), edges)
    noise = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(11))
    noisy, timestep = torch.lerp(final, noise, 0.5), torch.tensor([500.0])
    errors = [
        (model.predict(noisy, timestep, embedding) - (noise - final)).double().square().sum()
        for embedding in (generic, text)
    ]
    assert measured["information_pointwise"][0, 0] == pytest.approx(float(errors[0] - errors[1]), rel=1e-3)
