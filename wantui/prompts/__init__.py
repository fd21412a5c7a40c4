"""Prompt templates: the grammar, and the variations that a template expands to. No torch here."""

from wantui.prompts.expand import DEFAULT_LIMIT, Choice, Mark, TooManyVariations, Variation, count, expand
from wantui.prompts.parse import Template, TemplateError, parse

__all__ = [
    "DEFAULT_LIMIT",
    "Choice",
    "Mark",
    "Template",
    "TemplateError",
    "TooManyVariations",
    "Variation",
    "count",
    "expand",
    "parse",
]
