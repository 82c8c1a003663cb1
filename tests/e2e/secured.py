"""A pipeline on a Kafka with TLS, SCRAM and an authorizer: each process and command is a user of
its own.
"""

import asyncio
from pathlib import Path
from typing import Final

from tests.e2e.member import Member
from tests.e2e.pipeline import CALLBACK, Pipeline
from tests.support.commands import fork_process, run_command
from tests.support.every import on_its_own
from tests.support.pace import BUSY
from tests.support.secure import SecureKafka

PASSWORD: Final = "correct-horse"


def user_of(program: str) -> str:
    """Return the SCRAM user that has only the rights of this process or command."""
    return program.replace(" ", "_").replace("()", "_function")


class Secured(Pipeline):
    """A pipeline whose processes and commands connect with TLS, each as its own user."""

    def __init__(self, kafka: SecureKafka, namespace: str, config: str = "") -> None:
        super().__init__(
            kafka.broker.bootstrap,
            namespace,
            1,
            config=config,
            partitions=2,
            callbacks=True,
            script=CALLBACK,
        )
        self._kafka = kafka
        self._namespace = namespace

    def config_of(self, program: str, namespace: str = "", *, operators: bool = False) -> Path:
        """Return the configuration of one program.

        `namespace`: another one than the pipeline's; `operators`: with the token of
            `OPERATOR_TOKEN`.
        """
        config = self.directory / f"{user_of(program)}-{operators}.toml"
        toml = self._toml.replace(self.bootstrap, self._kafka.addresses["SASL_SSL"])
        toml = toml.replace(f'"{self._namespace}"', f'"{namespace or self._namespace}"')
        if operators:
            toml = toml.replace("[board]\n", '[board]\noperator_token_env = "OPERATOR_TOKEN"\n')
        config.write_text(
            f"""{toml}
[kafka.security]
protocol = "SASL_SSL"
username = "{user_of(program)}"
password_env = "KAFKA_PASSWORD"
ca_file = "{self._kafka.ca_pem}"
[http]
worker_port = 0
replay_port = 0
gateway_port = {self.gateway_port}
gateway_ops_port = 0
board_port = {self.board_port}
board_ops_port = 0
trace_port = 0
[trace]
endpoint = "http://127.0.0.1:1/v1/traces"
""",
        )
        return config

    def process(
        self,
        name: str,
        program: str = "",
        *,
        operators: bool = False,
    ) -> Member:
        """Start a process, as the user of `program` if it is given."""
        config = self.config_of(program or name, operators=operators)
        log = self._log(program or name)
        started = fork_process(self.children, [name, "--config", str(config)], log)
        self.started.append(Member(started, 0, log))
        return self.started[-1]

    async def command(self, program: str, argv: list[str], namespace: str = "") -> tuple[int, str]:
        """Run it. Return its exit code and its output."""
        words = on_its_own(argv, self.config_of(program, namespace))
        return await asyncio.to_thread(run_command, words, self.directory, 100 * BUSY)
