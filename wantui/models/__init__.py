"""Wan models: the catalogue, downloads, tokenizers, and the bundled model nano."""
