"""Kafka's own command-line tools, from the Kafka that pip installs, without the shell scripts of a distribution.

`python -m stream_app.dev.kafka_tools kafka-consumer-groups --bootstrap-server 127.0.0.1:9092 --list`
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console

from stream_app.dev.java import class_path, find_java
from stream_app.dev.kafka import TOOLS_JARS
from stream_app.dev.process import StartError

TOOLS: Final = {
    "kafka-acls": "org.apache.kafka.tools.AclCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
}
"""Name of the distribution's script, without `.sh` -> its class."""

_USAGE: Final = 2
_QUIET: Final = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"


def main(argv: Sequence[str]) -> int:
    """Run the tool that the first argument names with the other arguments. Returns its exit code."""
    notes = Console(stderr=True, markup=False, highlight=False)
    tool = TOOLS.get(argv[0].removesuffix(".sh")) if argv else None
    if tool is None:
        usage = f"python -m stream_app.dev.kafka_tools TOOL ...; TOOL is one of: {', '.join(TOOLS)}"
        notes.print(usage, soft_wrap=True)
        return _USAGE
    try:
        jars = class_path(TOOLS_JARS, notes.print)
        return subprocess.run([find_java(), _QUIET, "-cp", jars, tool, *argv[1:]], check=False).returncode
    except StartError as error:
        notes.print(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
