"""Prompt templates: their grammar and their expansion to variations. No torch here."""

from wantui.prompts.expand import (
    DEFAULT_MAX_VARIATIONS,
    Choice,
    Mark,
    ScheduledPrompt,
    TooManyVariationsError,
    Variation,
    count_variations,
    expand_template,
    list_marks,
    list_prompts,
)
from wantui.prompts.joint_expansion import expand_schedule
from wantui.prompts.parse import Template, TemplateError, parse_template

__all__ = [
    "DEFAULT_MAX_VARIATIONS",
    "Choice",
    "Mark",
    "ScheduledPrompt",
    "Template",
    "TemplateError",
    "TooManyVariationsError",
    "Variation",
    "count_variations",
    "expand_schedule",
    "expand_template",
    "list_marks",
    "list_prompts",
    "parse_template",
]
