"""An action of a screen or of the application, and its keys."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """An action of a screen or of the application, and its keys."""

    id: str
    """Screen and name, such as `queue.cancel`; the key maps of users contain it."""
    key_names: str
    """Comma-separated keys; the footer shows the first."""
    textual_action: str
    """Textual action: the name of its method without `action_`, and arguments."""
    footer_label: str
    """Label in the footer."""
    help_text: str
    """Sentence in the help and the palette."""
    footer_keys: str = ""
    """Keys in the footer, such as those of two opposite actions; empty for the first key, as in a user's key map."""
    is_in_footer: bool = True
    """True if the footer shows the action."""
    has_priority: bool = False
    """True if the key also works while the user types."""
    opens_field: bool = False
    """True if the action focuses a text field; it then runs before the next key, which must reach the field."""
