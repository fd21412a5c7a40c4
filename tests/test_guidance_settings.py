"""Settings of guidance schedules and rules: how they load, what is refused, and what they cost."""

from typing import Any

import pytest
from conftest import recipe_for

from wantui.analysis.loading import collect_control_settings
from wantui.config import ConfigError, dump_settings, load_config, parse_config
from wantui.controls.guidance import DEFAULTS_BY_RULE
from wantui.errors import UserError
from wantui.models.catalogue import NANO, find_model
from wantui.planning import Recipe, TimedVideo, estimate_video_seconds, plan_batch, preview_batch
from wantui.planning.disk_estimate import build_denoising_size
from wantui.planning.flops import count_forward_flops, count_step_flops
from wantui.planning.guidance_plan import describe_guidance, plan_guidance

A14B = ["model_settings.model_id=wan2.2-a14b", "model_settings.steps=20", "videos_per_variation=1"]
RECIPE = recipe_for(NANO, steps=20).model_copy(update={"model": "nano"})
SCHEDULE = "cfg_schedule_settings.schedule={0: 7.5, 50%: 3}"


def plan(*overrides: str, text: str = "") -> Recipe:
    base = () if any("model_id" in override for override in overrides) else ("model_settings.model_id=nano",)
    return preview_batch(parse_config(text, "my.yaml", [*base, *overrides]), "a circle").first_recipe


def refusals(*overrides: str) -> str:
    base = () if any("model_id" in override for override in overrides) else ("model_settings.model_id=nano",)
    return "\n".join(plan_batch(parse_config("", "my.yaml", [*base, *overrides]), "a circle").refusals)


def scales_of(recipe: Recipe) -> list[float]:
    return [evaluation.scale for evaluation in plan_guidance(recipe)]


def sources_of(recipe: Recipe) -> str:
    """One letter for each evaluation: Guided, Conditional, Reused, Zero."""
    return "".join(evaluation.source[0] for evaluation in plan_guidance(recipe))


def test_schedule_has_one_meaning_in_files_and_options() -> None:
    in_file = plan(text="cfg_schedule_settings:\n  schedule:\n    0: 7.5\n    50%: 3\n")
    in_one_line = plan(text="cfg_schedule_settings: {schedule: {0: 7.5, 50%: 3.0}}\n")
    assert in_file == in_one_line == plan(SCHEDULE) == plan("cfg_schedule_settings.schedule=50%: 3, 0: 7.5")
    assert describe_guidance(in_file) == "0%: 7.5, 50%: 3 (linear)"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ((), "6, in the second transformer 3"),
        (("guidance_settings.rule=apg",), "6, in the second transformer 3, apg"),
        ((SCHEDULE,), "0%: 7.5, 50%: 3 (linear), in the second transformer 3"),
    ],
)
def test_description_of_guidance_names_the_scale_of_the_second_transformer(
    settings: tuple[str, ...], text: str
) -> None:
    recipe = plan(*A14B, "model_settings.cfg_scale=6", "model_settings.cfg_scale_2=3", *settings)
    assert describe_guidance(recipe).startswith(text)


def test_section_of_the_older_system_loads_with_its_meaning() -> None:
    text = (
        "cfg_schedule_settings:\n  enabled: true\n  schedule:\n    0: 6.0\n    10: -1.0\n  interpolation: cosine\n"
        "  verbose: true\n  apply_to_guidance_2: true\n  force_cfg: false\n"
    )
    config = parse_config(text, "older.yaml")
    assert [warning.key for warning in config.warnings] == [
        f"cfg_schedule_settings.{name}" for name in ("verbose", "apply_to_guidance_2", "force_cfg")
    ]
    assert config.refusals == ()
    scales = scales_of(plan("model_settings.steps=20", text=text))
    assert scales[0] == 6
    assert scales[5] == pytest.approx(2.5)
    assert scales[10:] == [-1.0] * 10
    assert plan(text=text.replace("enabled: true", "enabled: false")) == plan()


def test_recipe_without_guidance_controls_keeps_its_digest() -> None:
    assert plan("cfg_schedule_settings.interpolation=step", "guidance_settings.rule=cfg").controls == {}
    assert plan("cfg_schedule_settings.enabled=no", SCHEDULE).digest == plan().digest
    assert plan(SCHEDULE).digest != plan().digest


def test_dumped_schedule_loads_to_equal_settings() -> None:
    settings = parse_config("", "my.yaml", [SCHEDULE, "guidance_settings.rule=apg"]).settings
    assert parse_config(dump_settings(settings), "dumped.yaml").settings == settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cfg_schedule_settings.schedule={0: 51}", "less than or equal to 50"),
        ("cfg_schedule_settings.schedule={0: .inf}", "the value of 0 should be a number"),
        ("cfg_schedule_settings.schedule={later: 4}", "cannot read the moment 'later'"),
        ("cfg_schedule_settings.schedule={1: 4, 50%: 3}", "Use one unit"),
        ("cfg_schedule_settings.schedule={0: 4, 0: 3}", "occurs twice"),
        ("cfg_schedule_settings.schedule={0: 4, 00: 3}", "have the same step"),
        ("cfg_schedule_settings.schedule=7.5", "the value of 7.5 should be a number"),
        ("cfg_schedule_settings.schedule.0.5=7.5", "should be a single value"),
        ("cfg_schedule_settings.interpolation=slerp", "'linear', 'step' or 'cosine'"),
        ("guidance_settings.rule=cfg++", "'cfg'"),
        ("guidance_settings.reuse_from=soon", "cannot read the moment 'soon'"),
        ("guidance_settings.eta=0.5", "the rule cfg has no eta, a parameter of apg"),
        ("guidance_settings.zero_steps=2", "the rule cfg has no zero_steps, a parameter of cfg-zero-star"),
    ],
)
def test_unusable_guidance_settings_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("", "my.yaml", [override])
    assert message in str(caught.value)
    assert ".".join(override.partition("=")[0].split(".")[:2]) in str(caught.value)


def test_unusable_schedule_of_a_file_is_refused_with_its_line() -> None:
    for text, line, message in (
        ("cfg_schedule_settings:\n  schedule:\n    0: 6\n    5: high\n", 4, "should be a number"),
        ("cfg_schedule_settings:\n  schedule:\n    0: 6\n    5: [1]\n", 4, "should be a single value"),
        ("cfg_schedule_settings:\n  schedule: 6\n", 2, "should be a number"),
        ("cfg_schedule_settings:\n  schedule: [6]\n", 2, "should be pairs of a key and a value"),
        ("cfg_schedule_settings: true\n", 1, "should be a section: keys and values below it, got 'true'"),
        ("cfg_schedule_settings:\n  schedules: {0: 6}\n", 2, "did you mean cfg_schedule_settings.schedule?"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(text, "my.yaml")
        assert [(problem.line, message in problem.message) for problem in caught.value.problems] == [(line, True)]


def test_moments_beyond_the_steps_are_refused_while_planning() -> None:
    with pytest.raises(UserError, match="cfg_schedule_settings: a keyframe is at step 20, but the steps are 0 to 9"):
        plan("cfg_schedule_settings.schedule={0: 4, 20: 1}", "model_settings.steps=10")
    with pytest.raises(UserError, match=r"guidance_settings\.reuse_from: a keyframe is at step 20"):
        plan("guidance_settings.reuse_from=20", "model_settings.steps=10")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["guidance_settings.rule=apg", "model_settings.cfg_scale=1"], "rule: apg has no effect"),
        (["guidance_settings.rule=tcfg", "cfg_schedule_settings.schedule=0: 1"], "rule: tcfg has no effect"),
        (["guidance_settings.reuse_from=50%", "model_settings.cfg_scale=1"], "reuse_from: 50% has no effect"),
        (["guidance_settings.reuse_from=sigma 0.0001"], "reuse_from: sigma 0.0001 has no effect"),
        (
            ["guidance_settings.rule=cfg-zero-star", "guidance_settings.zero_steps=20", "model_settings.steps=20"],
            "no step would change anything",
        ),
        (["cfg_schedule_settings.schedule_2=0: 4"], "schedule_2 is for models with two transformers; nano has one"),
        ([*A14B, "cfg_schedule_settings.schedule_2=0: 4", "model_settings.cfg_scale_2=3"], "has no effect with"),
        (["guidance_settings.reuse_from=50%", "model_settings.speed=cached"], "speed: cached compares every pass"),
        (["cfg_schedule_settings.schedule=0: 5, 50%: 1", "model_settings.speed=cached"], "speed: cached compares"),
    ],
)
def test_impossible_combinations_are_refused_by_name(overrides: list[str], message: str) -> None:
    assert message in refusals(*overrides)


def test_unconditional_attention_is_refused_where_its_pass_is_skipped() -> None:
    overrides = ["attention_analysis_settings.store_attention=yes", "attention_analysis_settings.store_unconditional=1"]
    config = parse_config("model_settings: {model_id: nano}", "my.yaml", [*overrides, "guidance_settings.reuse_from=1"])
    assert "store_unconditional needs" in "\n".join(plan_batch(config, "a (circle)").refusals)
    config = parse_config("model_settings: {model_id: nano}", "my.yaml", [*overrides, "guidance_settings.rule=apg"])
    assert plan_batch(config, "a (circle)").refusals == ()
    config = parse_config("model_settings: {model_id: nano, cfg_scale: 1}", "my.yaml", overrides)
    (refusal,) = plan_batch(config, "a (circle)").refusals
    assert refusal.startswith("attention_analysis_settings.store_unconditional needs the unconditional pass, but the g")


@pytest.mark.parametrize(
    ("without_effect", "with_effect", "message"),
    [
        (
            ["model_settings.cfg_scale=1", "prompt_settings.negative_prompt=a square"],
            ["model_settings.cfg_scale=1", "prompt_settings.negative_prompt=a square", SCHEDULE],
            "prompt_settings.negative_prompt has no effect, because the guidance scale turns guidance off",
        ),
        (
            ["model_settings.cfg_scale=1", "primary_metric=guidance_gap_early"],
            ["primary_metric=guidance_gap_early"],
            "primary_metric: guidance_gap_early will not be measured, because the guidance scale turns guidance off",
        ),
        (
            ["guidance_gap_settings.store_guidance_gap=no", "primary_metric=guidance_gap"],
            ["guidance_gap_settings.store_guidance_gap=no", "primary_metric=log_volume"],
            "primary_metric: guidance_gap will not be measured, because guidance_gap_settings.store_guidance_gap is",
        ),
        (
            ["model_settings.speed=cached", "primary_metric=log_volume"],
            ["model_settings.speed=cached", "primary_metric=log_volume", "model_settings.force_capture=yes"],
            "primary_metric: log_volume will not be measured, because speed: cached",
        ),
        (
            ["attention_analysis_settings.store_per_head=yes", "attention_analysis_settings.store_per_block=yes"],
            ["attention_analysis_settings.store_per_head=yes", "attention_analysis_settings.store_attention=yes"],
            "attention_analysis_settings: store_per_block and store_per_head have no effect, because store_attention "
            "is off",
        ),
        (
            ["contribution_settings.store_per_block=yes"],
            ["contribution_settings.store_per_block=yes", "contribution_settings.store_contributions=yes"],
            "contribution_settings: store_per_block has no effect, because store_contributions is off",
        ),
    ],
)
def test_settings_without_effect_cause_a_warning(
    without_effect: list[str], with_effect: list[str], message: str
) -> None:
    (warning,) = [
        text
        for text in preview_batch(load_config("nano", without_effect), "a (circle)").warnings
        if text.startswith(message)
    ]
    assert ": " in warning.removeprefix(message)  # says what to do
    assert not any(
        text.startswith(message.partition(" ")[0]) and ("effect" in text or "measured" in text)
        for text in preview_batch(load_config("nano", with_effect), "a (circle)").warnings
    )


def test_rule_and_varying_schedule_run_with_cached_speed_if_both_passes_always_run() -> None:
    text = refusals("guidance_settings.rule=apg", SCHEDULE, "model_settings.speed=cached")
    assert "cached compares" not in text


@pytest.mark.parametrize(
    ("overrides", "sources"),
    [
        ([], "gggggggggg"),
        (["model_settings.cfg_scale=1"], "cccccccccc"),
        (["cfg_schedule_settings.schedule=0: 1, 4: 5, 6: 0, 9: 1", "model_settings.cfg_scale=1"], "cggggggggc"),
        (["cfg_schedule_settings.schedule=0: 1, 3: 5, 6: 1", "cfg_schedule_settings.interpolation=step"], "cccgggcccc"),
        (["guidance_settings.reuse_from=50%"], "gggggrrrrr"),
        (["guidance_settings.reuse_from=0"], "grrrrrrrrr"),
        (["guidance_settings.rule=cfg-zero-star", "guidance_settings.zero_steps=2"], "zzgggggggg"),
        (["guidance_settings.rule=cfg-zero-star", "guidance_settings.reuse_from=1"], "zgrrrrrrrr"),
    ],
)
def test_each_step_has_the_passes_of_its_guidance(overrides: list[str], sources: str) -> None:
    assert sources_of(plan("model_settings.steps=10", *overrides)) == sources


def test_second_transformer_does_not_reuse_the_difference_of_the_first() -> None:
    recipe = plan(*A14B, "guidance_settings.reuse_from=1")
    switch = next(index for index in range(20) if build_noise_levels(recipe)[index] < 0.875)
    assert sources_of(recipe) == "g" + "r" * (switch - 1) + "g" + "r" * (19 - switch)


def build_noise_levels(recipe: Recipe) -> list[float]:
    times = [1 - index / recipe.steps * 0.999 for index in range(recipe.steps)]
    return [recipe.flow_shift * time / (1 + (recipe.flow_shift - 1) * time) for time in times]


@pytest.mark.parametrize(
    ("controls", "pass_count"),
    [
        ({"guidance": {"rule": "cfg", "reuse_from": {"unit": "step", "moments": [10]}}}, 30),
        ({"guidance": {"rule": "apg", **DEFAULTS_BY_RULE["apg"]}}, 40),
        ({"guidance_schedule": {"schedule": {"times": {"unit": "step", "moments": [0]}, "scales": [1]},
                                "interpolation": "linear"}}, 20),
    ],
)  # fmt: skip
def test_predicted_time_counts_the_passes(controls: dict[str, Any], pass_count: int) -> None:
    recipe = Recipe.model_validate(dict(RECIPE) | {"controls": controls, "steps": 20})
    assert count_step_flops(NANO, recipe) == pass_count / 20 * count_forward_flops(NANO, 32, 32, 9)
    predicted = estimate_video_seconds(recipe, "cpu", [TimedVideo(RECIPE, "cpu", 1.0, 0.5, None, "resident")])
    assert predicted.value == pytest.approx(pass_count * 0.5 + 0.5)
    if pass_count == 30:  # its own steps take 1 s and 0.5 s: their median is that of one pass and a half
        own = [TimedVideo(recipe, "cpu", 0.75, 0.5, None, "resident")]
        assert estimate_video_seconds(recipe, "cpu", own).value == pytest.approx(15.5)
        assert estimate_video_seconds(RECIPE, "cpu", own).value == pytest.approx(20.5)


def test_schedule_below_the_constant_scale_predicts_the_memory_of_both_passes() -> None:
    overrides = ("model_settings.cfg_scale=1", "cfg_schedule_settings.schedule=0: 0")
    assert build_denoising_size(plan(*overrides), find_model("nano")).is_guided
    assert not build_denoising_size(plan(overrides[0]), find_model("nano")).is_guided


@pytest.mark.parametrize(
    "controls",
    [
        {"guidance": {"rule": "apg"}},
        {"guidance": {"rule": "cfg", "eta": 0.5}},
        {"guidance": {"rule": "cfg", "reuse_from": {"unit": "step", "moments": [1, 2]}}},
        {"guidance_schedule": {"schedule": {"times": {"unit": "step", "moments": [0]}, "scales": []},
                               "interpolation": "linear"}},
    ],
)  # fmt: skip
def test_stored_requests_are_checked(controls: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"guidance|keyframe|reuse_from"):
        Recipe.model_validate(dict(RECIPE) | {"controls": controls})


def test_recipes_with_different_guidance_are_not_compared() -> None:
    plain, first, second, rule = (
        collect_control_settings(plan(*overrides))
        for overrides in ((), (SCHEDULE,), ("cfg_schedule_settings.schedule=0: 4",), ("guidance_settings.rule=tcfg",))
    )
    names = ("guidance", "guidance_schedule")
    compared = [tuple(str(settings[name]) for name in names) for settings in (plain, first, second, rule)]
    assert len(set(compared)) == 4
    assert compared[0] == ("None", "None")
