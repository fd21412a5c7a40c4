"""Rows, previews and charts of the Monitor screen."""
