"""`stream-app sim`: run the Clay simulator alone."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stream_app.cli.base import COMMON, Common, OptionalWhole, Whole
from stream_app.dev import simulator


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

    `python -m stream_app.dev.simulator --help` describes scripts, faults and the control API.

    Args:
        host: address to listen on
        port: port; 0: any free one
        control_port: second port, for control alone
        seed: decides everything random; over the script's seed
        script: TOML file with limits, webhooks and faults
        ledger: JSONL file to append the ledger to (else temporary)
    """
    return simulator.run(
        Namespace(host=host, port=port, control_port=control_port, seed=seed, script=script, ledger=ledger)
    )
