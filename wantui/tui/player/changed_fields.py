"""Fields of a recipe that differ from wantui's defaults for the same model and size."""

from wantui.captures.attention import ATTENTION
from wantui.captures.guidance_gap import GuidanceGapSettings
from wantui.config import Settings
from wantui.controls.guidance import DEFAULTS_BY_RULE, GUIDANCE, GuidanceRequest, GuidanceSettings
from wantui.models.catalogue import CATALOGUE, WanModel, find_model
from wantui.planning import Recipe
from wantui.planning.batch_checks import describe_altered_trajectory
from wantui.planning.recipe import CaptureRequests
from wantui.planning.sizes import DEFAULT_FRAME_COUNT
from wantui.tui.player.recipe_table import SEED_FIELD, format_field_value, list_recipe_fields

UNMARKED_FIELDS = frozenset({"prompt", "marks", SEED_FIELD, "revision", "magnitudes", "duration"})
"""Fields whose value is different in every batch, or follows from other fields."""


def find_changed_fields(recipe: Recipe) -> dict[str, str]:
    """Return, by full name, the default of each field that has a different value; empty text without a default.

    Every setting of a control counts as changed, except a default parameter of a guidance rule.
    """
    defaults = _list_default_values(recipe)
    return {
        field.full_name: defaults.get(field.full_name, "")
        for field in list_recipe_fields(recipe)
        if field.full_name not in UNMARKED_FIELDS and field.value != defaults.get(field.full_name)
    }


def _list_default_values(recipe: Recipe) -> dict[str, str]:
    """Return the default of each field as text, by full name; fields without a default are missing."""
    default_recipe = _build_default_recipe(recipe)
    recorded_captures = default_recipe.capture.model_copy(
        update={
            "latents": True,
            "attention": ATTENTION.request_type(),
            "more": {name: type(request)() for name, request in recipe.capture.more.items()},
        }
    )
    values = {
        field.full_name: field.value
        for capture in (recorded_captures, default_recipe.capture)  # the second has the defaults of what is recorded
        for field in list_recipe_fields(default_recipe.model_copy(update={"capture": capture}))
    }
    values["embedding_method"] = Settings().prompt_settings.embedding_method
    if (guidance := recipe.find_control_request(GUIDANCE.name)) is not None:
        assert isinstance(guidance, GuidanceRequest)
        rule_defaults = {"rule": GuidanceSettings().rule, **DEFAULTS_BY_RULE[guidance.rule]}
        values |= {f"{GUIDANCE.name}.{name}": format_field_value(value) for name, value in rule_defaults.items()}
    return values


def _build_default_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe with the default settings, and the prompt, model form and size that defaults depend on."""
    settings = Settings()
    model_settings, video_settings = settings.model_settings, settings.video_settings
    default_model, model = find_model(model_settings.model_id), _find_catalogued_model(recipe.model)
    altered_settings = settings.model_copy(
        update={"model_settings": model_settings.model_copy(update={"speed": recipe.speed, "sampler": recipe.sampler})}
    )
    return recipe.model_copy(
        update={
            "model": recipe.model if model is default_model else default_model.name,
            "negative_prompt": settings.prompt_settings.negative_prompt,
            "weighting": None,
            "sampler": model_settings.sampler,
            "steps": model_settings.steps,
            "flow_shift": recipe.flow_shift if model is None else model.choose_flow_shift(recipe.width, recipe.height),
            "guidance_scale": model_settings.cfg_scale,
            "guidance_scale_2": None,
            "width": video_settings.width,
            "height": video_settings.height,
            "frames": DEFAULT_FRAME_COUNT,
            "fps": video_settings.fps,
            "dtype": WanModel.dtype if model is None else model.dtype,
            "weights": model_settings.weights,
            "transformer_file": None,
            "speed": model_settings.speed,
            "capture": CaptureRequests(
                latents=settings.latent_analysis_settings.store_latents,
                geometry=describe_altered_trajectory(altered_settings) is None,
                guidance_gap=GuidanceGapSettings().store_guidance_gap,
            ),
            "controls": {},
        }
    )


def _find_catalogued_model(name: str) -> WanModel | None:
    """Return a model of the catalogue; None for any other model, because its files would have to be read."""
    return next((model for model in CATALOGUE if name in (model.name, model.location)), None)
