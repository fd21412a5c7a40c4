"""Errors of loading a pipeline; each text gives the remedy."""

from wantui.errors import UserError


class NotLoadedError(UserError):
    """Raised when there is no pipeline, and no video was rendered."""


class LoadError(NotLoadedError):
    """Raised for weights that cannot be loaded or do not work; the text gives the remedy."""


class OverwrittenWeightsError(LoadError):
    """Raised when a file was overwritten while its weights were in use; results since then are of other weights."""


class NoSuchDeviceError(NotLoadedError):
    """A device that is not in this machine."""

    exit_code = 3
