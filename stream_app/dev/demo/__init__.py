"""The demo: the whole system on this machine, on a real Kafka, through an outage of Clay, with an audit at the end.

`stage` starts and stops the processes, `scene` watches Kafka, `play` runs the scenario, and `verdict` compares the
books with the ledger of the simulated Clay. Output goes through `Audience`.
"""

from stream_app.dev.demo.play import Audience, Outcome, play
from stream_app.dev.demo.scene import Scene
from stream_app.dev.demo.verdict import Verdict

__all__ = ["Audience", "Outcome", "Scene", "Verdict", "play"]
