"""Errors of loading a pipeline; each text says what to do."""

from wantui.errors import UserError


class NotLoaded(UserError):
    """There is no pipeline, and nothing was made."""


class LoadError(NotLoaded):
    """Weights that cannot be loaded or do not work; the text says what to do."""


class NoSuchDevice(NotLoaded):
    """A device that is not in this machine."""

    exit_code = 3
