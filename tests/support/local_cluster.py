"""Three real Kafka brokers on this machine, any one of which may be killed, stopped or frozen.

Each process is a broker and a controller. Two of three controllers are a quorum, so no single
process is required.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Self

from stream_app.dev.kafka import Broker, LocalKafka, broker_properties, new_cluster_id
from stream_app.dev.process import LOOPBACK, free_port

BROKERS = 3
_HEAP_MB = 256


class LocalCluster(Broker):
    """A context manager for three brokers. Failures are StartError.

    All internal topics have replication 3 and min.insync.replicas 2; topics that are created here
    should, too.

    Attributes:
        brokers: The three brokers, each a `LocalKafka`, by node id minus 1.
    """

    def __init__(self) -> None:
        ports = [(free_port(), free_port()) for _ in range(BROKERS)]
        voters = ",".join(
            f"{node}@{LOOPBACK}:{control}" for node, (_, control) in enumerate(ports, 1)
        )
        cluster_id = new_cluster_id()
        self.brokers = [
            LocalKafka(
                port=port,
                overrides=_properties(node, port, control, voters),
                cluster_id=cluster_id,
                heap_mb=_HEAP_MB,
            )
            for node, (port, control) in enumerate(ports, 1)
        ]
        super().__init__(",".join(broker.bootstrap for broker in self.brokers))

    def start(self) -> None:
        """Start all three and return when they respond. None responds before a second one runs."""
        self.brokers[0].prepare()  # download once, before the threads start
        try:
            with ThreadPoolExecutor(BROKERS) as threads:
                list(threads.map(LocalKafka.start, self.brokers))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all three and remove their files. May be called twice."""
        with ThreadPoolExecutor(BROKERS) as threads:
            list(threads.map(LocalKafka.stop, self.brokers))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _properties(node: int, port: int, controller_port: int, voters: str) -> dict[str, str]:
    """The properties of a broker that differ from those of a single one."""
    return broker_properties(listen=LOOPBACK, port=port, controller_port=controller_port) | {
        "node.id": str(node),
        "controller.quorum.voters": voters,
        "offsets.topic.replication.factor": str(BROKERS),
        "transaction.state.log.replication.factor": str(BROKERS),
        "transaction.state.log.min.isr": "2",
        "default.replication.factor": str(BROKERS),
        "min.insync.replicas": "2",
        # Kafka's defaults: a frozen broker counts as alive for this long.
        "broker.session.timeout.ms": "9000",
        "broker.heartbeat.interval.ms": "2000",
    }
