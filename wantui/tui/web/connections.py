"""Keep connections of strangers few and short, so that they can neither lock the owner out nor fill the log."""

import asyncio
import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_exceptions import HTTPException

MAX_UNAUTHENTICATED = 32
"""Connections at a time that have not shown the cookie; the oldest is closed for a new one."""
AUTHENTICATION_SECONDS = 5.0
"""Time that a connection has to show the cookie, in seconds."""


class ConnectionLimiter:
    """A protocol factory for `loop.create_server` that limits unauthenticated connections.

    Any user of the machine can connect to the loopback address. Without a limit, idle connections exhaust the file
    descriptors of the process.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._unauthenticated: dict[web.RequestHandler, None] = {}
        """Connections that have not shown the cookie, oldest first."""

    def __call__(self) -> web.RequestHandler:
        connection = self._server()
        self._unauthenticated[connection] = None
        asyncio.get_running_loop().call_later(AUTHENTICATION_SECONDS, self._close, connection)
        while len(self._unauthenticated) > MAX_UNAUTHENTICATED:
            self._close(next(iter(self._unauthenticated)))
        return connection

    def admit(self, connection: web.RequestHandler) -> None:
        """Stop counting a connection as a stranger's: it has shown the cookie."""
        self._unauthenticated.pop(connection, None)

    def _close(self, connection: web.RequestHandler) -> None:
        if connection in self._unauthenticated:
            del self._unauthenticated[connection]
            _force_close(connection, tries=10)


def _force_close(connection: web.RequestHandler, tries: int) -> None:
    if connection.transport is None and tries:  # it was accepted in this turn of the loop and is not connected yet
        asyncio.get_running_loop().call_soon(_force_close, connection, tries - 1)
    connection.force_close()


class OneLineErrorFilter(logging.Filter):
    """Reduce aiohttp's reports to a line; drop those of malformed requests, which anybody can send by the thousand."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (HttpProcessingError, HTTPException, ConnectionError, TimeoutError)):
            return False
        if error is not None:
            record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}: {error}", ()
            record.exc_info = record.exc_text = None
        return True
