"""Preview of a batch of nano with chosen settings."""

from wantui.config import OptionValue, load_config
from wantui.planning import BatchPreview, preview_batch


def preview_nano_batch(template: str, **settings: str) -> BatchPreview:
    options = {key: OptionValue(key, value) for key, value in settings.items()}
    return preview_batch(load_config("nano", (), options), template)
