"""The older system's sweeps of attention bending load as sweeps over bends."""

from typing import Any

import pytest

from wantui.config import parse_config
from wantui.config.legacy_sweep import convert_legacy_sweep
from wantui.controls.bend_settings import BendSettings
from wantui.planning import preview_batch

BASE = "model_settings: {model_id: nano, steps: 4}\nvideo_settings: {width: 64, height: 64, frames: 9}\n"
SWEEP = """attention_bending_variations:
  enabled: true
  generate_baseline: true
  renormalize: false
  operations:
  - operation: scale
    parameter_name: scale_factor
    range: [0.75, 1.25]
    steps: 5
    target_token: circle
    apply_to_timesteps: [0, 2]
    apply_to_layers: [ALL, [0, 1]]
    strength: 1.0
    padding_mode: border
  - operation: translate_x
    values: [-0.2, 0.2]
    target_token: ALL
  - {operation: flip, target_token: [circle, red], renormalize: true}
"""


def list_bends(text: str) -> list[tuple[str, tuple[BendSettings, ...]]]:
    config = parse_config(BASE + text, "older.yaml")
    preview = preview_batch(config, "a red circle")
    assert preview.refusals == ()
    assert preview.sweep is not None
    return [(cell.label, cell.settings.attention_bending_settings.bends) for cell in preview.cells]


def test_operations_are_cells_with_one_bend_each_after_the_baseline() -> None:
    cells = list_bends(SWEEP)
    assert cells[0] == ("baseline", ())
    scales = [
        (bend.scale_factor, bend.blocks, bend.steps, bend.words)
        for _, bends in cells[1:11]
        for bend in bends
        if bend.mode == "scale"
    ]
    factors = (0.75, 0.875, 1.0, 1.125, 1.25)
    assert scales == [(f, blocks, "0..2", ("circle",)) for blocks in (None, "0, 1") for f in factors]
    shifts = [(bend.translate_x, bend.words, bend.padding) for _, (bend,) in cells[11:13]]
    assert shifts == [(0.1, ("all",), True), (-0.1, ("all",), True)]  # mirrored, and in half widths
    (_, (flip,)) = cells[13]
    assert (flip.flip_horizontal, flip.words, flip.renormalise) == (True, ("circle", "red"), True)
    assert [label for label, _ in cells[1:3]] == [
        "bends scale_0.75_circle_t0-2_lALL",
        "bends scale_0.875_circle_t0-2_lALL",
    ]


def test_bends_of_the_older_section_are_not_in_the_baseline() -> None:
    bends = (
        "attention_bending_settings: {enabled: true, apply_to_output: true, "
        "configs: [{token: red, mode: amplify, amplify_factor: 2}]}\n"
    )
    for text in (bends + SWEEP, SWEEP + bends):
        assert list_bends(text)[0] == ("baseline", ())
        warnings = [str(warning) for warning in parse_config(BASE + text, "older.yaml").warnings]
        assert any("are not applied: each cell has one bend of the sweep" in warning for warning in warnings)


def test_sweep_of_the_older_system_without_baseline_forms_a_grid_with_different_axes() -> None:
    text = SWEEP.replace("generate_baseline: true", "generate_baseline: false") + "sweeps: {cfg_scale: [1, 2]}\n"
    labels = [label for label, _ in list_bends(text)]
    assert len(labels) == 2 * 13
    assert labels[0] == "cfg_scale 1, bends scale_0.75_circle_t0-2_lALL"


def test_disabled_sweep_of_the_older_system_is_ignored() -> None:
    config = parse_config(SWEEP.replace("enabled: true", "enabled: false"), "older.yaml")
    assert (config.settings.sweeps, config.warnings) == (None, ())


def test_sweep_of_the_older_system_without_switch_is_ignored_with_a_warning() -> None:
    config = parse_config(SWEEP.replace("  enabled: true\n", ""), "older.yaml")
    assert config.settings.sweeps is None
    (warning,) = config.warnings
    assert "ignored, because diffusion_latent_exploration swept nothing without `enabled: true`" in str(warning)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ({"operation": "melt"}, "cannot convert the operation 'melt'"),
        ({"operation": "translate", "target_token": "a"}, "translate needs `range: [first, last]` or `values`"),
        ({"operation": "scale", "range": [1], "target_token": "a"}, "scale needs `range"),
        ({"operation": "scale", "range": [1, "x"], "target_token": "a"}, "range or steps should be a number"),
        ({"operation": "scale", "steps": 0, "target_token": "a"}, "steps should be 1 to 1000, not 0"),
        ({"operation": "scale", "speed": 1, "target_token": "a"}, "cannot convert the key 'speed'"),
        ("scale", "should be a mapping"),
    ],
)
def test_operation_that_cannot_be_converted_is_refused_by_number(operation: Any, reason: str) -> None:
    sweep = convert_legacy_sweep({"operations": [{"operation": "rotate", "target_token": "a"}, operation]})
    assert len(sweep.refusals) == 1
    assert sweep.refusals[0].startswith("operation 2: ")
    assert reason in sweep.refusals[0]


def test_default_ranges_have_five_values_with_both_ends() -> None:
    sweep = convert_legacy_sweep({"operations": [{"operation": "rotate", "target_token": "a"}]})
    config = parse_config(f'sweeps: ["{sweep.axis_text.replace(chr(34), chr(92) + chr(34))}"]', "test")
    preview = preview_batch(config, "a circle")
    angles = [cell.settings.attention_bending_settings.bends[0].rotate_degrees for cell in preview.cells]
    assert angles == [0.0, -45.0, -90.0, -135.0, -180.0]  # clockwise there, counter-clockwise here
