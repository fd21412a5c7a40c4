"""Mixin that reports exceptions of Textual workers."""

from typing import TYPE_CHECKING

from textual.dom import DOMNode
from textual.worker import Worker, WorkerState

if TYPE_CHECKING:
    _Base = DOMNode
else:
    _Base = object


class WorkerErrorsMixin(_Base):
    """Mixin for nodes that start workers with `exit_on_error=False`, whose exceptions Textual ignores."""

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            error, action = event.worker.error, event.worker.name.replace("_", " ")
            self.app.notify(f"cannot {action}: {type(error).__name__}: {error}", severity="error", timeout=12)
