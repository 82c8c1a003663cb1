"""A Clay simulator: what is known about Clay as an HTTP target, nasty parts included, seeded and scriptable.

It imports nothing of the rest of stream_app, because its ledger is the truth that the rest is tested against.
`control` documents the HTTP API, `script` the script, `lines` the ledger.
"""

from stream_app.dev.simulator.command import add_arguments, run
from stream_app.dev.simulator.parsing import ScriptError, load_script, parse_script
from stream_app.dev.simulator.script import Script
from stream_app.dev.simulator.server import Simulator

__all__ = ["Script", "ScriptError", "Simulator", "add_arguments", "load_script", "parse_script", "run"]
