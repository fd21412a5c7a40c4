"""wantui: a terminal application for Wan text-to-video generation and the study of its latent trajectories."""

__version__ = "0.2.0"
