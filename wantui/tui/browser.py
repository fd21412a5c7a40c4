"""The same application in a browser, through textual-serve: on the loopback address, for whoever has the token.

The token is for one use: the first request that brings it gets a cookie, and it is worth nothing after that. Requests
that name another host than this one are refused, so that no page of another site can reach us.
"""

import hmac
import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable

from aiohttp import web
from textual_serve.server import Server

LOOPBACK = "127.0.0.1"
COOKIE = "wantui"
HOSTS = ("127.0.0.1", "localhost", "[::1]")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BrowserServer(Server):
    """Serves `wantui` to one browser; each tab is an application of its own over the same queue."""

    def __init__(self, port: int, arguments: tuple[str, ...] = ()) -> None:
        command = shlex.join([sys.executable, "-m", "wantui", *arguments])
        super().__init__(command, host=LOOPBACK, port=port, title="wantui")
        self.token: str | None = secrets.token_urlsafe(24)
        self._session = secrets.token_urlsafe(24)

    @property
    def address(self) -> str:
        """What is opened in a browser, once."""
        return f"http://localhost:{self.port}/?token={self.token}"

    async def _make_app(self) -> web.Application:
        app: web.Application = await super()._make_app()

        @web.middleware
        async def guard(request: web.Request, handler: Answer) -> web.StreamResponse:
            return await self._guard(request, handler)

        app.middlewares.append(guard)
        return app

    async def _guard(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        """Let in who has the cookie, or brings the token for the first time."""
        host = request.host.rpartition(":")[0] or request.host
        origin = request.headers.get("Origin")
        if host not in HOSTS or (origin is not None and origin.rstrip("/") != f"http://{request.host}"):
            raise web.HTTPForbidden(text="wantui answers to localhost only; use ssh -L")
        if hmac.compare_digest(request.cookies.get(COOKIE, ""), self._session):
            self.public_url = f"http://{request.host}"
            return await answer(request)
        brought = request.query.get("token", "")
        if self.token is not None and hmac.compare_digest(brought, self.token):
            self.token = None
            response = web.HTTPFound("/")
            response.set_cookie(COOKIE, self._session, httponly=True, samesite="Strict")
            raise response
        raise web.HTTPForbidden(text="this needs the address that `wantui serve` has printed, which opens once")

    async def on_startup(self, app: web.Application) -> None:
        """Nothing: the command has said where we are."""

    def initialize_logging(self) -> None:
        """Nothing: a client's log is of no use here."""
