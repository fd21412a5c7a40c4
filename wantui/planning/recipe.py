"""Recipe: a frozen value that determines one video."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from wantui.captures import CAPTURES, CaptureKind, CaptureRequest
from wantui.captures.attention import ATTENTION, AttentionRequest
from wantui.captures.guidance_gap import GUIDANCE_GAP, GuidanceGapRequest
from wantui.captures.trajectory import TRAJECTORY, TrajectoryRequest
from wantui.config.speeds import SpeedName
from wantui.controls import CONTROLS, ControlKind, ControlRequest
from wantui.controls.lora import LORA
from wantui.controls.marked_prompt import MarkedPrompt, PromptMark, check_mark_texts
from wantui.controls.word_weights import WORD_WEIGHTS, WeightingMethod, WordWeightsRequest
from wantui.json_files import describe_first_validation_error
from wantui.planning.model_source import ModelDtype, ModelSource, TransformerFile, WeightsForm
from wantui.planning.recipe_formats import RECIPE_FORMAT, convert_to_digest_form, escape_braces, upgrade_recipe
from wantui.samplers import SamplerName
from wantui.words import find_complete_words

CAPTURES_WITH_OWN_FIELDS = (TRAJECTORY.name, ATTENTION.name, GUIDANCE_GAP.name)
"""Captures whose requests have their own fields in `CaptureRequests`."""
PositiveInteger = Annotated[int, Field(ge=1, le=1_000_000)]
PROMPT_SEPARATOR = " → "
"""Text between the prompts of a schedule in a label."""
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


class _FrozenModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _validate_requests(
    requests: Mapping[str, Any], kind_noun: str, request_type_by_name: Mapping[str, type[BaseModel]]
) -> dict[str, Any]:
    for name in requests:
        if name not in request_type_by_name:
            raise PydanticCustomError(kind_noun, escape_braces(f"this version has no {kind_noun} {name!r}"))
    return {name: request_type_by_name[name].model_validate(request) for name, request in sorted(requests.items())}


def _drop_empty_value(serialised: dict[str, Any], key: str) -> dict[str, Any]:
    if not serialised.get(key):  # the key may be missing, because callers can exclude it
        serialised.pop(key, None)
    return serialised


class CaptureRequests(TrajectoryRequest):
    """Requests of the captures to record while a video is denoised.

    The trajectory and attention requests have their own fields, as in recipes of format 1, and so has the guidance gap,
    which is recorded by default. The requests of all other captures are in `more`, which the canonical JSON omits if it
    is empty.
    """

    geometry: bool = True
    """True if the trajectory is recorded; by default not for cached videos, because skipping alters the path."""
    attention: AttentionRequest | None = None
    guidance_gap: bool = True
    """True if the guidance gap is recorded with the trajectory. The canonical JSON omits True, so that recipes of
    earlier versions keep their digests."""
    more: dict[str, Any] = Field(default_factory=dict)
    """Requests of other captures by name."""

    @field_validator("more", mode="after")
    @classmethod
    def validate_requests(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Validate the request of each capture; reject captures that this version does not have."""
        request_type_by_name = {
            kind.name: kind.request_type for kind in CAPTURES if kind.name not in CAPTURES_WITH_OWN_FIELDS
        }
        return _validate_requests(value, "capture", request_type_by_name)

    @model_serializer(mode="wrap")
    def omit_default_captures(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit an empty `more` and the default of `guidance_gap`, so that digests of earlier recipes do not change."""
        serialised = _drop_empty_value(handler(self), "more")
        if serialised.get("guidance_gap"):
            del serialised["guidance_gap"]
        return serialised

    def find_request(self, name: str) -> CaptureRequest | None:
        """Return the request of a capture by name, or None if it is off."""
        if name == TRAJECTORY.name:
            return self if self.geometry else None
        if name == ATTENTION.name:
            return self.attention
        if name == GUIDANCE_GAP.name:
            return GuidanceGapRequest() if self.geometry and self.guidance_gap else None
        request: CaptureRequest | None = self.more.get(name)
        return request


class Recipe(_FrozenModel):
    """Everything that determines one video. Equal recipes give equal videos on the same machine and libraries."""

    format: int = RECIPE_FORMAT
    model: str
    """Short name or hub id of a catalogued model, or the path of a local directory."""
    revision: str | None
    """Commit, tag or branch of a hub model; the fingerprint of a local directory."""
    prompt: str
    """Prompt as the pipeline tokenises it: cleaned, without the syntax of marks."""
    negative_prompt: str
    marks: tuple[PromptMark, ...] = ()
    weighting: WeightingMethod | None = None
    """Method of applying word weights; None if all weights are 1."""
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)]
    sampler: SamplerName
    steps: PositiveInteger
    flow_shift: Annotated[FiniteFloat, Field(gt=0)]
    guidance_scale: FiniteFloat
    guidance_scale_2: FiniteFloat | None = None
    width: PositiveInteger
    height: PositiveInteger
    frames: PositiveInteger
    fps: PositiveInteger
    dtype: ModelDtype
    """Precision of transformer and text encoder; the VAE and norm layers are float32."""
    weights: WeightsForm = "full"
    """Form of the transformer's weights: its dtype, 8 bits, or the file's own form, widened layer by layer; each form
    gives another video."""
    transformer_file: TransformerFile | None = None
    """File of the transformer if weights are gguf."""
    speed: SpeedName = "reference"
    """reference: bit-identical to diffusers; fused: equal up to rounding; fp8, cached: another video."""
    magnitudes: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()
    """Calibrated magnitudes that decide which steps a cached video skips; without them the first block decides."""
    capture: CaptureRequests = CaptureRequests()
    controls: dict[str, Any] = Field(default_factory=dict)
    """Requests of controls by name, except word weights, which are in `marks` and `weighting`. The canonical JSON omits
    an empty value."""

    @model_validator(mode="before")
    @classmethod
    def upgrade_format(cls, value: Any) -> Any:
        """Upgrade a recipe of an earlier format, and reject unknown formats before any field is validated."""
        return upgrade_recipe(value) if isinstance(value, dict) else value

    @field_validator("controls", mode="after")
    @classmethod
    def validate_requests(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Validate the request of each control; reject controls that this version does not have."""
        return _validate_requests(
            value, "control", {kind.name: kind.request_type for kind in CONTROLS if kind is not WORD_WEIGHTS}
        )

    @model_serializer(mode="wrap")
    def omit_default_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit empty `controls`, so that digests of recipes without controls do not change."""
        return _drop_empty_value(handler(self), "controls")

    def find_control_request(self, name: str) -> ControlRequest | None:
        """Return the request of a control by name, or None if it is off."""
        if name == WORD_WEIGHTS.name:
            if self.weighting is None:
                return None
            return WordWeightsRequest(weighting=self.weighting, weights=tuple(mark.weight for mark in self.marks))
        request: ControlRequest | None = self.controls.get(name)
        return request

    @model_validator(mode="after")
    def check_consistency(self) -> Self:
        """Reject a recipe whose fields contradict each other; planned recipes never do."""
        if self.marks:  # a placeholder has no prompt
            check_mark_texts(self.prompt, self.marks)
        if (self.weights == "gguf") != (self.transformer_file is not None):
            raise PydanticCustomError("weights", "weights must be gguf if, and only if, transformer_file is set")
        return self

    def list_control_values(self) -> dict[str, dict[str, Any]]:
        """Return the displayed values of each control, by control; word weights are excluded."""
        return {
            kind.name: kind.list_shown_values(self.controls[kind.name])
            for kind in CONTROLS
            if kind.name in self.controls
        }

    @property
    def control_requests(self) -> list[tuple[ControlKind, ControlRequest]]:
        """Return the controls that are on, with their requests."""
        requests = [(kind, self.find_control_request(kind.name)) for kind in CONTROLS]
        return [(kind, request) for kind, request in requests if request is not None]

    @property
    def capture_requests(self) -> list[tuple[CaptureKind, CaptureRequest]]:
        """Return the captures that are on, with their requests."""
        requests = [(kind, self.capture.find_request(kind.name)) for kind in CAPTURES]
        return [(kind, request) for kind, request in requests if request is not None]

    @property
    def prompts(self) -> tuple[MarkedPrompt, ...]:
        """Return all prompts that the model reads: the initial prompt, then the prompts of controls."""
        later_prompts = (prompt for kind, request in self.control_requests for prompt in kind.list_prompts(request))
        return MarkedPrompt(prompt=self.prompt, marks=self.marks), *later_prompts

    @property
    def prompt_text(self) -> str:
        """Return the prompt for labels; the prompts of a schedule are joined by arrows."""
        return PROMPT_SEPARATOR.join(marked_prompt.prompt for marked_prompt in self.prompts)

    @property
    def source(self) -> ModelSource:
        """Return the source and precision of the weights."""
        lora = self.controls.get(LORA.name)
        return ModelSource(self.model, self.revision, self.dtype, self.weights, self.transformer_file, lora)

    @property
    def computation_note(self) -> str:
        """Return a note on how the computation differs from `fused` with full weights; empty if it does not."""
        remarks: list[str] = [] if self.speed == "fused" else [self.speed]
        if self.speed == "cached":
            remarks = ["cached by magnitudes" if self.magnitudes else "cached by the first block"]
        if self.transformer_file is not None:
            remarks.append(f"transformer from {PurePath(self.transformer_file.path).name}")
        elif self.weights != "full":
            remarks.append(f"weights in {self.weights}")
        if (lora := self.source.lora) is not None:
            remarks += [f"LoRA {adapter.name} {adapter.strength:g}" for adapter in lora.adapters]
        return ", ".join(remarks)

    @property
    def negative_marks(self) -> tuple[PromptMark, ...]:
        """Mark the marked words in the negative prompt where they occur as complete words, and return these marks."""
        marks = []
        marked_words = (mark.text for marked_prompt in self.prompts for mark in marked_prompt.marks)
        for word in dict.fromkeys(marked_words):
            for start, end in find_complete_words(self.negative_prompt, word):
                marks.append(PromptMark(text=word, start=start, end=end))
        return tuple(sorted(marks, key=lambda mark: mark.start))

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces."""
        return _format_canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON in format 1, which identifies the video."""
        return hashlib.sha256(
            _format_canonical_json(convert_to_digest_form(self.model_dump(mode="json"))).encode()
        ).hexdigest()


def _format_canonical_json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parse_recipe(value: Any) -> Recipe:
    """Validate a document as a recipe.

    Raises:
        ValueError: a field is invalid; names the first one.
    """
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise ValueError(describe_first_validation_error(error)) from None
