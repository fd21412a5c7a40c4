"""Videos that continue with the generic prompt: their noise levels, concepts, references, and exclusions."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Wantui, recipe_for

from wantui.analysis.concept_labels import CannotLabelError, read_final_state
from wantui.analysis.continued_videos import (
    CannotMeasureCommitmentError,
    ConceptFamily,
    ConceptVideos,
    StoredVideo,
    build_concept_outcomes,
    collect_concept_families,
    find_prompt_switch,
    list_finished_videos,
)
from wantui.analysis.generic_share import measure_generic_shares
from wantui.cli import generic_labels
from wantui.cli.concept_judges import label_family_videos
from wantui.errors import UserError
from wantui.generic_words import GenericWordsError, parse_generic_words
from wantui.models.catalogue import NANO
from wantui.planning import PromptMark, Recipe
from wantui.planning.guidance_plan import format_guidance_scales, list_guidance_scales
from wantui.prompts import parse_template
from wantui.prompts.generic_template import generalise_template
from wantui.samplers import compute_noise_levels

GENERIC = "a red shape"


def switch_schedule(moment: float, **changes: Any) -> dict[str, Any]:
    return {
        "times": {"unit": "step", "moments": [moment]},
        "prompts": [{"prompt": GENERIC, "marks": []}],
        "interpolation": "step",
    } | changes


def schedule_scales(first: float, last: float) -> dict[str, Any]:
    keyframes = {"times": {"unit": "fraction", "moments": [0.0, 1.0]}, "scales": [first, last]}
    return {"schedule": keyframes, "interpolation": "linear"}


def switched(moment: float | None, concept: str = "ring", **changes: Any) -> Recipe:
    controls = {} if moment is None else {"prompt_schedule": switch_schedule(moment)}
    return recipe_for(NANO, prompt=f"a red {concept}", **{"controls": controls, "steps": 8} | changes)


class FakeManifest:
    """What the collection reads of a manifest."""

    def __init__(self, recipes: list[Recipe], state: str = "done") -> None:
        self.videos = [
            SimpleNamespace(id=recipe.digest[:12], recipe=recipe, seed=recipe.seed, state=state, files={})
            for recipe in recipes
        ]

    def make_video_title(self, entry: Any) -> str:
        return f"{entry.recipe.prompt} seed {entry.seed}"


def collect(recipes: list[Recipe], **options: Any) -> Any:
    return collect_concept_families([(Path("batch"), FakeManifest(recipes, **options))])  # type: ignore[list-item]


@pytest.mark.parametrize("sampler", ["euler", "unipc", "heun"])
def test_noise_level_of_a_switch_equals_that_of_the_first_evaluation_with_the_generic_prompt(sampler: str) -> None:
    recipe = switched(3, sampler=sampler)
    levels = compute_noise_levels(sampler, 8, recipe.flow_shift)
    index = 5 if sampler == "heun" else 3  # heun's second evaluation of step 2 has the noise level of step 3
    switch = find_prompt_switch(recipe)
    assert switch is not None
    assert switch[0] == pytest.approx(levels[index], abs=1e-6)
    assert switch[1] == GENERIC
    assert find_prompt_switch(switched(None)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "slerp"}, "interpolated"),
        ({"prompts": [{"prompt": "a", "marks": []}, {"prompt": "b", "marks": []}],
          "times": {"unit": "step", "moments": [2, 4]}}, "changes 2 times"),
    ],
)  # fmt: skip
def test_schedule_with_more_than_one_switch_is_excluded(changes: dict[str, Any], message: str) -> None:
    recipe = switched(None, controls={"prompt_schedule": switch_schedule(3, **changes)})
    with pytest.raises(ValueError, match=message):
        find_prompt_switch(recipe)
    families, left_out = collect([switched(None), switched(3), recipe.model_copy(update={"seed": 9})])
    assert len(families) == 1
    ((name, reason),) = left_out
    assert name == "a red ring seed 9"
    assert message in reason


def test_concepts_of_one_generic_prompt_form_a_family_with_their_references() -> None:
    recipes = [switched(moment, concept) for concept in ("circle", "ring") for moment in (None, 2, 4)]
    families, left_out = collect(recipes)
    assert not left_out
    assert [family.generic_prompt for family in families] == [GENERIC]
    assert [videos.concept for videos in families[0].concepts] == ["circle", "ring"]
    assert all(videos.reference_by_seed.keys() == {7} for videos in families[0].concepts)
    assert len(families[0].list_videos()) == 6


def test_batch_without_a_switch_is_refused() -> None:
    with pytest.raises(CannotMeasureCommitmentError, match="wantui commitment run"):
        collect([switched(None)])
    with pytest.raises(CannotMeasureCommitmentError, match="no finished video"):
        collect([switched(2)], state="failed")


def test_videos_with_different_settings_are_not_pooled() -> None:
    with pytest.raises(CannotMeasureCommitmentError, match="also differ in guidance_scale"):
        collect([switched(None), switched(2), switched(2, guidance_scale=1.0)])


def weight_red(recipe: Recipe, weight: float) -> Recipe:
    marks = [PromptMark(text="red", start=2, end=5, weight=weight).model_dump()]
    return Recipe.model_validate(recipe.model_dump() | {"marks": marks, "weighting": "attention"})


def test_videos_of_one_prompt_with_different_word_weights_are_not_pooled() -> None:  # S5
    rings, stars = [switched(None), switched(3)], [switched(None, "star"), switched(3, "star")]
    assert len(collect([*rings, *(weight_red(recipe, 2.0) for recipe in stars)])[0]) == 1
    with pytest.raises(CannotMeasureCommitmentError, match="also differ in word weights"):
        collect([weight_red(rings[0], 1.5), weight_red(rings[1], 2.0)])
    marks = [PromptMark(text="red", start=2, end=5, weight=2.0).model_dump()]
    schedule = switch_schedule(3, prompts=[{"prompt": GENERIC, "marks": marks}])
    weighted_switch = switched(3, "star", controls={"prompt_schedule": schedule}, weighting="attention")
    with pytest.raises(CannotMeasureCommitmentError, match="also differ in word weights"):
        collect([*rings, stars[0], weighted_switch])


def test_videos_of_a_generic_prompt_with_different_settings_are_not_counted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ten_steps, eight_steps = (recipe_for(NANO, prompt=GENERIC, steps=steps, seed=steps) for steps in (10, 8))
    manifests = {Path("a"): FakeManifest([ten_steps]), Path("b"): FakeManifest([eight_steps])}
    monkeypatch.setattr(generic_labels, "read_manifest", lambda folder: manifests[folder.root])
    assert len(generic_labels.list_generic_videos([Path("a")])[0][GENERIC]) == 1
    with pytest.raises(UserError, match="'a red shape' together: they also differ in steps"):
        generic_labels.list_generic_videos(list(manifests))


def outcomes_of(labels: dict[tuple[int, int | None], str], checks: bool = True) -> Any:
    recipes = {(seed, moment): switched(moment, seed=seed) for seed, moment in labels}
    families, _ = collect(list(recipes.values()))
    label_by_id = {recipes[key].digest[:12]: label for key, label in labels.items() if label}
    return build_concept_outcomes(families[0], label_by_id, checks)


def test_outcomes_have_rising_noise_levels_and_exclude_unusable_seeds() -> None:
    whole = {(seed, moment): "ring" for seed in (1, 2, 3, 4, 5) for moment in (None, 2, 4)}
    labels = whole | {(1, 2): "circle", (2, None): "circle", (3, 4): ""}
    del labels[4, None]
    (outcomes,), left_out = outcomes_of(labels)
    assert outcomes.seeds == (1, 5)
    assert list(outcomes.sigmas) == sorted(outcomes.sigmas)
    assert outcomes.labels == (("ring", "circle"), ("ring", "ring"))
    reasons = dict(left_out)
    assert reasons["ring seed 2"] == "its reference video shows circle"
    assert "its video or label is missing at 1 noise level" in reasons["ring seed 3"]
    assert "no reference video" in reasons["ring seed 4"]
    (unchecked,), _ = outcomes_of(labels, checks=False)
    assert unchecked.seeds == (1, 2, 5)


def test_final_state_that_is_not_stored_is_refused_by_id() -> None:
    entry = FakeManifest([switched(None)]).videos[0]
    with pytest.raises(CannotLabelError, match=f"video {entry.id} has no stored trajectory"):
        read_final_state(Path("batch"), entry)  # type: ignore[arg-type]


def generalise(template: str, declared: str = "circle|ring: shape") -> str:
    return generalise_template(parse_template(template), parse_generic_words(declared)[0])


@pytest.mark.parametrize(
    ("template", "generic"),
    [
        ("a red [circle|ring] moving left", "a red shape moving left"),
        ("a [red|blue] circle", "a [red|blue] shape"),
        ("a [large|small] red [circle|ring] moving [left|right]", "a [large|small] red shape moving [left|right]"),
        ("a red [(circle)|(ring)]", "a red (shape)"),
        ("a red [(circle:2)|(ring:2)], [a circle|a ring] too", "a red (shape:2), a shape too"),
        ("Circle and a \\(ring\\)", "Shape and a \\(shape\\)"),
        ("a [big [circle|ring]|big ring]", "a big shape"),
    ],
)
def test_generic_template_replaces_words_and_collapses_their_brackets(template: str, generic: str) -> None:
    assert generalise(template) == generic


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a red [circle|star]", "still differ after their words are replaced: shape, star"),
        ("a red [circle|]", "still differ"),
        ("a red star", "none of the words circle, ring"),
        ("a red circles", "none of the words"),
    ],
)
def test_template_without_a_generic_form_is_refused(template: str, message: str) -> None:
    with pytest.raises(GenericWordsError, match=message):
        generalise(template)


def test_generic_shares_list_concepts_that_no_video_shows_and_other_labels() -> None:
    labels = dict.fromkeys(range(6), "circle") | {6: "square", 7: "nothing"}
    shares = measure_generic_shares(GENERIC, [1.0, 1.0, 4.0], labels, ["circle", "square", "ring"])
    assert [(each.concept, each.proportion.count) for each in shares.shares] == [
        ("circle", 6), ("square", 1), ("ring", 0), ("nothing", 1)
    ]  # fmt: skip
    assert shares.guidance_scales == (1.0, 4.0)
    assert all(each.proportion.total == 8 for each in shares.shares)
    # P(count >= 6 of 8 at 1/3), and the counts on the other side that are less likely than 6.
    assert shares.shares[0].p_equal == pytest.approx(0.0196616, abs=1e-6)
    assert np.isnan(shares.shares[3].p_equal)
    # Holm: the smallest p counts three times, the next one twice.
    p = [each.p_equal for each in shares.shares[:3]]
    order, largest = sorted(range(3), key=p.__getitem__), 0.0
    for factor, index in zip((3, 2, 1), order, strict=True):
        largest = max(largest, min(1.0, factor * p[index]))
        assert shares.shares[index].family_p == pytest.approx(largest)
    assert np.isnan(shares.shares[3].family_p)


@pytest.mark.parametrize(
    ("changes", "scales", "text"),
    [
        ({"guidance_scale": 0.5}, [1.0], ""),
        ({"guidance_scale": 4.0}, [4.0], "4"),
        (
            {"guidance_scale": 1.0, "controls": {"guidance_schedule": schedule_scales(7, 1)}},
            [1.0, 3.0, 5.0, 7.0],
            "3, 5, 7",
        ),
        ({"guidance_scale": 5.0, "controls": {"guidance_schedule": schedule_scales(1, 1)}}, [1.0], ""),
        (
            {"steps": 9, "controls": {"guidance_schedule": schedule_scales(2, 10)}},
            [*map(float, range(2, 11))],
            "2 to 10",
        ),
        (
            {"guidance_scale": 4.0, "controls": {"guidance": {"rule": "cfg-zero-star", "zero_steps": 1}}},
            [1.0, 4.0],
            "4",
        ),
    ],
)
def test_guidance_scales_are_those_of_the_evaluations(changes: dict[str, Any], scales: list[float], text: str) -> None:
    recipe = recipe_for(NANO, **{"steps": 4, "guidance_scale": 4.0} | changes)
    assert list_guidance_scales([recipe]) == scales
    assert format_guidance_scales(scales) == text


@pytest.mark.parametrize(
    ("guidance", "given", "scale"),
    [
        ("cfg_schedule_settings: {schedule: {0: 7}}", [], "1"),
        ("cfg_schedule_settings: {schedule: {0: 7}}", ["cfg_schedule_settings.schedule.2=3"], "2: 3 (linear)"),
        ("cfg_schedule_settings: {enabled: no}", ["cfg_schedule_settings.schedule={0: 5}"], "0: 5 (linear)"),
        ("guidance_settings: {rule: apg, eta: 0.5, reuse_from: 50%}", [], "1"),
        ("guidance_settings: {rule: cfg-zero-star, zero_steps: 2}", ["model_settings.cfg_scale=4"], "4"),
    ],
)
def test_generic_run_generates_without_the_guidance_of_the_config(
    wantui: Wantui, guidance: str, given: list[str], scale: str
) -> None:
    Path("guided.yaml").write_text(f"{guidance}\nmodel_settings: {{model_id: nano}}\n")
    command = ["generic", "run", "-c", "guided.yaml", "-t", "a [circle|ring]", "--generic", "circle|ring: shape"]
    result = wantui(*command, *(f"--set={override}" for override in given), "--preview")
    assert f"cfg_scale {scale}, shift" in result.out
    assert "twice" not in result.out + result.err


def test_commitment_run_refuses_a_prompt_schedule_of_the_user(wantui: Wantui) -> None:
    command = ["commitment", "run", "-t", "a [circle|ring]", "--generic", "circle|ring: shape", "--preview"]
    result = wantui(*command, "--set", "prompt_schedule_settings.schedule={3: a star}")
    assert result.code == 2
    assert "--set prompt_schedule_settings.schedule: this command sets the prompt schedule itself" in result.err


@pytest.mark.parametrize("enabled", ["yes", "no"])
def test_prompt_schedule_of_the_config_is_not_applied(wantui: Wantui, enabled: str) -> None:
    schedule = f"{{enabled: {enabled}, schedule: {{3: a blue star}}}}"
    Path("scheduled.yaml").write_text(
        f"prompt_schedule_settings: {schedule}\nmodel_settings: {{model_id: nano, steps: 4}}\n"
    )
    options = ["-c", "scheduled.yaml", "-t", "a red [circle|ring]", "--generic", "circle|ring: shape", "--preview"]
    assert "star" not in wantui("generic", "run", *options, "--json").out
    switched_batch = wantui("commitment", "run", *options, "--switch-at", "1,2", "--json")
    assert "star" not in switched_batch.out
    cells = json.loads(switched_batch.out)["sweep"]["cells"]
    assert [cell["label"] for cell in cells] == ["baseline", "schedule 1", "schedule 2"]


def test_generic_shares_without_known_concepts_have_no_p() -> None:
    shares = measure_generic_shares(GENERIC, [1.0], {1: "circle", 2: "circle", 3: "ring"}, ())
    assert [(each.concept, each.proportion.count) for each in shares.shares] == [("circle", 2), ("ring", 1)]
    assert all(np.isnan(each.p_equal) for each in shares.shares)


def test_labels_match_concepts_whatever_their_case() -> None:
    family = ConceptFamily("a shape", [ConceptVideos("circle", "a circle")])
    labels = label_family_videos(family, "auto", {"1": "Circle", "2": "Ring"})
    assert labels.label_by_id == {"1": "circle", "2": "Ring"}


def label_by_references(
    monkeypatch: pytest.MonkeyPatch, references: list[Recipe], generic_recipe: Recipe
) -> generic_labels.GenericLabels:
    """Return the labels of a video; the final states of concepts are apart, and that of the video is the ring's."""
    states = {"circle": [0.0, 1.0], "ring": [1.0, 0.0], "shape": [1.0, 0.0]}

    def list_videos(recipes: list[Recipe]) -> list[StoredVideo]:
        manifest: Any = FakeManifest(recipes)
        return list_finished_videos([(Path("batch"), manifest)])[0]

    monkeypatch.setattr(
        StoredVideo, "read_final_state", lambda video: np.array(states[video.recipe.prompt.split()[-1]])
    )
    by_prompt = {video.recipe.prompt: {video.entry.seed: video} for video in list_videos(references)}
    return generic_labels.label_generic_videos(
        generic_recipe.prompt, list_videos([generic_recipe]), by_prompt, "nearest", None, None
    )


def test_concepts_of_a_generic_prompt_are_those_of_references_that_differ_in_the_concept_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    references = [recipe_for(NANO, prompt=f"a {c} {s}") for c in ("red", "blue") for s in ("circle", "ring")]
    labels = label_by_references(monkeypatch, references, recipe_for(NANO, prompt="a blue shape"))
    assert labels.concepts == ("circle", "ring")
    assert list(labels.label_by_id.values()) == ["ring"]
    reason = "it differs from 'a blue shape' in more than the concept"
    assert labels.left_out == [("a red circle", reason), ("a red ring", reason)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 128, "height": 64}, "has width 128 instead of 64, height 64 instead of 128"),
        ({"frames": 17}, "has frames 17 instead of 9"),
        ({"model": "wan2.1-1.3b"}, "has model wan2.1-1.3b instead of nano"),
        ({"revision": "0123"}, "has revision 0123 instead of None"),
    ],
)
def test_references_with_other_latents_are_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    """Projections have equally many values for all sizes above a few thousand values."""
    generic_recipe = recipe_for(NANO, prompt=GENERIC, width=64, height=128).model_copy(update={"model": "nano"})
    references = [
        generic_recipe.model_copy(update={"prompt": f"a red {concept}", **changes}) for concept in ("circle", "ring")
    ]
    with pytest.raises(UserError, match=message):
        label_by_references(monkeypatch, references, generic_recipe)


@pytest.mark.parametrize(
    ("declared", "prompt", "generic_prompt"),
    [
        ("圆形|三角形: 形状", "一个红色的圆形在移动，三角形", "一个红色的形状在移动，形状"),
        ("丸: 形", "赤い丸が動く", "赤い形が動く"),
        ("man: person", "a woman and a man", "a woman and a person"),
        ("red ring|ring: shape", "a bored ring", "a bored shape"),
    ],
)
def test_words_of_scripts_without_spaces_are_replaced(declared: str, prompt: str, generic_prompt: str) -> None:
    (generic_word,) = parse_generic_words(declared)
    assert generic_word.generalise(prompt) == generic_prompt
