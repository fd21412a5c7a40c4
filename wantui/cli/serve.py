"""wantui serve: serve the terminal application to a browser."""

import asyncio
import socket

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.types import WholeNumber
from wantui.errors import UserError


@click.command("serve", cls=WantuiCommand)
@click.option("--port", default=8000, show_default=True, type=WholeNumber(1, 65535), help="TCP port to listen on.")
def command(port: int) -> None:
    """Serve the terminal application to a browser.

    Prints an address that works once, and listens on 127.0.0.1 only. From another machine, run
    ssh -L 8000:127.0.0.1:8000 HOST, then open the address there. Closing the browser or stopping the server does not
    affect the engine.
    """
    from wantui.tui.web import LOOPBACK, WebServer

    try:
        listening_socket = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise UserError(
            f"cannot listen on port {port}: {error.strerror or error}. Choose another port with --port."
        ) from None

    def print_next_address(address: str) -> None:
        click.echo(f"A browser has opened the address. To use another browser, open:\n{address}", err=True)

    server = WebServer(port, announce_address=print_next_address)
    click.echo("Open this address. It works once; do not share it:", err=True)
    click.echo(server.address)
    with listening_socket:
        asyncio.run(server.serve_until_signal(listening_socket))
