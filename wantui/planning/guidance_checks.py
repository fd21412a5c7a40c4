"""Checks of a batch's guidance: settings without effect, and combinations that are impossible."""

from collections.abc import Iterator

from wantui.captures.guidance_gap import GUIDANCE_GAP
from wantui.config.settings import Settings
from wantui.controls.guidance import GUIDANCE, GuidanceRequest
from wantui.controls.guidance_schedule import GUIDANCE_SCHEDULE
from wantui.controls.lora import ADAPTERS_KEY, LORA, LoraRequest
from wantui.errors import UserError
from wantui.keyframes import KeyframeError, format_moments
from wantui.metric_names import MetricName
from wantui.models.adapters import find_packaged_adapter
from wantui.models.catalogue import NANO, WanModel
from wantui.planning.guidance_plan import describe_guidance, has_varying_passes, plan_guidance, uses_unconditional_pass
from wantui.planning.recipe import CaptureRequests, Recipe


def check_guidance(recipe: Recipe) -> None:
    """Check that the keyframes of a recipe's guidance belong to its steps.

    Raises:
        UserError: the message names the setting.
    """
    try:
        plan_guidance(recipe)
    except KeyframeError as error:
        raise UserError(f"cannot plan the guidance: {error}") from None


def find_guidance_refusals(settings: Settings, model: WanModel, first_recipe: Recipe) -> list[str]:
    """Return the reasons why the guidance of a batch cannot be applied as its settings say."""
    return [
        *_find_scale_refusals(settings, model, first_recipe),
        *_find_rule_refusals(first_recipe),
        *_find_skipping_refusals(first_recipe),
    ]


def find_guidance_warnings(settings: Settings, recipe: Recipe) -> list[str]:
    """Return warnings about settings that need an unconditional pass, which the guidance of a recipe may lack."""
    warnings = []
    is_guided = uses_unconditional_pass(recipe)
    if recipe.negative_prompt and not is_guided:
        warnings.append(
            "prompt_settings.negative_prompt has no effect, because the guidance scale turns guidance off: use a scale "
            "above 1, or remove it"
        )
    if settings.model_settings.gpus_per_video == 2 and not is_guided:
        warnings.append(
            "model_settings.gpus_per_video: 2 makes no step faster, because no step has two passes: the second GPU is "
            "reserved and idle. Without guidance, use 1"
        )
    return [
        *warnings,
        *(_find_adapter_warnings(recipe) if is_guided else _find_missing_adapter_warnings(recipe)),
        *_find_unmeasured_metric_warnings(settings.primary_metric, recipe.capture, is_guided),
    ]


def _list_distilled_adapters(recipe: Recipe) -> list[str]:
    """Return the names of the merged adapters that contain guidance already."""
    request = recipe.find_control_request(LORA.name)
    if not isinstance(request, LoraRequest):
        return []
    packaged_by_name = {name: find_packaged_adapter(file.path) for name, file, _ in request.list_merged_files()}
    return [name for name, packaged in packaged_by_name.items() if packaged is not None and packaged.contains_guidance]


def _find_missing_adapter_warnings(recipe: Recipe) -> Iterator[str]:
    """Warn about the sampler of the packaged distilled adapter if the adapter is missing."""
    if recipe.model == NANO.name and recipe.sampler == "lcm" and not _list_distilled_adapters(recipe):
        yield (
            "model_settings.sampler: lcm without guidance needs an adapter that was trained for it: add nano-4step to "
            f"{ADAPTERS_KEY} (--lora nano-4step; the adapters given with --lora replace those of the config)"
        )


def _find_adapter_warnings(recipe: Recipe) -> Iterator[str]:
    """Yield a warning for each merged adapter that contains guidance already."""
    remedies = ["set model_settings.cfg_scale to 1"]
    if recipe.find_control_request(GUIDANCE_SCHEDULE.name) is not None:
        remedies.append("set cfg_schedule_settings.enabled to no")
    if recipe.find_control_request(GUIDANCE.name) is not None:
        remedies.append("remove guidance_settings")
    for name in _list_distilled_adapters(recipe):
        yield (
            f"{ADAPTERS_KEY}: {name} contains guidance already, and these videos have more guidance (cfg_scale "
            f"{describe_guidance(recipe)}): colours and shapes will be exaggerated. To avoid this, "
            f"{', '.join(remedies)}"
        )


def _find_unmeasured_metric_warnings(
    metric: MetricName | None, captures: CaptureRequests, is_guided: bool
) -> Iterator[str]:
    """Warn about a declared metric that these videos will not have."""
    if metric is None:
        return
    needs_guidance_gap = metric.startswith(GUIDANCE_GAP.name)
    if not captures.geometry:
        yield (
            f"primary_metric: {metric} will not be measured, because speed: cached and samplers that add noise record "
            "no trajectory: set model_settings.force_capture, or choose another speed or sampler"
        )
    elif needs_guidance_gap and not captures.guidance_gap:
        yield (
            f"primary_metric: {metric} will not be measured, because guidance_gap_settings.store_guidance_gap is off: "
            "turn it on"
        )
    elif needs_guidance_gap and not is_guided:
        yield (
            f"primary_metric: {metric} will not be measured, because the guidance scale turns guidance off: use a "
            "scale above 1"
        )


def _find_scale_refusals(settings: Settings, model: WanModel, recipe: Recipe) -> Iterator[str]:
    model_settings, schedule = settings.model_settings, recipe.find_control_request(GUIDANCE_SCHEDULE.name)
    schedule_2 = None if schedule is None else getattr(schedule, "schedule_2", None)
    for is_given, name in (
        (model_settings.cfg_scale_2 is not None, "model_settings.cfg_scale_2"),
        (schedule_2 is not None, "cfg_schedule_settings.schedule_2"),
    ):
        if is_given and model.boundary_ratio is None:
            yield f"{name} is for models with two transformers; {model.name} has one"
    if model_settings.cfg_scale_2 is not None and schedule_2 is not None:
        yield "model_settings.cfg_scale_2 has no effect with cfg_schedule_settings.schedule_2. Remove one of them"
    if schedule is None and (model_settings.cfg_scale_2 or 0) > 1 >= model_settings.cfg_scale:
        yield "model_settings.cfg_scale_2 has no effect if cfg_scale is at most 1, which turns guidance off"


def _find_rule_refusals(recipe: Recipe) -> Iterator[str]:
    request = recipe.find_control_request(GUIDANCE.name)
    if not isinstance(request, GuidanceRequest):
        return
    sources = {evaluation.source for evaluation in plan_guidance(recipe)}
    reuse_text = (
        "" if request.reuse_from is None else f"guidance_settings.reuse_from: {format_moments(request.reuse_from)[0]}"
    )
    setting = reuse_text if request.rule == "cfg" else f"guidance_settings.rule: {request.rule}"
    if sources == {"zero"}:
        yield "guidance_settings.zero_steps: no step would change anything, and the video would be noise. Lower it"
    elif "guided" not in sources:
        yield f"{setting} has no effect, because the guidance scale turns guidance off. Use a scale above 1"
    elif reuse_text and "reused" not in sources:
        yield f"{reuse_text} has no effect, because no later step is guided. Use an earlier moment"


def _find_skipping_refusals(recipe: Recipe) -> Iterator[str]:
    """Refuse captures and speeds that need the unconditional pass at every step, if guidance skips it at any step."""
    stores_unconditional = recipe.capture.attention is not None and recipe.capture.attention.unconditional
    if not has_varying_passes(recipe):
        if stores_unconditional and not uses_unconditional_pass(recipe):
            yield (
                "attention_analysis_settings.store_unconditional needs the unconditional pass, but the guidance scale "
                "turns guidance off. Turn it off, or use a scale above 1"
            )
        return
    if recipe.speed == "cached":
        yield (
            "model_settings.speed: cached compares every pass with the same pass of the previous step, but guidance "
            "skips the unconditional pass at some steps (a scale of 1, reuse_from or zero_steps). Choose fused"
        )
    if stores_unconditional:
        yield (
            "attention_analysis_settings.store_unconditional needs the unconditional pass at every step, but guidance "
            "skips it at some (a scale of 1, reuse_from or zero_steps). Turn one of them off"
        )
