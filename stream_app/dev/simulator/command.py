"""The simulator as a process: prints one JSON line when it listens, and stops cleanly at a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec

from stream_app.dev.simulator import control
from stream_app.dev.simulator.script import FAULTS, Script
from stream_app.dev.simulator.server import Simulator

_log = logging.getLogger("stream_app.dev.simulator")

_KINDS = "\n".join(
    f"    {kind:23}{', '.join(f'{name} = {value!r}' for name, value in parameters.items())}".rstrip()
    for kind, parameters in FAULTS.items()
)
_API = (control.__doc__ or "").strip()
HELP = f"""\
When it listens it prints one JSON line on stdout: url, control_url (the control
API on a port that the fault `refuse` leaves open), pid and ledger. Logs go to
stderr. SIGTERM and SIGINT end it with the ledger complete. Exit codes: 0 ended
by a signal; 1 cannot listen or write the ledger; 2 a wrong script or port.

example script:

    seed = 7
    limits = {{ rate_per_s = 10, burst = 20, retry_after = "seconds" }}

    [workspaces.acme]
    credits = 6000
    actions = 15000

    [table]                      # the default for all webhooks
    latency = {{ scale = 0.01 }}
    callback = {{ headers = {{ x-token = "{{{{callback_token}}}}" }}, retries = 2 }}

    [webhooks.acme--crm]
    token = "s3cret"
    dedupe_on = "email"

    [[fault]]
    at_s = 10
    for_s = 15
    kind = "status_after"
    status = 502
    share = 0.2

kinds of faults, and their keys besides at_s, for_s, share, workspace, webhook:

{_KINDS}

example of control:

    curl -X POST URL/control/faults -d '{{"kind": "rate_limited", "for_s": 5}}'

{_API}
"""


async def run(script: Script, host: str, port: int, control_port: int, ledger: Path | None) -> None:
    """Run a simulator until SIGTERM or SIGINT.

    Raises:
        OSError: It cannot listen, or cannot write the ledger.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    sim = Simulator(script, ledger=ledger)
    await sim.start(host, port, control_port)
    ready = {
        "url": sim.url,
        "control_url": sim.control_url,
        "pid": os.getpid(),
        "ledger": str(ledger) if ledger else None,
    }
    sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
    sys.stdout.flush()
    await done.wait()
    _log.info("ending, %d ledger lines", sim.ledger.seq)
    await sim.stop()
