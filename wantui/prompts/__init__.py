"""Prompt templates: their grammar and their expansion to variations. No torch here."""

from wantui.prompts.expand import (
    DEFAULT_MAX_VARIATIONS,
    Choice,
    Mark,
    TooManyVariationsError,
    Variation,
    count_variations,
    expand_template,
)
from wantui.prompts.parse import Template, TemplateError, parse_template

__all__ = [
    "DEFAULT_MAX_VARIATIONS",
    "Choice",
    "Mark",
    "Template",
    "TemplateError",
    "TooManyVariationsError",
    "Variation",
    "count_variations",
    "expand_template",
    "parse_template",
]
