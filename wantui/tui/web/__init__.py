"""HTTP server that runs the terminal application in a browser: one application process per tab."""

from wantui.tui.web.server import LOOPBACK, WebServer

__all__ = ["LOOPBACK", "WebServer"]
