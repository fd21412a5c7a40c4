"""Bends of the older system: their keys, their mirrored translations, and what has no counterpart."""

import pytest

from wantui.config.legacy_bending import LegacyBendError, convert_legacy_bend, convert_legacy_section


def test_translations_are_mirrored_and_halved() -> None:
    legacy = {"token": "flower", "mode": "translate", "translate_x": "0.4", "translate_y": "-0.2"}
    bend = convert_legacy_bend(legacy | {"padding_mode": "zeros", "renormalize": True, "strength": "0.5"})
    assert bend.values == {
        "words": ["flower"],
        "mode": "translate",
        "translate_x": -0.2,
        "translate_y": 0.1,
        "border": "zero",
        "renormalise": True,
        "strength": "0.5",
    }
    assert "mirrored" in bend.notes[0]


@pytest.mark.parametrize(
    ("legacy", "expected"),
    [
        ({"mode": "translate_x", "translate_x": 1}, {"mode": "translate", "translate_x": -0.5}),
        ({"mode": "rotate", "angle": 30}, {"mode": "rotate", "rotate_degrees": -30.0}),
        ({"mode": "scale"}, {"mode": "scale", "scale_factor": 1.0}),
        ({"mode": "flip", "flip_vertical": True}, {"mode": "flip", "flip_vertical": True}),
        ({"mode": "blur", "sigma": 2, "kernel_size": 3}, {"mode": "blur", "blur_sigma": 2}),
        ({"mode": "sharpen"}, {"mode": "sharpen", "sharpen_amount": 1.0, "sharpen_sigma": 1.0}),
        (
            {"mode": "regional_mask", "region": ["0", "0.1", "0.5", "1"]},
            {
                "mode": "region", "region_x1": "0", "region_y1": "0.1", "region_x2": "0.5", "region_y2": "1",
                "region_feather": 0.1,
            },
        ),
    ],
)  # fmt: skip
def test_parameters_of_each_mode_are_converted(legacy: dict[str, object], expected: dict[str, object]) -> None:
    assert convert_legacy_bend({"token": "a", **legacy}).values == {"words": ["a"], **expected}


@pytest.mark.parametrize(
    ("legacy", "expected"),
    [
        ({"token": "ALL"}, {"words": ["all"], "padding": True}),
        ({"token": "rose, ship"}, {"words": ["rose", "ship"], "if_missing": "skip"}),
        ({"apply_to_layers": ["14", "15"]}, {"blocks": "14, 15"}),
        ({"apply_to_layers": "0-5"}, {"blocks": "0..5"}),
        ({"apply_to_layers": ["ALL"]}, {}),
        ({"apply_to_timesteps": ["0", "10"]}, {"steps": "0..10"}),
        ({"apply_to_timesteps": "5-10"}, {"steps": "5..10"}),
        ({"apply_to_timesteps": None, "preserve_sparsity": False}, {}),
    ],
)
def test_words_blocks_and_steps_are_converted(legacy: dict[str, object], expected: dict[str, object]) -> None:
    values = convert_legacy_bend({"token": "a", "mode": "amplify", "amplify_factor": 2, **legacy}).values
    assert values == {"words": ["a"], "mode": "amplify", "amplify_factor": 2, **expected}


@pytest.mark.parametrize(
    ("legacy", "reason"),
    [
        ({"mode": "warp"}, "cannot convert the mode 'warp'"),
        ({"mode": "frequency_filter"}, "it only blurred or sharpened"),
        ({"mode": "amplify", "apply_before_softmax": True}, "it changed the logits"),
        ({"mode": "rotate", "angle": 5, "crop_rotated": "false"}, "crop_rotated: false"),
        ({"mode": "translate", "translate_x": "left"}, "translate_x should be a number"),
        ({"mode": "regional_mask"}, "needs region"),
        (
            {"mode": "scale", "padding_mode": "wrap"},
            "padding_mode should be one of border, zeros, reflection, but is 'wrap'",
        ),
        ({"mode": "scale", "scale_faktor": 2}, "cannot convert the key 'scale_faktor'"),
        ({"mode": "scale", "apply_to_timesteps": [1, 2, 3]}, "apply_to_timesteps should be"),
        ({"mode": "scale", "token": ""}, "has no token"),
    ],
)
def test_bends_without_counterpart_are_refused(legacy: dict[str, object], reason: str) -> None:
    with pytest.raises(LegacyBendError, match=reason):
        convert_legacy_bend({"token": "a", **legacy})


def test_sections_without_older_bends_keep_their_values() -> None:
    section = convert_legacy_section({"enabled": True, "apply_to_output": True, "apply_before_softmax": "false"})
    assert section.values == {"enabled": True}
    assert section.warnings == section.refusals == ()


def test_sections_name_each_converted_and_refused_bend() -> None:
    configs = [
        {"token": "a", "mode": "flip", "flip_vertical": True},
        {"token": "a", "mode": "x"},
        {"token": "b", "mode": "rotate"},
    ]
    section = convert_legacy_section({"configs": configs, "apply_before_softmax": True})
    assert [bend["mode"] for bend in section.values["bends"]] == ["flip", "rotate"]
    assert section.values["enabled"] is False
    assert [key for key, _ in section.refusals] == ["apply_before_softmax", "configs"]
    assert "bend 2: cannot convert the mode" in section.refusals[1][1]
    assert any("bent only stored maps" in text for _, text in section.warnings)
    assert any("bend 3: angles were clockwise: they are negated" in text for _, text in section.warnings)
    assert convert_legacy_section({"configs": [1]}).refusals
    assert convert_legacy_section({"configs": configs, "bends": []}).refusals
