"""Quix Streams: a batching sink whose batch is delivered by threads."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Producer
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch
from thread_delivery import IN_FLIGHT, Delivery


class HttpSink(BatchingSink):
    def __init__(self) -> None:
        super().__init__()
        self._producer = Producer(
            {"bootstrap.servers": os.environ["BOOTSTRAP"], "enable.idempotence": True},
        )
        self._deliver = Delivery(self._to_dlq)
        self._threads = ThreadPoolExecutor(IN_FLIGHT)

    def write(self, batch: SinkBatch) -> None:
        list(self._threads.map(self._deliver, [item.value for item in batch]))
        self._producer.flush()

    def _to_dlq(self, lead: bytes) -> None:
        self._producer.produce(os.environ["DLQ"], lead)


app = Application(
    os.environ["BOOTSTRAP"],
    consumer_group=os.environ["GROUP"],
    auto_offset_reset="earliest",
    commit_every=IN_FLIGHT,
    commit_interval=0.2,
    auto_create_topics=False,
    state_dir=tempfile.mkdtemp(),
    loglevel="WARNING",
    consumer_extra_config={
        "session.timeout.ms": int(os.environ["SESSION_MS"]),
        "heartbeat.interval.ms": 1000,
    },
)
sink = HttpSink()
for name in (os.environ["LEADS"], os.environ["BULK"]):
    app.dataframe(app.topic(name, value_deserializer="bytes", key_deserializer="bytes")).sink(sink)

if __name__ == "__main__":
    app.run()
