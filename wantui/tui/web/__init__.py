"""The terminal application in a browser: an HTTP server on the loopback address, one application for each tab."""

from wantui.tui.web.server import LOOPBACK, WebServer

__all__ = ["LOOPBACK", "WebServer"]
