"""Settings of one bend: its words, the transform of their attention maps, and where it applies."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from wantui.controls.bend_transforms import (
    TRANSFORM_BY_MODE,
    BendMode,
    BendTransform,
    BlurSigma,
    Cycles,
    Degrees,
    Factor,
    ScaleFactor,
    Share,
    SharpenAmount,
    Shift,
    list_parameter_names,
)
from wantui.keyframes import parse_moment_range
from wantui.section import CONFIG_FILE_CONTEXT, DescribedModel, TextParsingModel

MAX_BLOCK_INDEX = 999

Border = Literal["edge", "zero", "reflect"]
"""Values outside the frame: the nearest value in it, zero, or mirrored at the side of the frame."""
BentPasses = Literal["cond", "uncond", "both"]
WordText = Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]
Strength = Annotated[float, Field(ge=-10, le=10)]


class BendSettings(DescribedModel, TextParsingModel):
    """One bend: its words, the transform of their maps, and where it applies."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")] | None = None
    """Name of the bend, unique in the list; empty: the first word, with a number if it occurs again."""
    words: Annotated[tuple[WordText, ...], Field(min_length=1)]
    """Words or phrases of the prompt, as written there; `all`: every token. If the template marks a word, only the
    marked occurrences are bent."""
    mode: BendMode
    """Transform of the maps; the parameters that begin with its name belong to it."""
    amplify_factor: Factor | None = None
    """amplify: factor of the map, -100 to 100."""
    scale_factor: ScaleFactor | None = None
    """scale: factor about the centre, 0.01 to 100; above 1 enlarges."""
    rotate_degrees: Degrees | None = None
    """rotate: degrees counter-clockwise as seen, -360 to 360."""
    translate_x: Shift | None = None
    """translate: shift as a share of the width, -1 to 1; positive is right."""
    translate_y: Shift | None = None
    """translate: shift as a share of the height, -1 to 1; positive is down."""
    flip_horizontal: bool | None = None
    """flip: exchange left and right."""
    flip_vertical: bool | None = None
    """flip: exchange top and bottom."""
    blur_sigma: BlurSigma | None = None
    """blur: standard deviation in positions, 0 to 100."""
    sharpen_amount: SharpenAmount | None = None
    """sharpen: multiple of the difference from the blurred map, 0 to 100; negative results become 0."""
    sharpen_sigma: Annotated[float, Field(gt=0, le=100)] | None = None
    """sharpen: standard deviation of the blur in positions; empty: 1."""
    region_x1: Share | None = None
    """region: left side, as a share of the width from 0 to 1; empty: 0."""
    region_y1: Share | None = None
    """region: top side, as a share of the height from 0 to 1; empty: 0."""
    region_x2: Share | None = None
    """region: right side, as a share of the width from 0 to 1; empty: 1."""
    region_y2: Share | None = None
    """region: bottom side, as a share of the height from 0 to 1; empty: 1."""
    region_feather: Share | None = None
    """region: width of the ramp across each side, as a share of the frame; empty: 0."""
    region_part: Literal["keep", "remove"] | None = None
    """region: keep the map only inside (keep, the default), or remove it there."""
    frequency_low: Cycles | None = None
    """frequency: lowest frequency that is kept, in cycles per frame; empty: 0."""
    frequency_high: Cycles | None = None
    """frequency: highest frequency that is kept, in cycles per frame; empty: no limit."""
    strength: Strength = 1.0
    """Share of the change that is applied, -10 to 10: 0 changes nothing, 1 replaces the map."""
    blocks: str | None = None
    """Blocks of the transformer, such as `0..9, 14`; empty: all."""
    steps: str | None = None
    """First and last step, as indices (`0..9`), percentages (`0%..40%`) or noise levels (`sigma 1..0.8`); empty: all
    steps."""
    border: Border | None = None
    """Values that move in from outside of the frame, for scale, rotate, translate, blur and sharpen. edge (the
    default): the nearest value. zero. reflect: mirrored."""
    renormalise: bool = False
    """Divide the attention of every position by its sum after the bend, so that it is 1 again."""
    passes: BentPasses = "cond"
    """Passes in which the words of their prompt are bent. cond: with the prompt. uncond: with the negative prompt."""
    padding: bool = False
    """Also bend the padding after the end token."""
    if_missing: Literal["refuse", "skip"] = "refuse"
    """refuse: every variation must have all words. skip: a word that a variation lacks is not bent there."""

    @model_validator(mode="before")
    @classmethod
    def reject_unusable_values(cls, values: Any) -> Any:
        """Reject unknown keys, naming the valid keys; reject booleans in place of numbers or text."""
        if not isinstance(values, dict):
            return values
        for key, value in values.items():
            field = cls.model_fields.get(str(key))
            if field is None:
                parameters = list_parameter_names(values["mode"]) if values.get("mode") in TRANSFORM_BY_MODE else []
                common_keys = [name for name in cls.model_fields if not name.startswith(tuple(TRANSFORM_BY_MODE))]
                valid_keys = ", ".join([*common_keys, *(parameters or ["the parameters of the mode"])])
                message = f"unknown key {str(key)[:100]!r}; valid keys here: {valid_keys}"
                raise ValueError(message)
            if isinstance(value, bool) and bool not in (field.annotation, *getattr(field.annotation, "__args__", ())):
                remedy = 'in "quotes" if it is a word' if key in ("words", "name") else "as a number or text"
                raise ValueError(f"{key} should not be true or false; write it {remedy}")
        return values

    @field_validator("words", mode="before")
    @classmethod
    def accept_one_word(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("blocks", mode="before")
    @classmethod
    def accept_block_lists(cls, value: Any) -> Any:
        """Convert a list or number to text, and check it."""
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str):
            parse_blocks(text)
        return text

    @field_validator("steps", mode="before")
    @classmethod
    def check_steps(cls, value: Any) -> Any:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str):
            parse_moment_range(text)
        return text

    @model_validator(mode="after")
    def check_parameters(self) -> Self:
        """Reject parameters of other modes, a mode without parameters, and a border without effect."""
        valid_names = list_parameter_names(self.mode)
        for mode in TRANSFORM_BY_MODE:
            for name in list_parameter_names(mode):
                if mode != self.mode and getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect with mode {self.mode}. Remove it")
        if all(getattr(self, name) is None for name in valid_names):
            raise ValueError(f"mode {self.mode} needs {' or '.join(valid_names)}")
        transform = self.build_transform()
        if self.border is not None and not transform.needs_border_mode:
            raise ValueError(f"border has no effect with mode {self.mode}. Remove it")
        return self

    @model_serializer(mode="wrap")
    def omit_defaults(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Omit default values in config files, because most parameters belong to other modes."""
        values: dict[str, Any] = handler(self)
        if info.context != CONFIG_FILE_CONTEXT:
            return values
        fields = type(self).model_fields
        return {name: value for name, value in values.items() if value != fields[name].default}

    def build_transform(self) -> BendTransform:
        """Return the transform of the mode, with its parameters."""
        parameters = {name: getattr(self, name) for name in list_parameter_names(self.mode)}
        given_parameters = {name: value for name, value in parameters.items() if value is not None}
        try:
            return TRANSFORM_BY_MODE[self.mode].model_validate(given_parameters)
        except ValidationError as error:
            details = error.errors()[0]
            if details["type"] == "missing":
                raise ValueError(f"mode {self.mode} needs {details['loc'][0]}") from None
            raise ValueError(details["msg"]) from None


def parse_blocks(text: str) -> tuple[int, ...]:
    """Parse blocks such as `0..9, 14` to rising indices.

    Raises:
        ValueError: the text is not a list of indices and ranges; names the part.
    """
    blocks: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:\s*\.\.\s*([0-9]{1,6}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > MAX_BLOCK_INDEX:
            message = f"blocks: cannot read {part.strip()[:40]!r}. Write indices from 0 and ranges: 0..9, 14"
            raise ValueError(message)
        blocks.update(range(first, last + 1))
    return tuple(sorted(blocks))


def list_bend_names(bends: Sequence[BendSettings]) -> tuple[str, ...]:
    """Return the unique names of bends: the given name, or the first word, with a number if the word is taken."""
    taken_names = {bend.name for bend in bends if bend.name is not None}
    names = []
    for bend in bends:
        word = bend.words[0]
        candidates = (word, *(f"{word}-{number}" for number in range(2, len(bends) + 2)))
        names.append(bend.name or next(name for name in candidates if name not in taken_names))
        taken_names.add(names[-1])
    return tuple(names)
