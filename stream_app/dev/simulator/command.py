"""The simulator as a program: prints one JSON line when it listens, and stops cleanly at a signal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec

from stream_app.dev.simulator import control
from stream_app.dev.simulator.parsing import ScriptError, load_script
from stream_app.dev.simulator.script import FAULTS, Script
from stream_app.dev.simulator.server import Simulator

EXIT_OK = 0
EXIT_CANNOT_LISTEN = 1
EXIT_USAGE = 2

_log = logging.getLogger("stream_app.dev.simulator")

_KINDS = "\n".join(
    f"    {kind:24}{', '.join(f'{name} = {value!r}' for name, value in parameters.items())}"
    for kind, parameters in FAULTS.items()
)
_API = (control.__doc__ or "").strip()
_EPILOG = f"""\
When it listens it prints one JSON line on stdout: url, control_url (the control API on a port that the
fault `refuse` leaves open), pid and ledger. Logs go to stderr. SIGTERM and SIGINT end it with
the ledger complete.
Exit codes: 0 ended by a signal; 1 cannot listen or write the ledger; 2 the script (a line each) or a port is wrong.

example script:

    seed = 7
    limits = {{ rate_per_s = 10, burst = 20, retry_after = "seconds" }}

    [workspaces.acme]
    credits = 6000
    actions = 15000

    [table]                                   # the default for all webhooks
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

kinds of faults, with what they take besides at_s, for_s, share, workspace and webhook:

{_KINDS}

example of control:

    curl -X POST URL/control/faults -d '{{"kind": "rate_limited", "for_s": 5, "retry_after": "date"}}'

{_API}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run` and the long help to a parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8700, help="port; 0: any free one (%(default)s)")
    parser.add_argument("--control-port", type=int, default=0, help="second port, for control alone (%(default)s)")
    parser.add_argument("--seed", type=int, help="decides everything random; over the script's seed")
    parser.add_argument("--script", type=Path, help="TOML file with limits, webhooks and faults")
    parser.add_argument("--ledger", type=Path, help="JSONL file to append the ledger to (else temporary)")


def run(namespace: argparse.Namespace) -> int:
    """Run a simulator until a signal. Returns the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for option, port in (("--port", namespace.port), ("--control-port", namespace.control_port)):
        if not 0 <= port <= 65_535:
            sys.stderr.write(f"{option} {port}: must be from 1 to 65535, or 0 for any free one\n")
            return EXIT_USAGE
    try:
        script = load_script(namespace.script) if namespace.script else Script()
    except ScriptError as error:
        sys.stderr.writelines(f"{namespace.script}: {problem}\n" for problem in error.problems)
        return EXIT_USAGE
    if namespace.seed is not None:
        script = msgspec.structs.replace(script, seed=namespace.seed)
    return asyncio.run(_run(script, namespace))


async def _run(script: Script, namespace: argparse.Namespace) -> int:
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    sim = Simulator(script, ledger=namespace.ledger)
    try:
        await sim.start(namespace.host, namespace.port, namespace.control_port)
    except OSError as error:
        sys.stderr.write(f"the simulator cannot start: {error}; give another --port, --host or --ledger\n")
        return EXIT_CANNOT_LISTEN
    ready = {
        "url": sim.url,
        "control_url": sim.control_url,
        "pid": os.getpid(),
        "ledger": str(namespace.ledger) if namespace.ledger else None,
    }
    sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
    sys.stdout.flush()
    await done.wait()
    _log.info("ending, %d ledger lines", sim.ledger.seq)
    await sim.stop()
    return EXIT_OK
