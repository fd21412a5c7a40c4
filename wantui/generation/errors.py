"""Errors of loading a pipeline; each text says what to do."""

from wantui.errors import UserError


class NotLoadedError(UserError):
    """There is no pipeline, and nothing was made."""


class LoadError(NotLoadedError):
    """Weights that cannot be loaded or do not work; the text says what to do."""


class OverwrittenWeightsError(LoadError):
    """A file was overwritten while its weights were in use; what was made since is of other weights."""


class NoSuchDeviceError(NotLoadedError):
    """A device that is not in this machine."""

    exit_code = 3
