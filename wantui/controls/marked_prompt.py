"""Prompts with marked words, as recipes store them."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_WORD_WEIGHT = 100
WordWeight = Annotated[float, Field(ge=0, le=MAX_WORD_WEIGHT, allow_inf_nan=False)]


class PromptMark(BaseModel):
    """Marked text of a prompt: `prompt[start:end]` is `text`."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    text: str
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    weight: WordWeight = 1.0


class MarkedPrompt(BaseModel):
    """A prompt as the pipeline tokenises it, with its marks."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)

    prompt: str
    marks: tuple[PromptMark, ...] = ()

    @model_validator(mode="after")
    def check_marks(self) -> Self:
        """Reject a mark whose text is not at its position."""
        check_mark_texts(self.prompt, self.marks)
        return self


def check_mark_texts(prompt: str, marks: tuple[PromptMark, ...]) -> None:
    """Reject a mark whose text is not at its position.

    Raises:
        PydanticCustomError: the prompt has another text there.
    """
    for mark in marks:
        if prompt[mark.start : mark.end] != mark.text:
            raise PydanticCustomError("marks", "the text of a mark is not at its position in the prompt")
