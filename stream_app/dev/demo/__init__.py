"""The demo: the whole system on this machine, on a real Kafka, through an outage of Clay.

It ends with an audit. `processes` starts and stops the processes, `doors` are the ways to Clay,
`comparison` follows Kafka and compares the books with the ledger of the simulated Clay, and
`scenario` runs it all. Output goes through `Display`.
"""

from stream_app.dev.demo.comparison import Comparison, DemoState
from stream_app.dev.demo.doors import BY_ROUTINE, BY_WEBHOOK
from stream_app.dev.demo.scenario import DemoOutcome, Display, run_scenario

__all__ = [
    "BY_ROUTINE",
    "BY_WEBHOOK",
    "Comparison",
    "DemoOutcome",
    "DemoState",
    "Display",
    "run_scenario",
]
