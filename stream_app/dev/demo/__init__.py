"""The demo: the whole system on this machine, on a real Kafka, through an outage of Clay, ending in the books.

`stage` starts and ends the processes, `scene` watches Kafka, `play` tells the story, `verdict` compares what the books
say with the ledger of the simulated Clay. Nothing here prints: `Audience` does.
"""

from stream_app.dev.demo.play import Audience, Outcome, play
from stream_app.dev.demo.scene import Scene
from stream_app.dev.demo.verdict import Verdict

__all__ = ["Audience", "Outcome", "Scene", "Verdict", "play"]
