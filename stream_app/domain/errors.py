"""The errors of the whole program, as a tree. Foreign errors are translated into these at the border.

StreamAppError
├── SettingsError        the configuration is wrong: one line a problem, all of them at once
├── TopicsError          topics are missing or differ from the plan
├── BrokerUnavailable    Kafka did not answer within the time allowed
├── KafkaRefused         Kafka answers and refuses us: credentials, certificate, protocol or rights
├── GatewayUnavailable   the gateway did not answer
├── UnreadableBatch      records on Kafka that cannot be decoded: their partition stops before them
└── StateStoreError          a step could not be committed
    ├── Fenced           another worker owns the partition: stop, never write again
    └── Aborted          the transaction failed: nothing of it happened; forget memory, fence, load, go on
"""

from __future__ import annotations


class StreamAppError(Exception):
    """Base: its text is one or more lines for a person: what is wrong, where, what to do next."""


class SettingsError(StreamAppError):
    """The configuration is wrong. `problems` holds one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class TopicsError(StreamAppError):
    """Topics are missing or differ. `problems` holds one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BrokerUnavailable(StreamAppError):
    """Kafka did not answer in the time allowed."""


class KafkaRefused(StreamAppError):
    """Kafka answers and refuses us, so waiting does not help: credentials, certificate, protocol or rights."""


class GatewayUnavailable(StreamAppError):
    """The gateway did not answer, or what answered is none."""


class UnreadableBatch(StreamAppError):
    """A batch of records on Kafka cannot be decoded. `first` and `last` are its offsets that cannot be read."""

    def __init__(self, topic: str, partition: int, first: int, last: int, cause: str) -> None:
        self.topic, self.partition, self.first, self.last, self.cause = topic, partition, first, last, cause
        where = f"offset {first}" if first == last else f"offsets {first} to {last}"
        super().__init__(
            f"{topic}/{partition} cannot be read at {where}: {cause}. Restore a sound copy of its log, or lose these "
            f"records: stream-app skip {topic}/{partition}/{first}"
        )


class StateStoreError(StreamAppError):
    """A step could not be committed."""


class Fenced(StateStoreError):
    """A later owner fenced this one: nothing more can be written, so nothing more may be sent."""


class Aborted(StateStoreError):
    """The transaction failed as a whole: memory is ahead of Kafka and must be read again."""
