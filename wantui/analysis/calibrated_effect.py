"""Comparison of an effect with the calibrated effects of training frequency and appearance.

The calibration fits `y = model + shape + slope * ln(frequency)`. The effects of the shapes measure appearance alone, at
equal frequency; the slope measures frequency alone. The effect of exchanging one of nano's shapes for another is
compared with both; for other words and models, the calibration gives a scale but no answer.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wantui.analysis.answer_evidence import ROOM, ROOM_METRICS
from wantui.analysis.arrays import exponentiate
from wantui.analysis.calibrated import Sensitivity, find_sensitivity
from wantui.analysis.differences import Difference
from wantui.analysis.metrics import describe_ratio_base, get_metric_unit, get_ratio_origin
from wantui.analysis.setting_values import make_value_key
from wantui.analysis.statistics import compute_t_quantile
from wantui.analysis.training_frequency import (
    CALIBRATED_MODEL,
    MODEL_PATH,
    compares_shapes,
    compares_words,
    describe_frequency_ratio,
    find_exchanged_words,
    find_frequency_ratio,
    uses_adapters,
    uses_calibrated_model,
)
from wantui.analysis.verdicts import Verdict
from wantui.analysis.video_guidance import GUIDANCE_PATH, describe_pooled_guidance
from wantui.controls import CONTROLS
from wantui.formatting import capitalize_first, format_share
from wantui.models.nano.attributes import SHAPES

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison

QUESTION = "frequency or appearance?"
MAX_CALIBRATED_RATIO = 15.0
"""Largest ratio of two frequencies in the calibration: 45 % and 3 %. Larger ratios are extrapolated."""
CALIBRATED_SCALES = {True: 4.0, False: 1.0}
"""Guidance scale of the calibration for guided and for unguided videos."""
CALIBRATED_STEPS, CALIBRATED_SAMPLER = 50, "euler"
CALIBRATED_SETTINGS = {
    MODEL_PATH: CALIBRATED_MODEL,
    "model_settings.steps": CALIBRATED_STEPS,
    "model_settings.sampler": CALIBRATED_SAMPLER,
    "video_settings.width": 128,
    "video_settings.height": 128,
    "video_settings.frames": 17,
}
"""Settings of the calibration that are equal for both guidance scales, by config path."""
NAME_BY_SETTING_PATH = {MODEL_PATH: "model"}
"""Names of settings in the caveat that differ from the last part of their path."""
SENTENCE_FORMS = ("first sentence form", "held-out sentence form")
"""Sentence forms of a `Sensitivity`'s two slopes."""


@dataclass(frozen=True)
class CalibratedEffect:
    """Effect of a metric between two groups, and the calibrated effects of appearance alone and frequency alone."""

    effect: float
    """Share of the mean of both groups, measured from `ratio_origin`, or nats. The calibration likewise takes shares of
    the mean of all shapes."""
    low: float
    """Lower end of the effect's 95 % interval; NaN if the differences of all seeds are equal."""
    high: float
    sensitivity: Sensitivity

    @property
    def nearest_effect(self) -> float:
        """Return the end of the interval that is nearer to 0: an explanation must reach this end.

        Without an interval, this is the effect.
        """
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return self.effect
        return 0.0 if self.low <= 0 <= self.high else min(self.low, self.high, key=abs)

    @property
    def can_appearance_explain(self) -> bool:
        """Return whether appearance alone can explain the effect.

        It can if the effect's interval overlaps the 95 % range of differences between two new shapes of equal
        frequency.
        """
        return abs(self.nearest_effect) <= compute_appearance_bound(self.sensitivity)

    @property
    def frequency_ratios(self) -> tuple[float, float] | None:
        """Return the ratios of the first group's frequency to the second's that would cause the effect.

        There is one ratio for each sentence form in SENTENCE_FORMS. The result is None if frequency had no reproduced
        effect on the metric.
        """
        return _compute_frequency_ratios(self.effect, self.sensitivity)

    @property
    def can_frequency_explain(self) -> bool:
        """Return whether frequency alone can explain the effect.

        It can if, by the slope of a sentence form, a ratio up to MAX_CALIBRATED_RATIO would cause the nearer end of the
        effect's interval.
        """
        ratios = _compute_frequency_ratios(self.nearest_effect, self.sensitivity) or ()
        return any(1 / MAX_CALIBRATED_RATIO <= ratio <= MAX_CALIBRATED_RATIO for ratio in ratios)

    @property
    def can_appearance_and_frequency_explain(self) -> bool:
        """Return whether appearance and frequency together can explain the effect.

        They can if appearance and a ratio of frequencies up to MAX_CALIBRATED_RATIO together reach the nearer end of
        the effect's interval. The fit of the calibration adds the two.
        """
        frequency_bound = max(map(abs, self.sensitivity.slopes)) * math.log(MAX_CALIBRATED_RATIO)
        return abs(self.nearest_effect) <= compute_appearance_bound(self.sensitivity) + frequency_bound

    def predict_change(self, ratio: float) -> tuple[float, float]:
        """Return the change that a ratio of frequencies causes, in the unit of `effect`.

        There is one change for each sentence form in SENTENCE_FORMS. The changes are 0 if frequency had no reproduced
        effect on the metric.
        """
        if not self.sensitivity.has_frequency_effect:
            return 0.0, 0.0
        slope, held_out_slope = self.sensitivity.slopes
        return slope * math.log(ratio), held_out_slope * math.log(ratio)

    @property
    def appearance_answer(self) -> str:
        """Return, in words, whether appearance can explain the effect."""
        return "appearance alone can explain it" if self.can_appearance_explain else "more than appearance explains"

    @property
    def answer(self) -> str:
        """Return, in words, whether appearance or frequency can explain the effect."""
        if self.can_frequency_explain:
            return (
                "either can explain it"
                if self.can_appearance_explain
                else "larger than appearance explains, but frequency can explain it"
            )
        beyond_text = f"only beyond the calibrated ratio of {MAX_CALIBRATED_RATIO:g}"
        if self.can_appearance_explain:
            frequency_text = f"; frequency {beyond_text}" if self.sensitivity.has_frequency_effect else ""
            return f"appearance alone can explain it{frequency_text}"
        if self.sensitivity.has_frequency_effect:
            together_text = (
                "both together can explain it"
                if self.can_appearance_and_frequency_explain
                else "both together do not explain it either"
            )
            return f"more than appearance alone explains; frequency alone can explain it {beyond_text}; {together_text}"
        return "more than the calibration explains"

    def describe(self, first_group: str, second_group: str) -> str:
        """Describe the effect relative to the calibrated effects of appearance and frequency."""
        difference = compute_appearance_difference(self.sensitivity)
        sizes = [abs(value) / difference for value in (self.effect, self.low, self.high)]
        text = f"{sizes[0]:.2g} times the typical difference due to appearance"
        if math.isfinite(self.low) and math.isfinite(self.high):
            low, high = sorted(sizes[1:])
            text += f" (95 % interval {low if self.low * self.high > 0 else 0:.2g} to {high:.2g})"
        if self.frequency_ratios is None:
            return f"{text}; no effect of frequency is known"
        return f"{text}; {_describe_frequency(self.frequency_ratios, first_group, second_group)}"


def compute_appearance_difference(sensitivity: Sensitivity) -> float:
    """Return the root mean square difference between two different shapes at equal frequency.

    `appearance` is the standard deviation of the effects of SHAPES, with the divisor n.
    """
    return sensitivity.appearance * math.sqrt(2 * len(SHAPES) / (len(SHAPES) - 1))


def compute_appearance_bound(sensitivity: Sensitivity) -> float:
    """Return the end of the 95 % range of differences between two new shapes, from Student's t of the six effects."""
    return float(compute_t_quantile(0.975, len(SHAPES) - 1)) * compute_appearance_difference(sensitivity)


def _compute_frequency_ratios(effect: float, sensitivity: Sensitivity) -> tuple[float, float] | None:
    if not sensitivity.has_frequency_effect:
        return None
    slope, held_out_slope = sensitivity.slopes
    return exponentiate(effect / slope), exponentiate(effect / held_out_slope)


def find_calibrated_effect(comparison: "Comparison", difference: Difference) -> CalibratedEffect | None:
    """Return an effect with its calibration; None without a calibration, or if a relative effect is meaningless."""
    sensitivity = find_sensitivity(difference.metric, is_guided=comparison.is_guided)
    if sensitivity is None:
        return None
    if get_metric_unit(difference.metric) == "nats":
        paired_effect = difference.paired_effect
        return CalibratedEffect(
            paired_effect.mean, paired_effect.interval_low, paired_effect.interval_high, sensitivity
        )
    if not difference.is_relative:
        return None
    summaries = comparison.summaries_by_metric[difference.metric]
    sign = math.copysign(1, summaries[difference.second_group].mean - get_ratio_origin(difference.metric))
    effect, low, high = (
        _divide_by_common_mean(share, sign)
        for share in (difference.relative_difference, difference.relative_low, difference.relative_high)
    )
    return CalibratedEffect(effect, low, high, sensitivity)


def _divide_by_common_mean(share: float, sign: float) -> float:
    """Convert a change relative to the second group's signed mean to a change relative to the mean of both groups."""
    return math.copysign(2.0, share) if math.isinf(share) else share / (1 + sign * share / 2)


def explain_effect(comparison: "Comparison", verdict: Verdict) -> str:
    """Return sentences on whether frequency or appearance can explain the effect of a verdict.

    The text is empty if no effect is shown, or if the groups do not differ in one of nano's words. For metrics that
    were not calibrated, only words that were equally frequent in its training have an answer.
    """
    answer, figures = _answer_question(comparison, verdict)
    return f"{QUESTION} {'. '.join(filter(None, (answer, figures)))}" if answer else ""


def _answer_question(comparison: "Comparison", verdict: Verdict) -> tuple[str, str]:
    """Return the answer to QUESTION, and sentences with its figures; empty texts without an answer."""
    groups = (verdict.first_group, verdict.second_group)
    if verdict.kind != "differs" or not compares_words(comparison) or not uses_calibrated_model(comparison):
        return "", ""
    words = find_exchanged_words(comparison, *groups)
    ratio = None if words is None else find_frequency_ratio(*words)
    if words is None or ratio is None:
        return "", ""
    if ratio == 1:
        return describe_frequency_ratio(*words, has_adapters=uses_adapters(comparison)), ""
    if guidance_text := describe_pooled_guidance(comparison.videos):
        return f"no answer, because {guidance_text}", ""
    difference = comparison.find_difference(verdict.metric, *groups)
    if difference is None or find_sensitivity(verdict.metric, is_guided=comparison.is_guided) is None:
        return "", ""
    effect = find_calibrated_effect(comparison, difference)
    if effect is None:
        return f"cannot tell, because the effect in {verdict.metric} cannot be given as a share of the mean", ""
    answer = effect.answer
    if effect.predict_change(ratio)[0] * effect.effect < 0:
        answer = f"{effect.appearance_answer}; frequency would change it in the opposite direction"
    return (
        f"{_describe_condition(comparison)}{answer}",
        f"{effect.describe(*groups)}. {capitalize_first(describe_frequency_ratio(*words))}"
        f"{_describe_predicted_change(words[0], effect, ratio, verdict.metric)}",
    )


def add_explanation_notes(comparison: "Comparison") -> "Comparison":
    """Note at each answer on room what can explain the verdict; return the comparison with these notes."""
    answers = []
    for answer in comparison.answers:
        verdict = comparison.find_verdict(answer.first_group, answer.second_group)
        notes = answer.notes
        if answer.question == ROOM and verdict is not None and verdict.metric in ROOM_METRICS:
            notes += _make_explanation_notes(comparison, verdict)
        answers.append(replace(answer, notes=notes))
    return replace(comparison, answers=tuple(answers))


def _make_explanation_notes(comparison: "Comparison", verdict: Verdict) -> tuple[str, ...]:
    """Return the answer to QUESTION, and a reference to its figures; empty without an answer."""
    answer, figures = _answer_question(comparison, verdict)
    pointer = f" (details: verdict on {verdict.metric})" if figures else ""
    return (f"{QUESTION} in {verdict.metric}, {answer}{pointer}",) if answer else ()


def _describe_condition(comparison: "Comparison") -> str:
    """Return the condition under which the answer holds; empty for videos with the settings of the calibration."""
    setting_texts = _list_uncalibrated_settings(comparison)
    if not setting_texts:
        return ""
    return (
        f"if the calibration ({CALIBRATED_STEPS} {CALIBRATED_SAMPLER.capitalize()} steps, cfg_scale "
        f"{CALIBRATED_SCALES[comparison.is_guided]:g}) also holds for {', '.join(setting_texts)}: "
    )


def _describe_predicted_change(first_word: str, effect: CalibratedEffect, ratio: float, metric: str) -> str:
    """Describe the change in the metric that a frequency ratio of two words causes; empty without an effect.

    The text gives the change in both sentence forms.
    """
    if not effect.sensitivity.has_frequency_effect:
        return ""
    changes = [_format_change(metric, change) for change in effect.predict_change(ratio)]
    texts = [f"{change} ({form})" for change, form in zip(changes, SENTENCE_FORMS, strict=True)]
    return f", which gives {first_word} {' or '.join(texts)} {metric}"


def _describe_frequency(ratios: Sequence[float], first_group: str, second_group: str) -> str:
    """Describe the frequency ratios in both sentence forms.

    For example, "as if cross were 4.5 times (first sentence form) or 12 times (held-out sentence form) rarer than
    square in training".
    """
    word = "rarer" if ratios[0] < 1 else "more frequent"
    is_beyond = any(not 1 / MAX_CALIBRATED_RATIO <= ratio <= MAX_CALIBRATED_RATIO for ratio in ratios)
    beyond_text = ", beyond what the calibration measured" if is_beyond else ""
    factors = [_format_factor(max(ratio, 1 / ratio if ratio else math.inf)) for ratio in ratios]
    if factors[0] == factors[1]:
        text = f"as if {first_group} were {factors[0]} {word} than {second_group} in training (both sentence forms)"
        return f"{text}{beyond_text}"
    texts = [f"{factor} ({form})" for factor, form in zip(factors, SENTENCE_FORMS, strict=True)]
    return f"as if {first_group} were {' or '.join(texts)} {word} than {second_group} in training{beyond_text}"


def _format_factor(factor: float) -> str:
    return f"{factor:.2g} times" if factor <= MAX_CALIBRATED_RATIO else f"more than {MAX_CALIBRATED_RATIO:g} times"


def describe_calibrated_scale(comparison: "Comparison") -> str:
    """Describe the calibrated effects of appearance and frequency on the declared metric.

    The text is empty for groups by setting, and for pooled guidance. If no effect is shown, the sentence also says so.
    """
    metric = comparison.primary_metric
    if not compares_words(comparison) or describe_pooled_guidance(comparison.videos):
        return ""
    sensitivity = find_sensitivity(metric, is_guided=comparison.is_guided)
    if sensitivity is None:
        return f"{QUESTION} cannot tell, because {metric} was not calibrated"
    typical, bound = (
        _format_size(metric, value)
        for value in (compute_appearance_difference(sensitivity), compute_appearance_bound(sensitivity))
    )
    if sensitivity.has_frequency_effect:
        slope, held_out = (_format_change(metric, value) for value in sensitivity.slopes)
        frequency_text = (
            f"a word 2.7 times as frequent changes it by {slope} ({held_out} in the {SENTENCE_FORMS[1]}), measured for "
            f"frequency ratios up to {MAX_CALIBRATED_RATIO:g}"
        )
    else:
        frequency_text = "no effect of frequency appears in both sentence forms"
    is_shown = any(verdict.kind == "differs" for verdict in comparison.verdicts)
    guidance_text = "" if comparison.is_guided else " at cfg_scale 1"
    start = "calibration" if is_shown else f"{QUESTION} no effect in {metric} was found{guidance_text}. Calibration"
    return (
        f"{start} on {CALIBRATED_MODEL} ({CALIBRATED_STEPS} {CALIBRATED_SAMPLER.capitalize()} steps at cfg_scale "
        f"{CALIBRATED_SCALES[comparison.is_guided]:g}): two shapes of equal frequency differ in {metric} by "
        f"{typical}{describe_ratio_base(metric)} (root mean square; 95 % up to {bound}); {frequency_text}"
        f"{_describe_differing_settings(comparison)}"
    )


def _describe_differing_settings(comparison: "Comparison") -> str:
    """Return how the videos differ from the videos of the calibration; empty if they do not differ."""
    parts = _list_uncalibrated_settings(comparison)
    if not all(compares_shapes(comparison, item.first_group, item.second_group) for item in comparison.verdicts):
        parts.append("words other than two of nano's shapes")
    return f". These numbers do not predict the results of these videos, which have {'; '.join(parts)}" if parts else ""


def _list_uncalibrated_settings(comparison: "Comparison") -> list[str]:
    """Return texts of the settings and controls in which the videos differ from the videos of the calibration."""
    videos = comparison.videos
    expected_values = CALIBRATED_SETTINGS | {GUIDANCE_PATH: CALIBRATED_SCALES[comparison.is_guided]}
    parts = []
    for path, expected_value in expected_values.items():
        values = [video.setting_values[path] for video in videos if path in video.setting_values]
        if others := _list_uncalibrated_values(values, expected_value):
            parts.append(f"{NAME_BY_SETTING_PATH.get(path, path.rpartition('.')[2])} {', '.join(others)}")
    parts += [kind.name.replace("_", " ") for kind in CONTROLS if kind.name in comparison.used_controls]
    return parts + (["word weights"] if any(video.word_weights for video in videos) else [])


def _list_uncalibrated_values(values: Iterable[Any], expected_value: Any) -> list[str]:
    """Return texts of a setting's values that differ from the calibrated value; 4 and 4.0 are equal."""
    values_by_key = {make_value_key(value): value for value in values}
    values_by_key.pop(make_value_key(expected_value), None)
    return sorted(f"{value:g}" if isinstance(value, int | float) else str(value) for value in values_by_key.values())


def _format_size(metric: str, value: float) -> str:
    return f"{value:.3g} nats" if get_metric_unit(metric) == "nats" else format_share(value, 1)


def _format_change(metric: str, value: float) -> str:
    return f"{value:+.3g} nats" if get_metric_unit(metric) == "nats" else f"{100 * value:+.1f} %"
