"""wantui serve: the terminal application in a browser."""

import asyncio
import socket

import click

from wantui.cli.types import WholeNumber
from wantui.errors import UserError


@click.command("serve")
@click.option("--port", default=8000, show_default=True, type=WholeNumber(1, 65535), help="TCP port to listen on.")
def command(port: int) -> None:
    """Serve the application to a browser on this machine, by a link that works once.

    It listens on 127.0.0.1 only. From elsewhere: ssh -L 8000:127.0.0.1:8000 HOST, then open the printed address.
    Closing the browser, or ending this with Ctrl-C, changes nothing for the engine.
    """
    from wantui.tui.web import LOOPBACK, WebServer

    try:
        listening = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise UserError(f"cannot listen on port {port}: {error.strerror}. Choose another with --port.") from None

    def announce(address: str) -> None:
        click.echo(f"opened in a browser. For another browser:\n{address}", err=True)

    server = WebServer(port, announce=announce)
    click.echo("Open this address. It works once, and is for you alone:", err=True)
    click.echo(server.address)
    with listening:
        asyncio.run(server.run(listening))
