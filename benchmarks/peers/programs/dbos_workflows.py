"""DBOS on SQLite: a durable workflow for each record, with the POST in a child that is not
recovered after a crash.
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

from confluent_kafka import Producer
from dbos import DBOS, KafkaMessage, error
from thread_delivery import IN_FLIGHT, Delivery

DATABASE = Path(tempfile.gettempdir(), f"{os.environ['GROUP']}.sqlite")

DBOS(
    config={
        "name": "peer",
        "system_database_url": f"sqlite:///{DATABASE}",
        "run_admin_server": False,
    },
)
producer = Producer({"bootstrap.servers": os.environ["BOOTSTRAP"]})


def dead_letter(lead: bytes) -> None:
    producer.produce(os.environ["DLQ"], lead)
    producer.flush()


deliver = Delivery(dead_letter)


@DBOS.workflow(max_recovery_attempts=0)
def post(lead: bytes) -> None:
    send(lead)


@DBOS.step()
def send(lead: bytes) -> None:
    deliver(lead)


@DBOS.kafka_consumer(
    {
        "bootstrap.servers": os.environ["BOOTSTRAP"],
        "group.id": os.environ["GROUP"],
        "auto.offset.reset": "earliest",
        "session.timeout.ms": int(os.environ["SESSION_MS"]),
    },
    [os.environ["LEADS"], os.environ["BULK"]],
    queue_name="leads",
)
@DBOS.workflow()
def take(message: KafkaMessage) -> None:
    try:
        post(message.value)
    except error.DBOSException:  # it was interrupted, so the lead may have been sent
        dead_letter(message.value)


if __name__ == "__main__":
    DBOS.launch()
    DBOS.register_queue("leads", worker_concurrency=IN_FLIGHT, polling_interval_sec=0.1)
    threading.Event().wait()
