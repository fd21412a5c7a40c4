"""Comparison of an effect with the calibrated effects of frequency in training and of appearance.

The calibration fits `y = model + shape + slope * ln(frequency)`. Its shape effects are what appearance alone does at
equal frequency, and its slope is what frequency alone does. The effect of exchanging one of nano's shapes for another
is compared with both; for other words and models, the calibration gives a scale, and no answer.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from wantui.analysis.arrays import exponentiate
from wantui.analysis.calibrated import Sensitivity, find_sensitivity
from wantui.analysis.differences import Difference
from wantui.analysis.group_names import find_grouping_parts
from wantui.analysis.metrics import describe_ratio_base, get_metric_unit, get_ratio_origin
from wantui.analysis.setting_values import make_value_key
from wantui.analysis.statistics import compute_t_quantile
from wantui.analysis.verdicts import Verdict
from wantui.analysis.video_guidance import GUIDANCE_PATH
from wantui.controls import CONTROLS
from wantui.formatting import format_share
from wantui.models.nano.attributes import SHAPES

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison
    from wantui.analysis.video import Video

QUESTION = "frequency or appearance?"
CALIBRATED_RATIO = 15.0
"""Largest ratio of two frequencies in the calibration: 45 % and 3 %. Larger ratios are extrapolated."""
CALIBRATED_SCALES = {True: 4.0, False: 1.0}
"""Guidance scale of the calibration for guided and for unguided videos."""
MODEL_PATH = "model_settings.model_id"
CALIBRATED_MODEL, CALIBRATED_STEPS, CALIBRATED_SAMPLER = "nano", 50, "euler"
CALIBRATED_SETTINGS = {
    MODEL_PATH: CALIBRATED_MODEL,
    "model_settings.steps": CALIBRATED_STEPS,
    "model_settings.sampler": CALIBRATED_SAMPLER,
    "video_settings.width": 128,
    "video_settings.height": 128,
    "video_settings.frames": 17,
}
"""Settings of the calibration that are equal for both guidance scales, by config path."""
NAME_BY_SETTING_PATH = {MODEL_PATH: "model", GUIDANCE_PATH: "guidance"}
"""Names of settings in the caveat that differ from the last part of their path."""
SENTENCE_FORMS = ("first sentence form", "held-out sentence form")
"""Sentence forms of the two slopes of a `Sensitivity`."""


@dataclass(frozen=True)
class CalibratedEffect:
    """Effect of a metric between two groups, and the calibrated effects of appearance alone and frequency alone."""

    effect: float
    """Share of the mean of both groups (of its distance from `ratio_origin`), as the calibration takes shares of the
    mean of all shapes, or nats."""
    low: float
    """Lower end of the effect's 95 % interval; NaN if the differences of all seeds are equal."""
    high: float
    sensitivity: Sensitivity

    @property
    def nearest_effect(self) -> float:
        """Return the end of the interval that is nearer to 0, which an explanation must reach; the effect if there is
        no interval."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return self.effect
        return 0.0 if self.low <= 0 <= self.high else min(self.low, self.high, key=abs)

    @property
    def appearance_difference(self) -> float:
        """Return the root mean square difference between two of the shapes at equal frequency."""
        return compute_appearance_difference(self.sensitivity)

    @property
    def is_within_appearance(self) -> bool:
        """Return whether the effect's interval overlaps the 95 % range of differences in appearance between two new
        shapes."""
        return abs(self.nearest_effect) <= compute_appearance_bound(self.sensitivity)

    @property
    def frequency_ratios(self) -> tuple[float, float] | None:
        """Return the frequency of the first group divided by that of the second one which would cause the effect, by
        the slopes of SENTENCE_FORMS; None if frequency had no reproduced effect on the metric."""
        return _compute_frequency_ratios(self.effect, self.sensitivity)

    @property
    def is_within_frequency(self) -> bool:
        """Return whether a ratio of frequencies up to CALIBRATED_RATIO would cause the nearer end of the effect's
        interval, by the slope of a sentence form."""
        ratios = _compute_frequency_ratios(self.nearest_effect, self.sensitivity) or ()
        return any(1 / CALIBRATED_RATIO <= ratio <= CALIBRATED_RATIO for ratio in ratios)

    @property
    def is_within_both(self) -> bool:
        """Return whether appearance and a ratio of frequencies up to CALIBRATED_RATIO together reach the nearer end of
        the effect's interval: the fit of the calibration adds them."""
        slopes = (self.sensitivity.frequency.slope, self.sensitivity.held_out_frequency.slope)
        frequency_bound = max(map(abs, slopes)) * math.log(CALIBRATED_RATIO)
        return abs(self.nearest_effect) <= compute_appearance_bound(self.sensitivity) + frequency_bound

    @property
    def answer(self) -> str:
        """Return which of the two can explain the effect."""
        if self.is_within_frequency:
            return (
                "either can explain it"
                if self.is_within_appearance
                else "larger than appearance explains, but frequency can explain it"
            )
        beyond_text = f"only beyond the calibrated ratio of {CALIBRATED_RATIO:g}"
        if self.is_within_appearance:
            frequency_text = f"; frequency {beyond_text}" if self.sensitivity.has_frequency_effect else ""
            return f"appearance alone can explain it{frequency_text}"
        if self.sensitivity.has_frequency_effect:
            together_text = "both together can explain it" if self.is_within_both else "both do not explain it either"
            return f"more than appearance alone explains; frequency alone could {beyond_text}; {together_text}"
        return "more than the calibration explains"

    def describe(self, first_group: str, second_group: str) -> str:
        """Describe the effect relative to the calibrated effects of appearance and frequency."""
        sizes = [abs(value) / self.appearance_difference for value in (self.effect, self.low, self.high)]
        text = f"{sizes[0]:.2g} times the typical difference due to appearance"
        if math.isfinite(self.low) and math.isfinite(self.high):
            low, high = sorted(sizes[1:])
            text += f" (95 % interval {low if self.low * self.high > 0 else 0:.2g} to {high:.2g})"
        if self.frequency_ratios is None:
            return f"{text}; no effect of frequency is known"
        return f"{text}; {_describe_frequency(self.frequency_ratios, first_group, second_group)}"


def compute_appearance_difference(sensitivity: Sensitivity) -> float:
    """Return the root mean square difference between two different shapes at equal frequency.

    `appearance` is the standard deviation (with n) of the effects of SHAPES.
    """
    return sensitivity.appearance * math.sqrt(2 * len(SHAPES) / (len(SHAPES) - 1))


def compute_appearance_bound(sensitivity: Sensitivity) -> float:
    """Return the end of the 95 % range of differences between two new shapes, by Student's t of the six effects."""
    return float(compute_t_quantile(0.975, len(SHAPES) - 1)) * compute_appearance_difference(sensitivity)


def _compute_frequency_ratios(effect: float, sensitivity: Sensitivity) -> tuple[float, float] | None:
    if not sensitivity.has_frequency_effect:
        return None
    first, held_out = sensitivity.frequency.slope, sensitivity.held_out_frequency.slope
    return exponentiate(effect / first), exponentiate(effect / held_out)


def find_calibrated_effect(comparison: "Comparison", difference: Difference) -> CalibratedEffect | None:
    """Return an effect with its calibration; None without a calibration, or if a relative effect has no meaning."""
    sensitivity = find_sensitivity(difference.metric, is_guided=comparison.is_guided)
    if sensitivity is None:
        return None
    if get_metric_unit(difference.metric) == "nats":
        paired_effect = difference.paired_effect
        return CalibratedEffect(
            paired_effect.mean, paired_effect.interval_low, paired_effect.interval_high, sensitivity
        )
    if not math.isfinite(difference.relative_difference):
        return None
    summaries = comparison.summaries_by_metric[difference.metric]
    sign = math.copysign(1, summaries[difference.second_group].mean - get_ratio_origin(difference.metric))
    effect, low, high = (
        _divide_by_common_mean(share, sign)
        for share in (difference.relative_difference, difference.relative_low, difference.relative_high)
    )
    return CalibratedEffect(effect, low, high, sensitivity)


def _divide_by_common_mean(share: float, sign: float) -> float:
    """Convert a share of the second mean, which has a sign, to a share of the mean of both groups."""
    return math.copysign(2.0, share) if math.isinf(share) else share / (1 + sign * share / 2)


def compares_words(comparison: "Comparison") -> bool:
    """Return whether words form the groups, rather than batches or settings."""
    if comparison.grouping in ("variation", "prompt"):
        return True
    videos = [video for group in comparison.groups for video in group.videos]
    parts = find_grouping_parts(videos, comparison.grouping)
    return bool(parts.brackets) and not parts.setting_paths


def compares_shapes(comparison: "Comparison", first_group: str, second_group: str) -> bool:
    """Return whether the texts of two groups differ only in one word that is one of nano's shapes in both."""
    videos_by_group = {group.name: group.videos for group in comparison.groups}
    first_videos, second_videos = videos_by_group[first_group], videos_by_group[second_group]
    brackets = find_grouping_parts([*first_videos, *second_videos], comparison.grouping).brackets

    def list_texts(videos: Sequence["Video"]) -> set[str]:
        if not brackets:
            return {video.prompt for video in videos}
        return {" ".join(video.choices_by_bracket.get(bracket, "") for bracket in brackets) for video in videos}

    pairs = list(product(list_texts(first_videos), list_texts(second_videos)))
    return bool(pairs) and all(_exchange_shapes(first, second) for first, second in pairs)


def _exchange_shapes(first_text: str, second_text: str) -> bool:
    first_words, second_words = (re.findall(r"\w+", text.casefold()) for text in (first_text, second_text))
    if len(first_words) != len(second_words):
        return False
    pairs = [pair for pair in zip(first_words, second_words, strict=True) if pair[0] != pair[1]]
    return len(pairs) == 1 and set(pairs[0]) <= set(SHAPES)


def explain_effect(comparison: "Comparison", verdict: Verdict) -> str:
    """Return a sentence on whether frequency or appearance can explain the effect of a verdict.

    Empty for metrics that were not calibrated, if no effect is shown, and for groups that are not shapes of nano.
    """
    groups = (verdict.first_group, verdict.second_group)
    if verdict.kind != "differs" or not compares_words(comparison):
        return ""
    if _list_models(comparison) != {CALIBRATED_MODEL} or not compares_shapes(comparison, *groups):
        return ""
    (difference,) = [
        item
        for item in comparison.differences
        if (item.metric, item.first_group, item.second_group) == (verdict.metric, *groups)
    ]
    if find_sensitivity(verdict.metric, is_guided=comparison.is_guided) is None:
        return ""
    effect = find_calibrated_effect(comparison, difference)
    if effect is None:
        return f"{QUESTION} cannot tell: the effect in {verdict.metric} cannot be given as a share of the mean"
    return f"{QUESTION} {effect.answer}. {effect.describe(*groups)}"


def _list_models(comparison: "Comparison") -> set[str]:
    return {str(video.setting_values.get(MODEL_PATH)) for group in comparison.groups for video in group.videos}


def _describe_frequency(ratios: Sequence[float], first_group: str, second_group: str) -> str:
    """Describe the ratios of frequencies by both sentence forms, such as "as if cross were 4.5 times (first sentence
    form) or 12 times (held-out sentence form) rarer than square in training"."""
    word = "rarer" if ratios[0] < 1 else "more frequent"
    factors = [_format_factor(max(ratio, 1 / ratio if ratio else math.inf)) for ratio in ratios]
    if factors[0] == factors[1]:
        return f"as if {first_group} were {factors[0]} {word} than {second_group} in training (both sentence forms)"
    texts = [f"{factor} ({form})" for factor, form in zip(factors, SENTENCE_FORMS, strict=True)]
    return f"as if {first_group} were {' or '.join(texts)} {word} than {second_group} in training"


def _format_factor(factor: float) -> str:
    return f"{factor:.2g} times" if factor <= CALIBRATED_RATIO else f"more than {CALIBRATED_RATIO:g} times"


def describe_calibrated_scale(comparison: "Comparison") -> str:
    """Describe the calibrated effects of appearance and frequency on the declared metric; empty for groups by setting.

    If no effect is shown, the sentence also says so.
    """
    metric = comparison.primary_metric
    if not compares_words(comparison):
        return ""
    sensitivity = find_sensitivity(metric, is_guided=comparison.is_guided)
    if sensitivity is None:
        return f"{QUESTION} cannot tell: {metric} was not calibrated"
    typical, bound = (
        _format_size(metric, value)
        for value in (compute_appearance_difference(sensitivity), compute_appearance_bound(sensitivity))
    )
    if sensitivity.has_frequency_effect:
        slope, held_out = (
            _format_change(metric, fit.slope) for fit in (sensitivity.frequency, sensitivity.held_out_frequency)
        )
        frequency_text = (
            f"a word 2.7 times as frequent changes it by {slope} ({held_out} in the {SENTENCE_FORMS[1]}), measured for "
            f"frequency ratios up to {CALIBRATED_RATIO:g}"
        )
    else:
        frequency_text = "no effect of frequency appears in both sentence forms"
    is_shown = any(verdict.kind == "differs" for verdict in comparison.verdicts)
    guidance_text = "" if comparison.is_guided else " at guidance 1"
    start = "calibration" if is_shown else f"{QUESTION} no effect in {metric} was found{guidance_text}. Calibration"
    return (
        f"{start} on {CALIBRATED_MODEL} ({CALIBRATED_STEPS} {CALIBRATED_SAMPLER.capitalize()} steps at guidance "
        f"{CALIBRATED_SCALES[comparison.is_guided]:g}): two shapes of equal frequency differ in {metric} by "
        f"{typical}{describe_ratio_base(metric)} (root mean square; 95 % up to {bound}); {frequency_text}"
        f"{_describe_differing_settings(comparison)}"
    )


def _describe_differing_settings(comparison: "Comparison") -> str:
    """Return how the videos differ from those of the calibration; empty if they do not."""
    videos = [video for group in comparison.groups for video in group.videos]
    expected_values = CALIBRATED_SETTINGS | {GUIDANCE_PATH: CALIBRATED_SCALES[comparison.is_guided]}
    parts = []
    for path, expected_value in expected_values.items():
        values = [video.setting_values[path] for video in videos if path in video.setting_values]
        if others := _list_other_values(values, expected_value):
            parts.append(f"{NAME_BY_SETTING_PATH.get(path, path.rpartition('.')[2])} {', '.join(others)}")
    used_names = {
        key.partition(".")[0] for video in videos for key, value in video.settings.items() if value is not None
    }
    parts += [kind.name.replace("_", " ") for kind in CONTROLS if kind.name in used_names]
    parts += ["word weights"] if any(video.word_weights for video in videos) else []
    if not all(compares_shapes(comparison, item.first_group, item.second_group) for item in comparison.verdicts):
        parts.append("words that are not two shapes of nano")
    return f". The figures are no forecast for these videos, which have {'; '.join(parts)}" if parts else ""


def _list_other_values(values: Iterable[Any], expected_value: Any) -> list[str]:
    """Return the values of a setting that differ from that of the calibration, as texts; 4 and 4.0 are equal."""
    values_by_key = {make_value_key(value): value for value in values}
    values_by_key.pop(make_value_key(expected_value), None)
    return sorted(f"{value:g}" if isinstance(value, int | float) else str(value) for value in values_by_key.values())


def _format_size(metric: str, value: float) -> str:
    return f"{value:.3g} nats" if get_metric_unit(metric) == "nats" else format_share(value, 1)


def _format_change(metric: str, value: float) -> str:
    return f"{value:+.3g} nats" if get_metric_unit(metric) == "nats" else f"{100 * value:+.1f} %"
