"""Kafka's classes as the JVM keeps them for its next start, which then takes a third less CPU.

A run of the tests starts dozens of brokers. The first run in a virtual environment makes the
archive.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from stream_app.dev.kafka import JVM, LocalKafka
from stream_app.dev.kafka_tools import BROKER_JARS, KAFKA_VERSION, class_path, find_java

PATH: Final = Path(sys.prefix) / f"kafka-{KAFKA_VERSION}.jsa"
"""Beside Java: a JVM refuses the archive of another installation."""


def make() -> None:
    """Make the archive in a process of its own, if there is none.

    Without it, brokers start as ever.
    """
    if not PATH.exists():
        subprocess.run(
            [sys.executable, "-m", __name__],
            capture_output=True,
            check=False,
            timeout=600,
        )


def _make() -> None:
    """Run a broker once, and dump the classes that it loads."""
    with TemporaryDirectory(dir=PATH.parent) as folder:
        names = f"{folder}/classes"
        archive = Path(folder) / "archive"
        os.environ["JDK_JAVA_OPTIONS"] = f"-XX:DumpLoadedClassList={names}"
        with LocalKafka():
            pass
        del os.environ["JDK_JAVA_OPTIONS"]
        files = [f"-XX:SharedClassListFile={names}", f"-XX:SharedArchiveFile={archive}"]
        jars = class_path(BROKER_JARS, lambda line: None)
        subprocess.run(
            [find_java(), *JVM, "-Xshare:dump", *files, "-cp", jars],
            check=True,
            timeout=300,
        )
        archive.rename(PATH)  # whole: other processes start brokers meanwhile


if __name__ == "__main__":
    _make()
