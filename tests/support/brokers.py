"""The Kafka and the Redis of the tests: the user's own, else Docker's, else from pip."""

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from stream_app.dev.java import Progress
from stream_app.dev.kafka import (
    KAFKA_VERSION,
    Broker,
    bootstrap_from_environment,
    broker_properties,
    kafka_for,
)
from stream_app.dev.process import free_port
from tests.support.local_redis import LocalRedis, find_redis_server


@contextmanager
def any_kafka(progress: Progress) -> Iterator[Broker]:
    """Start or find the broker: KAFKA_BOOTSTRAP, else testcontainers, else pip. Raises StartError."""
    with ExitStack() as stack:
        docker = kafka_in_docker(stack) if bootstrap_from_environment() is None else None
        yield docker or stack.enter_context(kafka_for(progress))


@contextmanager
def any_redis() -> Iterator[str]:
    """Return the URL of redis-server from the PATH or a wheel, else of one in Docker. Raises StartError."""
    if find_redis_server() is None and docker_works():
        from testcontainers.core.container import DockerContainer  # slow to import

        with DockerContainer("redis:7-alpine").with_exposed_ports(6379) as redis:
            yield f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0"
    else:
        with LocalRedis() as local:
            yield local.url


def docker_works() -> bool:
    """True if a Docker daemon answers within 3 s."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        return subprocess.run([docker, "info"], capture_output=True, timeout=3, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def kafka_in_docker(stack: ExitStack) -> Broker | None:
    """Start the official image with the local broker's settings, until `stack` closes. Return None if it cannot run."""
    if not docker_works():
        return None
    from testcontainers.core.container import DockerContainer  # slow to import
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    port = free_port()
    properties = broker_properties(listen="0.0.0.0", port=port, controller_port=free_port())
    variables = {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in properties.items()}
    started = LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(60)
    try:
        container = DockerContainer(f"apache/kafka:{KAFKA_VERSION}").with_envs(**variables)
        stack.enter_context(container.with_bind_ports(port, port).waiting_for(started))
    except Exception as error:  # noqa: BLE001 - Docker's client raises errors of many libraries, and pip is left
        warnings.warn(f"Docker cannot run Kafka, pip's is used instead: {error}", stacklevel=2)
        return None
    return Broker(f"127.0.0.1:{port}")
