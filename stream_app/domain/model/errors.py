"""The errors of the whole program.

Errors of libraries are translated into these at the boundary.
"""


class StreamAppError(Exception):
    """Base class.

    The text is for a person, one or more lines: what is wrong, where, what to do next.
    """


class SettingsError(StreamAppError):
    """The configuration is wrong. `problems` holds one line per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class TopicsError(StreamAppError):
    """Topics are missing or differ from the plan. `problems` holds one line per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BrokerUnavailable(StreamAppError):
    """Kafka did not answer in time."""


class KafkaRefused(StreamAppError):
    """Kafka answers and refuses us.

    Waiting does not help: check credentials, certificate, protocol and rights.
    """


class BoardUnavailable(StreamAppError):
    """The board did not answer, or the server that answered is not the board."""


class ImportUnderWay(StreamAppError):
    """The leads of an import were not at rest in time."""


class NotTheBoard(BoardUnavailable):
    """Another server answered at the board's address."""


class UnknownFormat(StreamAppError):
    """Another version of this program wrote a record in a format that this one does not read."""


class UnreadableBatch(StreamAppError):
    """A batch of records on Kafka cannot be decoded.

    Attributes:
        first: The first offset that cannot be read.
        last: The last offset that cannot be read.
        cause: What the decoder reported.
    """

    def __init__(self, topic: str, partition: int, first: int, last: int, cause: str) -> None:
        self.topic = topic
        self.partition = partition
        self.first = first
        self.last = last
        self.cause = cause
        where = f"offset {first}" if first == last else f"offsets {first} to {last}"
        super().__init__(
            f"{topic}/{partition} cannot be read at {where}: {cause}. Restore an intact copy "
            "of its log, or lose these "
            f"records: stream-app skip {topic}/{partition}/{first}",
        )


class RowUnreadable(StreamAppError):
    """A row of the state topic cannot be used. The partition then processes nothing."""


class StateStoreError(StreamAppError):
    """A step could not be committed."""


class Fenced(StateStoreError):
    """A later owner has fenced this one.

    It can write nothing more, so it must send nothing more.
    """


class Aborted(StateStoreError):
    """The transaction failed as a whole.

    The state in memory is ahead of Kafka and must be loaded again.
    """
