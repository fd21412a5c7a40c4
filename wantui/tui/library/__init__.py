"""Batches, matrix, thumbnails and search of the Library screen."""
