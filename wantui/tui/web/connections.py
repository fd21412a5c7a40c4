"""Limits on unauthenticated connections, so that other users can neither lock out the owner nor fill the log."""

import asyncio
import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_exceptions import HTTPException

MAX_UNAUTHENTICATED_CONNECTIONS = 32
"""Maximum number of connections without a valid cookie; a further one replaces the oldest."""
AUTHENTICATION_SECONDS = 5.0
"""Seconds after which a connection without a valid cookie is closed."""

MALFORMED_REQUEST_ERRORS = (
    HttpProcessingError,
    HTTPException,
    web.RequestPayloadError,  # a body that aiohttp cannot decode, which it reads after the response
    ConnectionError,
    TimeoutError,
)
"""Errors that a client can cause by its request."""


class ConnectionLimiter:
    """Protocol factory for `loop.create_server` that limits unauthenticated connections.

    Any user of the machine can connect to the loopback address. Without a limit, idle connections could exhaust the
    file descriptors of the process.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._unauthenticated: dict[web.RequestHandler, None] = {}
        """Connections without a valid cookie, oldest first."""

    def __call__(self) -> web.RequestHandler:
        connection = self._server()
        self._unauthenticated[connection] = None
        asyncio.get_running_loop().call_later(AUTHENTICATION_SECONDS, self._close_unauthenticated, connection)
        while len(self._unauthenticated) > MAX_UNAUTHENTICATED_CONNECTIONS:
            self._close_unauthenticated(next(iter(self._unauthenticated)))
        return connection

    def mark_authenticated(self, connection: web.RequestHandler) -> None:
        """Mark a connection as authenticated."""
        self._unauthenticated.pop(connection, None)

    def _close_unauthenticated(self, connection: web.RequestHandler) -> None:
        if connection in self._unauthenticated:
            del self._unauthenticated[connection]
            _force_close_connection(connection, tries_left=10)


def _force_close_connection(connection: web.RequestHandler, tries_left: int) -> None:
    if connection.transport is None and tries_left:  # accepted in this iteration of the event loop, not connected yet
        asyncio.get_running_loop().call_soon(_force_close_connection, connection, tries_left - 1)
    connection.force_close()


class OneLineErrorFilter(logging.Filter):
    """Logging filter that shortens aiohttp's errors to one line, and drops errors of malformed requests.

    Any user of the machine could fill the log with malformed requests.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, MALFORMED_REQUEST_ERRORS):
            return False
        if error is not None:
            record.msg, record.args = " ".join(f"{record.getMessage()}: {type(error).__name__}: {error}".split()), ()
            record.exc_info = record.exc_text = None
        return True
