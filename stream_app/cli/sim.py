"""`stream-app sim`: the simulated Clay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from cyclopts import App

from stream_app.cli.base import COMMON, OK, OPTIONS, Common, OptionalWhole, Whole
from stream_app.dev import simulator
from stream_app.domain.errors import SettingsError, StreamAppError

app = App(name="sim", group_parameters=OPTIONS, help_epilogue=simulator.HELP)


@app.default
def sim(
    *,
    host: str = "127.0.0.1",
    port: Whole = 8700,
    control_port: Whole = 0,
    seed: OptionalWhole = None,
    script: Path | None = None,
    ledger: Path | None = None,
    common: Common = COMMON,
) -> int:
    """Run a simulated Clay until Ctrl-C: rate limits, credits, faults on a timeline, and a ledger.

    example:
      stream-app sim --port 8700 --ledger ledger.jsonl

    Args:
        host: address to listen on
        port: port; 0: any free one
        control_port: second port, for control alone
        seed: decides everything random; over the script's seed
        script: TOML file with limits, webhooks and faults
        ledger: JSONL file to append the ledger to (else temporary)
    """
    for option, given in (("--port", port), ("--control-port", control_port)):
        if not 0 <= given <= 65_535:
            raise SettingsError([f"{option} {given}: must be from 1 to 65535, or 0 for any free one"])
    try:
        plan = simulator.load_script(script) if script else simulator.Script()
    except simulator.ScriptError as error:
        raise SettingsError([f"{script}: {problem}" for problem in error.problems]) from error
    if seed is not None:
        plan = msgspec.structs.replace(plan, seed=seed)
    try:
        asyncio.run(simulator.run(plan, host, port, control_port, ledger))
    except OSError as error:
        text = f"the simulator cannot start: {error}; give another --port, --host or --ledger"
        raise StreamAppError(text) from error
    return OK
