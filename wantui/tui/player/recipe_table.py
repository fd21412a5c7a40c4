"""Recipes as tables: fields by group with the names of the config, and the fields in which recipes differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from wantui.captures import CAPTURES
from wantui.captures.attention import ATTENTION
from wantui.captures.trajectory import TRAJECTORY
from wantui.formatting import format_count
from wantui.planning import Recipe
from wantui.tui.dates import format_full_date
from wantui.tui.settings_rows import DEFAULT_TEXT, format_label

if TYPE_CHECKING:
    from wantui.storage.manifest import Manifest, VideoEntry

GROUPS = ("prompt", "model", "sampling", "size", "captures", "controls")
"""Groups of fields in the order in which they are shown."""
VIDEO_GROUP = "video"
"""Group of the facts about a video that its recipe does not determine."""
SEED_FIELD = "seed"
SETTING_BY_FIELD = {
    TRAJECTORY.name: {
        "latents": "store_latents",
        "interval": "storage_interval",
        "dtype": "storage_dtype",
        "compress": "compress_latents",
        "predicted_clean": "store_predicted_clean",
    },
    ATTENTION.name: {
        "interval": "storage_interval",
        "dtype": "storage_dtype",
        "compress": "compress_attention",
        "per_block": "store_per_block",
        "per_head": "store_per_head",
        "per_token": "store_individual_tokens",
        "downsample": "spatial_downsample_factor",
        "unconditional": "store_unconditional",
    },
}
"""Settings of the config by field of the capture's request, by capture."""


@dataclass(frozen=True)
class RecipeField:
    """A field of a recipe."""

    group: str
    name: str
    """Name as in the config file."""
    value: str
    unit: str = ""
    part: str = ""
    """Capture or control that the field belongs to; empty for fields of the recipe itself."""

    @property
    def full_name(self) -> str:
        """Return the name, which is unique in a recipe."""
        return f"{self.part}.{self.name}" if self.part else self.name

    @property
    def label(self) -> str:
        """Return the full name for people, as the settings form writes it."""
        return format_label(self.full_name.replace(".", " "))


def list_recipe_fields(recipe: Recipe) -> list[RecipeField]:
    """Return the fields of a recipe in the order of `GROUPS`."""
    return [
        *_list_prompt_fields(recipe),
        *_list_model_fields(recipe),
        *_list_sampling_fields(recipe),
        *_list_size_fields(recipe),
        *_list_capture_fields(recipe),
        *_list_control_fields(recipe),
    ]


def _list_prompt_fields(recipe: Recipe) -> list[RecipeField]:
    marks = ", ".join(mark.text for mark in recipe.marks)
    return [
        RecipeField("prompt", "prompt", recipe.prompt),
        RecipeField("prompt", "negative_prompt", recipe.negative_prompt or "none"),
        RecipeField("prompt", "marks", marks or "none"),
    ]


def _list_model_fields(recipe: Recipe) -> list[RecipeField]:
    fields = [
        RecipeField("model", "model_id", recipe.model),
        RecipeField("model", "revision", recipe.revision or DEFAULT_TEXT),
        RecipeField("model", "dtype", recipe.dtype),
        RecipeField("model", "weights", recipe.weights),
        RecipeField("model", "speed", recipe.speed),
    ]
    if recipe.transformer_file is not None:
        fields.insert(4, RecipeField("model", "transformer_file", PurePath(recipe.transformer_file.path).name))
    if recipe.magnitudes:
        fields.append(RecipeField("model", "magnitudes", format_count(len(recipe.magnitudes), "step")))
    return fields


def _list_sampling_fields(recipe: Recipe) -> list[RecipeField]:
    fields = [
        RecipeField("sampling", "sampler", recipe.sampler),
        RecipeField("sampling", SEED_FIELD, str(recipe.seed)),
        RecipeField("sampling", "steps", str(recipe.steps)),
        RecipeField("sampling", "cfg_scale", _format_number(recipe.guidance_scale)),
        RecipeField("sampling", "flow_shift", _format_number(recipe.flow_shift)),
    ]
    if recipe.guidance_scale_2 is not None:
        cfg_scale_2 = _format_number(recipe.guidance_scale_2)
        fields.insert(4, RecipeField("sampling", "cfg_scale_2", cfg_scale_2))
    return fields


def _list_size_fields(recipe: Recipe) -> list[RecipeField]:
    return [
        RecipeField("size", "width", str(recipe.width), "px"),
        RecipeField("size", "height", str(recipe.height), "px"),
        RecipeField("size", "frames", str(recipe.frames)),
        RecipeField("size", "fps", str(recipe.fps), "frames/s"),
        RecipeField("size", "duration", _format_number(round(recipe.frames / recipe.fps, 2)), "s"),
    ]


def _list_capture_fields(recipe: Recipe) -> list[RecipeField]:
    """Return the settings of the captures, except of captures that are off."""
    fields = [
        RecipeField("captures", "trajectory", format_field_value(recipe.capture.geometry)),
        RecipeField("captures", "store_latents", format_field_value(recipe.capture.latents)),
    ]
    if recipe.capture.latents:
        names = SETTING_BY_FIELD[TRAJECTORY.name].items()
        fields += [
            RecipeField("captures", setting, format_field_value(getattr(recipe.capture, name)), part=TRAJECTORY.name)
            for name, setting in names
            if name != "latents"
        ]
    for kind in CAPTURES:
        if kind.name == TRAJECTORY.name:
            continue
        request = recipe.capture.find_request(kind.name)
        fields.append(RecipeField("captures", f"store_{kind.name}", format_field_value(request is not None)))
        if request is not None:
            setting_by_field = SETTING_BY_FIELD.get(kind.name, {})
            fields += [
                RecipeField("captures", setting_by_field.get(name, name), format_field_value(value), part=kind.name)
                for name, value in request.model_dump(mode="json").items()
            ]
    return fields


def _list_control_fields(recipe: Recipe) -> list[RecipeField]:
    fields = []
    if recipe.weighting is not None:
        weights = ", ".join(f"{mark.text} {_format_number(mark.weight)}" for mark in recipe.marks)
        fields += [
            RecipeField("controls", "embedding_method", recipe.weighting),
            RecipeField("controls", "word_weights", weights),
        ]
    for control_name, values in recipe.list_control_values().items():
        fields += [
            RecipeField("controls", name, format_field_value(value), part=control_name)
            for name, value in values.items()
        ]
    return fields or [RecipeField("controls", "controls", "none")]


def list_video_fields(manifest: "Manifest", entry: "VideoEntry") -> list[RecipeField]:
    """Return the identifier of a video, and the facts about its batch that its recipe lacks."""
    facts = {
        "id": entry.id,
        "batch_created": format_full_date(manifest.created),
        "device": manifest.config.get("model_settings", {}).get("device", ""),
        "memory_plan": entry.memory_plan or "",
        "wantui": manifest.wantui,
    }
    return [RecipeField(VIDEO_GROUP, name, str(value)) for name, value in facts.items() if value]


def format_field_value(value: Any) -> str:
    """Return the text of a value as the tables show it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _format_number(value)
    return "none" if value is None else str(value)


def _format_number(value: float) -> str:
    return f"{value:.6g}"


@dataclass(frozen=True)
class FieldDifference:
    """A field in which recipes differ."""

    field: RecipeField
    values: tuple[str, ...]
    """Value in each recipe; a dash where the recipe lacks the field."""


@dataclass(frozen=True)
class RecipeComparison:
    """Fields in which recipes differ, and fields that are equal in all of them."""

    differences: tuple[FieldDifference, ...]
    """In the order of `GROUPS`."""
    equal_fields: tuple[RecipeField, ...]
    has_equal_digests: bool

    @property
    def summary(self) -> str:
        """Return how the recipes differ, in one sentence."""
        count = len(self.differences)
        if not count:
            return (
                "the recipes are identical"
                if self.has_equal_digests
                else "the recipes differ in details that only the JSON shows"
            )
        subject = f"only the {self.differences[0].field.label} differs" if count == 1 else f"{count} fields differ"
        return f"{subject}; {len(self.equal_fields)} fields are equal"


def compare_recipes(recipes: Sequence[Recipe]) -> RecipeComparison:
    """Compare the fields of recipes."""
    fields_by_recipe = [{field.full_name: field for field in list_recipe_fields(r)} for r in recipes]
    field_by_name = {name: field for fields in reversed(fields_by_recipe) for name, field in fields.items()}
    differences = []
    for name, field in sorted(field_by_name.items(), key=lambda item: GROUPS.index(item[1].group)):
        values = tuple(fields[name].value if name in fields else "–" for fields in fields_by_recipe)
        if len(set(values)) > 1:
            differences.append(FieldDifference(field, values))
    different_names = {difference.field.full_name for difference in differences}
    equal_fields = tuple(field for name, field in fields_by_recipe[0].items() if name not in different_names)
    return RecipeComparison(tuple(differences), equal_fields, len({recipe.digest for recipe in recipes}) == 1)
