"""`stream-app open`: open the board in a browser, or print how to reach it from another machine."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import webbrowser
from collections.abc import Mapping
from urllib.parse import urlsplit

from stream_app.cli.base import COMMON, OK, Common, show, show_json
from stream_app.client.lookup import check_board
from stream_app.domain.hosts import is_loopback_url


def open_board(*, common: Common = COMMON) -> int:
    """Open the board in a browser: lanes, leads, dead letters, books and commands, live.

    Where there is no browser, it prints the command that makes the board reachable from your own machine.

    example:
      stream-app open
    """
    settings = common.settings()
    url = f"{settings.board_url}/board"
    check_board(settings.board_url)
    here = is_loopback_url(url)
    tunnel = tunnel_to(url, os.environ) if here else ""
    opened = not common.json and _has_browser(os.environ) and webbrowser.open(url)
    if common.json:
        show_json({"url": url, "tunnel": tunnel})
    else:
        show(f"The board: {url}")
        if tunnel and not opened:
            show(f"From your own machine: {tunnel}")
            show("then open the same address there.")
    return OK


def tunnel_to(url: str, environ: Mapping[str, str]) -> str:
    """Return the ssh command that forwards the board's port to the machine of the operator.

    SSH_CONNECTION has the address that the operator reached.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    words = environ.get("SSH_CONNECTION", "").split()
    server = words[2] if len(words) == 4 else socket.gethostname()
    inside = f"[{host}]" if ":" in host else host
    return f"ssh -N -L {port}:{inside}:{port} {getpass.getuser()}@{server}"


def _has_browser(environ: Mapping[str, str]) -> bool:
    """Return True if a browser would open on the operator's own screen."""
    screen = sys.platform == "darwin" or environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    if not screen or "SSH_CONNECTION" in environ:
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
