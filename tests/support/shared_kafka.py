"""One Kafka for all processes of a pytest-xdist run, started when the first test of any of them
needs it.
"""

import threading
from contextlib import ExitStack, suppress
from multiprocessing.connection import Client, Listener
from tempfile import TemporaryDirectory
from typing import Final

from stream_app.dev.kafka import Broker, kafka_for
from stream_app.dev.kafka_tools import Report
from stream_app.dev.process import StartError
from tests.support import class_archive

_STOP: Final = "stop"
_START: Final = "start"


class SharedKafka:
    """Runs in pytest's main process, which outlives the workers: a worker may end while others
    still need Kafka.

    `address` is where workers ask for the broker, with `kafka_at`.
    """

    def __init__(self, progress: Report) -> None:
        self._progress = progress
        self._stack = ExitStack()
        directory = self._stack.enter_context(TemporaryDirectory(prefix="stream-app-tests-"))
        self.address = f"{directory}/kafka"
        self._listener = self._stack.enter_context(Listener(self.address, "AF_UNIX"))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._archive = threading.Thread(target=class_archive.make)

    def close(self) -> None:
        """Stop the broker, if there is one."""
        with Client(self.address, "AF_UNIX") as connection:
            connection.send(_STOP)
        self._thread.join()
        if self._archive.ident is not None:
            self._archive.join()
        self._stack.close()

    def _serve(self) -> None:
        answer: Broker | StartError | None = None
        while True:
            # A worker that crashes meanwhile closes its connection.
            with suppress(EOFError, OSError), self._listener.accept() as connection:
                if connection.recv() == _STOP:
                    return
                answer = answer or self._start()
                if isinstance(answer, StartError):
                    connection.send((None, str(answer)))
                else:
                    connection.send((answer.bootstrap, ""))

    def _start(self) -> Broker | StartError:
        try:
            broker = self._stack.enter_context(kafka_for(self._progress))
        except StartError as error:
            return error
        self._archive.start()  # for the brokers that tests have of their own
        return broker


def kafka_at(address: str) -> Broker:
    """Return the broker of the `SharedKafka` at this address, which starts it if need be.

    Raises StartError.
    """
    with Client(address, "AF_UNIX") as connection:
        connection.send(_START)
        bootstrap, error = connection.recv()
    if bootstrap is None:
        raise StartError(error)
    return Broker(bootstrap)
