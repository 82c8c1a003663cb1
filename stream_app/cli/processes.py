"""`stream-app worker`, `gateway`, `board` and `trace`, which run until SIGTERM or SIGINT.

`open` shows the board.
"""

import getpass
import os
import socket
import sys
import webbrowser
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

from aiokafka.errors import KafkaError
from cyclopts import Parameter

from stream_app.cli.base import COMMON, OK, Common
from stream_app.client.results.lookup import check_board, way_in
from stream_app.config.board_files import token_of_reader
from stream_app.domain.model.addresses import is_loopback_url
from stream_app.domain.model.errors import BrokerUnavailable, SettingsError
from stream_app.kafka.connection import LOOK
from stream_app.ops import logs

Log = Annotated[
    logs.LogFormat | None,
    Parameter(help="format of the log on stderr (default: console on a terminal, else json)"),
]


def worker(*, log: Log = None, common: Common = COMMON) -> int:
    """Send leads to Clay. Only workers POST to Clay and write state. Several can run at once.

    example:
      stream-app worker --config stream_app.toml
    """
    from stream_app.services.worker import run_worker

    read = partial(common.settings, "clay")
    settings = read()
    return run_process(log, run_worker(settings, read), settings.log_level)


def gateway(*, log: Log = None, common: Common = COMMON) -> int:
    """Receive Clay's callbacks over HTTP and publish them on Kafka. Several can run at once.

    example:
      stream-app gateway --config stream_app.toml
    """
    from stream_app.services.gateway import run_gateway

    read = partial(common.settings, "gateway")
    settings = read()
    return run_process(log, run_gateway(settings, read), settings.log_level)


def board(*, log: Log = None, common: Common = COMMON) -> int:
    """Serve the board and the look-up API, and take operators' commands.

    Run one; `stream-app open` opens it.

    example:
      stream-app board --config stream_app.toml
    """
    from stream_app.services.board import run_board

    settings = common.settings("board")
    return run_process(log, run_board(settings), settings.log_level)


def trace(*, log: Log = None, common: Common = COMMON) -> int:
    """Send traces of leads to an OpenTelemetry receiver by OTLP, from the events on leads.status.

    example:
      stream-app trace --config stream_app.toml
    """
    from stream_app.services.trace import run_trace

    settings = common.settings("trace")
    return run_process(log, run_trace(settings), settings.log_level)


def run_process(
    log: logs.LogFormat | None,
    main: Coroutine[Any, Any, None],
    level: str = "info",
) -> int:
    """Run a process in a new event loop until a signal ends it. Errors are raised."""
    from stream_app.services.process import run

    logs.configure(log or ("console" if sys.stderr.isatty() else "json"), level)
    try:
        run(main)
    except KafkaError as error:  # Kafka answered at the start, but not a later request
        if not error.retriable:
            raise
        raise BrokerUnavailable(f"Kafka has stopped answering ({error}). {LOOK}") from error
    return OK


def open_board(*, token: bool = False, common: Common = COMMON) -> int:
    """Open the board in a browser: lanes, leads, dead letters, books and commands, live.

    Where there is no browser, it prints the command that makes the board reachable from your own
    machine. Without `board.token_env` the address on the terminal lets one browser in, once and
    within 60 s.

    example:
      stream-app open
      TOKEN=$(stream-app open --token)
      curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:9107/lanes

    Args:
        token: print the token that reads the board, for programs such as curl, and open nothing
    """
    settings = common.settings("api") if token else common.settings()
    if token:
        reads = token_of_reader(settings, os.environ)
        if reads is None:
            problem = (
                "this user has no token of the board: "
                "start `stream-app board`, or set board.token_env"
            )
            raise SettingsError([problem])
        common.show({"token": reads}, reads)
        return OK
    url = f"{settings.board_url}/board"
    check_board(settings.board_url)
    tunnel = tunnel_to(url, os.environ) if is_loopback_url(url) else ""
    has_browser = not common.json and _has_browser(os.environ)
    # The address lets its first reader in, so it is in no pipe, file or log.
    address = way_in(settings) if has_browser or (sys.stdout.isatty() and not common.json) else url
    opened = has_browser and webbrowser.open(address)
    lines = [f"The board: {url if opened else address}"]
    if tunnel and not opened:
        lines += [f"From your own machine: {tunnel}", "then open the same address there."]
    common.show({"url": url, "tunnel": tunnel}, *lines)
    return OK


def tunnel_to(url: str, environ: Mapping[str, str]) -> str:
    """Return the ssh command that forwards the board's port to the machine of the operator.

    SSH_CONNECTION has the address that the operator reached.
    """
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    port = parts.port or 80
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
