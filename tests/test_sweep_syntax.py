"""The text of sweeps and seeds: axes, ranges, quotes; compared with decimal arithmetic."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wantui.config import ConfigError, parse_config
from wantui.config.sweep import resolve_sweep_axes
from wantui.config.sweep_syntax import (
    NumberRange,
    SweepError,
    convert_to_sweep_text,
    format_seeds,
    format_sweep_value,
    parse_range,
    parse_seeds,
    parse_sweep_text,
)

DECIMALS = st.decimals(-100, 100, places=3)
STEPS = st.decimals(-10, 10, places=3).filter(lambda step: abs(step) >= Decimal("0.01"))


def list_range(text: str) -> list[float]:
    number_range = parse_range(text)
    assert isinstance(number_range, NumberRange)
    return [float(number) for number in number_range]


@pytest.mark.slow
@given(DECIMALS, DECIMALS, STEPS)
def test_range_equals_repeated_decimal_addition(first: Decimal, last: Decimal, step: Decimal) -> None:
    expected, value = [], first
    while (value <= last) if step > 0 else (value >= last):
        expected.append(float(value))
        value += step
    text = f"{first}..{last}:{step}"
    if expected:
        assert list_range(text) == expected
    else:
        with pytest.raises(SweepError, match=r"is empty\. Write it as"):
            parse_range(text)


def test_range_includes_a_last_value_that_floats_miss() -> None:
    assert list_range("0..0.3:0.1") == [0.0, 0.1, 0.2, 0.3]
    assert list_range("-0.2..0.2:0.1") == [-0.2, -0.1, 0.0, 0.1, 0.2]
    assert list_range("1..4") == [1, 2, 3, 4]
    assert list_range("8..2:-3") == [8, 5, 2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.5..1", "has no step. Write one: 0.5..1:0.1"),
        ("1..4:0", "has the step 0"),
        ("4..1", r"is empty. Write it as 4..1:-1"),
        ("1..4:-1", r"is empty. Write it as 1..4:1"),
        ("0..1e9", "at most 100,000 are allowed"),
        ("0..1e99", "of at most 40 digits"),
    ],
)
def test_impossible_range_is_refused_with_a_remedy(text: str, reason: str) -> None:
    with pytest.raises(SweepError) as raised:
        parse_range(text)
    assert reason in str(raised.value)


def test_text_is_not_parsed_as_a_range() -> None:
    assert parse_range("../lora.safetensors") is None


def test_axes_settings_and_quotes_are_separated() -> None:
    axes = parse_sweep_text("""a.b=1, 2e+1 ; c=x+d='p, "q" ''r''',"s;t+u=v" """)
    assert [[(setting.name, [value.text for value in setting.values]) for setting in axis] for axis in axes] == [
        [("a.b", ["1", "2e+1"])],
        [("c", ["x"]), ("d", ["""p, "q" 'r'""", "s;t+u=v"])],
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cfg_scale", "cannot read 'cfg_scale'. Write it like"),
        ("=3", "cannot read '=3'"),
        ('a="b', "has no closing quote"),
        ('a="b"c', "'c' follows a quoted value"),
        ("a=1+=2", "cannot sweep"),
    ],
)
def test_unreadable_sweep_is_refused(text: str, reason: str) -> None:
    with pytest.raises((SweepError, ConfigError)) as raised:
        resolve_sweep_axes(parse_config(f"sweeps: {text!r}", "test").settings)
    assert reason in str(raised.value)


SCHEDULES = "cfg_schedule_settings: {schedule: {0: 4, 2: 3}}\nprompt_schedule_settings: {schedule: {2: a blue star}}\n"


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("prompt_schedule_settings.schedule.2=7,true,1..3,null,a ring", ["7", "true", "1..3", "null", "a ring"]),
        ("cfg_schedule_settings.schedule.2=1..2:0.5,7e0", [1.0, 1.5, 2.0, 7.0]),
    ],
)
def test_swept_entries_of_mappings_have_the_declared_type(sweep: str, values: list[object]) -> None:
    (axis,) = resolve_sweep_axes(parse_config(f"{SCHEDULES}sweeps: '{sweep}'", "test").settings)
    assert [value for (value,) in axis.values] == values


@pytest.mark.parametrize("written", ["true", "on", "null", "a"])
def test_swept_number_of_a_mapping_is_refused_unless_it_is_a_number(written: str) -> None:
    with pytest.raises(ConfigError, match="should be a number in decimal digits"):
        parse_config(f"{SCHEDULES}sweeps: 'cfg_schedule_settings.schedule.2={written},2'", "test")


@pytest.mark.slow
@given(st.lists(st.text(max_size=20) | st.integers(-5, 5) | st.booleans() | st.none(), min_size=1, max_size=5))
def test_formatted_values_are_read_back(values: list[object]) -> None:
    text = convert_to_sweep_text([{"name": values}])
    ((setting,),) = parse_sweep_text(text)
    expected = [
        "" if value is None else value if isinstance(value, str) else format_sweep_value(value) for value in values
    ]
    assert [value.text for value in setting.values] == expected


@pytest.mark.slow
@given(st.lists(st.integers(0, 40), min_size=1, unique=True))
def test_formatted_seeds_are_read_back(seeds: list[int]) -> None:
    assert parse_seeds(format_seeds(seeds)) == tuple(seeds)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("7,11,7", "the seed 7 occurs twice"),
        ("1..4,3", "the seed 3 occurs twice"),
        ("1,x", "a seed should be a whole number"),
        ("1.5", "a seed should be a whole number"),
        ("-1", "the seed -1 is outside the range"),
        (str(2**63), "is outside the range"),
        ("0..2:0.5", "a seed should be a whole number, got 0.5"),
        ("1,,2", "a seed should be a whole number"),
    ],
)
def test_wrong_seeds_are_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(f"seeds: '{text}'", "test")
    assert reason in str(raised.value)


def test_seed_and_count_without_effect_cause_a_warning() -> None:
    warnings = parse_config("seeds: [7, 9]\nvideos_per_variation: 9\nmodel_settings: {seed: 5}", "test").warnings
    assert [(warning.key, warning.line) for warning in warnings] == [
        ("videos_per_variation", 2),
        ("model_settings.seed", 3),
    ]
    assert all("has no effect, because seeds (7,9) lists the videos" in warning.message for warning in warnings)
    agreeing_text = "seeds: [7, 9]\nvideos_per_variation: 2\nmodel_settings: {seed: 7}"
    assert parse_config(agreeing_text, "test").warnings == ()
    assert parse_config("videos_per_variation: 9", "test", ["seeds=7,9"]).warnings == ()


def test_seeds_of_a_config_replace_seed_and_count() -> None:
    settings = parse_config("seeds: [7, 1..3, 42]\nvideos_per_variation: 9\nmodel_settings: {seed: 5}", "test").settings
    assert settings.seed_list == (7, 1, 2, 3, 42)
    assert (settings.model_settings.seed, settings.videos_per_variation) == (7, 5)
