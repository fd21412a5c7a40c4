"""Clips, clock and recipes of the players in half blocks and in pixels."""
