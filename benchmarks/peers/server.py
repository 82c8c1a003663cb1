"""The Restate server, which runs beside a program, and goes on when the program is killed.

It is one node with its defaults, except that it has as many leads in flight as the other systems.
Its data are in the directory of the run and go with it.
"""

from __future__ import annotations

import contextlib
import subprocess
import urllib.request
from typing import Final

from stream_app.dev.process import LOOPBACK, ChildProcesses, free_port, wait_for_answer

_START_S: Final = 60.0
_PARTITIONS: Final = 4
"""Its limit of invocations in flight holds for each partition of its own, of which it has 24 by
default.
"""
_CONFIG: Final = """
listen-mode = "tcp"
bind-ip = "{ip}"
bind-port = {node}
base-dir = "{directory}/restate"
default-num-partitions = {partitions}
disable-telemetry = true
log-disable-ansi-codes = true
[admin]
bind-port = {admin}
[ingress]
bind-port = {ingress}
[[ingress.kafka-clusters]]
name = "kafka"
brokers = ["{bootstrap}"]
[worker.invoker]
concurrent-invocations-limit = {in_flight}
"""


def start(
    children: ChildProcesses,
    binary: str,
    bootstrap: str,
    in_flight: int,
) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start the server. Return its process, and the settings that a program needs for it.

    Raises:
        StartError: it ended, or does not answer.
    """
    admin = free_port()
    config = children.directory / "restate.toml"
    log = children.directory / "restate.log"
    config.write_text(
        _CONFIG.format(
            ip=LOOPBACK,
            node=free_port(),
            directory=children.directory,
            admin=admin,
            ingress=free_port(),
            bootstrap=bootstrap,
            partitions=_PARTITIONS,
            in_flight=in_flight // _PARTITIONS,
        ),
    )
    url = f"http://{LOOPBACK}:{admin}"
    process = children.spawn([binary, "--no-logo", "--config-file", str(config)], log=log)
    wait_for_answer(
        "the Restate server",
        process,
        lambda: _answers(url),
        log=log,
        timeout_s=_START_S,
    )
    return process, {"SERVER": url, "PORT": str(free_port())}


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False
