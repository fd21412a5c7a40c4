"""Prompt templates: the grammar, and the variations that a template expands to. No torch here."""

from wantui.prompts.expand import DEFAULT_LIMIT, Choice, Mark, TooManyVariationsError, Variation, count, expand
from wantui.prompts.parse import Template, TemplateError, parse

__all__ = [
    "DEFAULT_LIMIT",
    "Choice",
    "Mark",
    "Template",
    "TemplateError",
    "TooManyVariationsError",
    "Variation",
    "count",
    "expand",
    "parse",
]
