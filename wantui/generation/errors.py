"""Errors of loading a pipeline; each text gives the remedy."""

from wantui.errors import UserError


class NotLoadedError(UserError):
    """Raised if no pipeline could be loaded."""


class LoadError(NotLoadedError):
    """Raised for weights that cannot be loaded or do not work."""


class OverwrittenWeightsError(LoadError):
    """Raised if a weight file was overwritten while in use; later results would come from changed weights."""


class NoSuchDeviceError(NotLoadedError):
    """Raised for a device that this machine does not have."""

    exit_code = 3


class NotFiniteError(RuntimeError):
    """Raised for NaN or infinity; the message names the tensor."""
