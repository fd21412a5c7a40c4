"""Transforms of attention bending: one for each mode, with its parameters."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from wantui.section import DescribedModel

Factor = Annotated[float, Field(ge=-100, le=100)]
ScaleFactor = Annotated[float, Field(ge=0.01, le=100)]
Degrees = Annotated[float, Field(ge=-360, le=360)]
Shift = Annotated[float, Field(ge=-1, le=1)]
BlurSigma = Annotated[float, Field(ge=0, le=100)]
SharpenAmount = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Cycles = Annotated[float, Field(ge=0, le=10_000)]


class BendTransform(DescribedModel):
    """Base class of the transforms; a transform with identity parameters changes no map."""

    model_config = ConfigDict(defer_build=True)

    @property
    def is_identity(self) -> bool:
        """Return whether the parameters leave every map unchanged."""
        raise NotImplementedError

    @property
    def is_linear(self) -> bool:
        """Return whether the transform of a sum is the sum of the transforms."""
        return True

    @property
    def needs_border_mode(self) -> bool:
        """Return whether the transform needs values beyond the frame, which the setting `border` defines."""
        return False


class Amplify(BendTransform):
    """Multiply the map."""

    mode: Literal["amplify"] = "amplify"
    amplify_factor: Factor
    """Factor of the map: 0 removes the word, 1 changes nothing."""

    @property
    def is_identity(self) -> bool:
        return self.amplify_factor == 1


class Scale(BendTransform):
    """Enlarge or shrink the map about the centre of the frame."""

    mode: Literal["scale"] = "scale"
    scale_factor: ScaleFactor
    """Factor of all distances from the centre: above 1 enlarges."""

    @property
    def is_identity(self) -> bool:
        return self.scale_factor == 1

    @property
    def needs_border_mode(self) -> bool:
        return True


class Rotate(BendTransform):
    """Rotate the map about the centre of the frame."""

    mode: Literal["rotate"] = "rotate"
    rotate_degrees: Degrees
    """Angle in degrees, counter-clockwise as seen."""

    @property
    def is_identity(self) -> bool:
        return self.rotate_degrees % 360 == 0

    @property
    def needs_border_mode(self) -> bool:
        return True


class Translate(BendTransform):
    """Move the map."""

    mode: Literal["translate"] = "translate"
    translate_x: Shift = 0.0
    """Shift as a share of the width; positive is right."""
    translate_y: Shift = 0.0
    """Shift as a share of the height; positive is down."""

    @property
    def is_identity(self) -> bool:
        return self.translate_x == 0 and self.translate_y == 0

    @property
    def needs_border_mode(self) -> bool:
        return True


class Flip(BendTransform):
    """Mirror the map."""

    mode: Literal["flip"] = "flip"
    flip_horizontal: bool = False
    """Exchange left and right."""
    flip_vertical: bool = False
    """Exchange top and bottom."""

    @property
    def is_identity(self) -> bool:
        return not (self.flip_horizontal or self.flip_vertical)


class Blur(BendTransform):
    """Blur the map with a Gaussian, whose kernel ends at four sigma."""

    mode: Literal["blur"] = "blur"
    blur_sigma: BlurSigma
    """Standard deviation in positions; a position is a patch of 16 x 16 pixels (32 x 32 for Wan 2.2 5B)."""

    @property
    def is_identity(self) -> bool:
        return self.blur_sigma == 0

    @property
    def needs_border_mode(self) -> bool:
        return True


class Sharpen(BendTransform):
    """Add the difference from the blurred map, and set negative values to zero."""

    mode: Literal["sharpen"] = "sharpen"
    sharpen_amount: SharpenAmount
    """Multiple of the difference that is added."""
    sharpen_sigma: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Standard deviation of the blur in positions."""

    @property
    def is_identity(self) -> bool:
        return self.sharpen_amount == 0

    @property
    def is_linear(self) -> bool:
        return False

    @property
    def needs_border_mode(self) -> bool:
        return True


class Region(BendTransform):
    """Keep the map only inside or only outside a rectangle."""

    mode: Literal["region"] = "region"
    region_x1: Share = 0.0
    """Left side as a share of the width."""
    region_y1: Share = 0.0
    """Top side as a share of the height."""
    region_x2: Share = 1.0
    """Right side as a share of the width."""
    region_y2: Share = 1.0
    """Bottom side as a share of the height."""
    region_feather: Share = 0.0
    """Width of the linear ramp across each side, as a share of the frame; sides at the edge of the frame have none."""
    region_part: Literal["keep", "remove"] = "keep"
    """keep: the map becomes zero outside of the rectangle. remove: inside."""

    @model_validator(mode="after")
    def check_rectangle(self) -> Self:
        """Reject an empty rectangle."""
        if self.region_x1 >= self.region_x2 or self.region_y1 >= self.region_y2:
            raise PydanticCustomError("region", "region_x1 should be below region_x2, and region_y1 below region_y2")
        return self

    @property
    def is_identity(self) -> bool:
        sides = (self.region_x1, self.region_y1, self.region_x2, self.region_y2)
        return self.region_part == "keep" and sides == (0, 0, 1, 1)


class Frequency(BendTransform):
    """Keep a band of spatial frequencies of the map; values may become negative."""

    mode: Literal["frequency"] = "frequency"
    frequency_low: Cycles = 0.0
    """Lowest frequency that is kept, in cycles per frame; 0 keeps the mean of the map."""
    frequency_high: Cycles | None = None
    """Highest frequency that is kept, in cycles per frame; empty: no limit."""

    @model_validator(mode="after")
    def check_band(self) -> Self:
        """Reject an empty band."""
        if self.frequency_high is not None and self.frequency_low > self.frequency_high:
            raise PydanticCustomError("frequency", "frequency_low should not be above frequency_high")
        return self

    @property
    def is_identity(self) -> bool:
        return self.frequency_low == 0 and self.frequency_high is None


AnyBendTransform = Annotated[
    Amplify | Scale | Rotate | Translate | Flip | Blur | Sharpen | Region | Frequency, Field(discriminator="mode")
]
BendMode = Literal["amplify", "scale", "rotate", "translate", "flip", "blur", "sharpen", "region", "frequency"]
TRANSFORM_BY_MODE: dict[BendMode, type[BendTransform]] = {
    "amplify": Amplify,
    "scale": Scale,
    "rotate": Rotate,
    "translate": Translate,
    "flip": Flip,
    "blur": Blur,
    "sharpen": Sharpen,
    "region": Region,
    "frequency": Frequency,
}


def list_parameter_names(mode: BendMode) -> list[str]:
    """Return the names of a mode's parameters."""
    return [name for name in TRANSFORM_BY_MODE[mode].model_fields if name != "mode"]
