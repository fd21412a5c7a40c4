"""Number of text positions of Wan's transformers. Imports nothing, because captures and controls use it."""

TEXT_POSITION_COUNT = 512
"""Number of text positions of every transformer, including padding; the default of `encode_prompt` would be 226."""
