"""Events shared by the commands that evaluate or decode with the model of stored videos. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelLoadStarted:
    """Event: a model or its VAE is being loaded; this can take minutes."""

    model: str
    device: str


@dataclass(frozen=True)
class VideoLeftOut:
    """Event: a video cannot be used."""

    name: str
    reason: str
