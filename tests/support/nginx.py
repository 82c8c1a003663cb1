"""nginx with the product's own configuration (deploy/nginx.conf): only its addresses and folders
are those of the test.

The extra `dev` brings an nginx. The variable NGINX names another, such as the oldest one that is
supported.
"""

import os
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Final, Self

import psutil

from stream_app.dev.process import (
    LOOPBACK,
    ChildProcesses,
    StartError,
    end,
    free_port,
    wait_for_answer,
)
from tests.support.pace import BUSY
from tests.support.programs import find_nginx

CONFIGURATION: Final = Path(__file__).parents[2] / "deploy" / "nginx.conf"
_START_WITHIN_S: Final = 30.0 * BUSY


class NameServer:
    """Answers for every name of `hosts` with its addresses, for one second, on a UDP port of
    loopback.
    """

    def __init__(self, hosts: dict[str, tuple[str, ...]]) -> None:
        self.hosts = hosts
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, name="names", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            asked, peer = self._socket.recvfrom(512)
            if not asked:
                return
            self._socket.sendto(self._answer(asked), peer)

    def _answer(self, asked: bytes) -> bytes:
        labels = []
        at = 12
        while length := asked[at]:
            labels.append(asked[at + 1 : at + 1 + length].decode())
            at += length + 1
        question = asked[12 : at + 5]
        addresses = self.hosts.get(".".join(labels), ())
        head = asked[:2] + struct.pack(
            ">HHHHH",
            0x8180 if addresses else 0x8183,
            1,
            len(addresses),
            0,
            0,
        )
        record = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
            for address in addresses
        )
        return head + question + record

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (LOOPBACK, self.port))
        self._thread.join(10)
        self._socket.close()


def start_nginx(children: ChildProcesses, configuration: str, port: int) -> subprocess.Popen[bytes]:
    """Start nginx in the folder of `children`, and return when it listens on the port.

    Raises StartError.
    """
    program = find_nginx()
    if program is None:
        raise StartError("no nginx: install one, or set NGINX to the path of one")
    folder = children.directory
    log = children.directory / "nginx.log"
    (folder / "nginx.conf").write_text(configuration)
    # As root, its worker would otherwise be a user who cannot enter the test's folder.
    own = f"daemon off; {'user root;' if os.geteuid() == 0 else ''}"
    argv = [program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", own]
    process = children.spawn(argv, log=log)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, port)) == 0

    wait_for_answer("nginx", process, listens, log=log, timeout_s=_START_WITHIN_S)
    return process


class Nginx:
    """nginx in front of a gateway, and of a board; a context manager.

    `port` is the gateway's at nginx, `board_port` the board's; `behind` are their own.
    `names.hosts` says where both are: tests change it. `shared` is the network whose peers have no
    limit of their own.
    """

    def __init__(
        self,
        gateway_port: int,
        board_port: int = 1,
        *,
        host: str = LOOPBACK,
        shared: str = "127.0.0.0/8",
    ) -> None:
        self.behind = {"gateway": gateway_port, "board": board_port}
        self._host = host
        self._shared = shared
        self.port = free_port()
        self.board_port = free_port()

    def __enter__(self) -> Self:
        self._children = ChildProcesses("nginx")
        self.names = NameServer(dict.fromkeys(self.behind, (self._host,)))
        try:
            self.process = start_nginx(
                self._children,
                self.configuration(self._children.directory),
                self.port,
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def configuration(self, folder: Path) -> str:
        """Return deploy/nginx.conf with the addresses and folders of the test."""
        text = CONFIGURATION.read_text(encoding="utf-8")
        for name, value in {
            "resolver 127.0.0.11 ": f"resolver {LOOPBACK}:{self.names.port} ",
            "listen 9103 ": f"listen {LOOPBACK}:{self.port} ",
            "listen 9107;": f"listen {LOOPBACK}:{self.board_port};",
            "gateway:9103;": f"gateway:{self.behind['gateway']};",
            "board:9107;": f"board:{self.behind['board']};",
            "/tmp/nginx": f"{folder}/nginx",
            "127.0.0.0/8 1;": f"{self._shared} 1;",
        }.items():
            assert name in text, f"deploy/nginx.conf has no {name!r} any more"
            text = text.replace(name, value)
        return text

    def memory_mb(self) -> float:
        """Return what its processes hold together."""
        master = psutil.Process(self.process.pid)
        return sum(float(one.memory_info().rss) for one in [master, *master.children()]) / 1e6

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "process"):
            end(self.process, grace_s=10)
        self.names.close()
        self._children.close()
