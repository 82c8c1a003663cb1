"""A Clay simulator: the known behaviour of Clay as an HTTP target, faults included.

It is seeded and follows a script. It imports no other part of stream_app, because tests compare the
rest with its ledger. `control` documents the HTTP API, `script` the script, and `ledger` the
ledger's lines.
"""

from stream_app.dev.simulator.script import Script, ScriptError, load_script, parse_script
from stream_app.dev.simulator.server import HELP, Simulator, run

__all__ = ["HELP", "Script", "ScriptError", "Simulator", "load_script", "parse_script", "run"]
