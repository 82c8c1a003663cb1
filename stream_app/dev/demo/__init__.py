"""The demo: the whole system on this machine, on a real Kafka, through an outage of Clay.

It ends with an audit. `processes` starts and stops the processes, `state` follows Kafka, `scenario`
runs it all, and `comparison` compares the books with the ledger of the simulated Clay. Output goes
through `Display`.
"""

from stream_app.dev.demo.comparison import Comparison, DemoState
from stream_app.dev.demo.scenario import DemoOutcome, Display, run_scenario

__all__ = ["Comparison", "DemoOutcome", "DemoState", "Display", "run_scenario"]
