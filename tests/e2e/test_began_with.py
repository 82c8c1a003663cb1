"""A namespace keeps the number of partitions and the pepper that it began with, and each process
says so in a line.
"""

import asyncio

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.fleet import Fleet
from tests.e2e.member import Member
from tests.support.kafka import add_partitions
from tests.support.pace import BUSY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TRACE = '[trace]\nendpoint = "http://127.0.0.1:9/v1/traces"\n'
MORE = (
    "a system keeps the number that it began with: set kafka.partitions to that, or take a new "
    "kafka.namespace"
)


class Namespace(Fleet):
    """A fleet whose configuration changes between two starts."""

    def configure(self, before: str, now: str) -> None:
        """Replace a part of the configuration, for processes and commands that start afterwards."""
        assert before in self._toml
        self._toml = self._toml.replace(before, now)
        self.settings = self._settings()

    async def refused(self, *programs: str) -> list[str]:
        """Start these processes; return what each says when it ends."""
        return [await ends(self.start(program)) for program in programs]


async def ends(member: Member) -> str:
    """Return the one line with which a process ends."""
    assert await member.ended(60 * BUSY) != 0, member.output()
    assert not [text for text in member.output() if "Traceback" in text or '"critical"' in text], (
        member.output()
    )
    (line,) = member.last_words()
    return line


async def test_a_namespace_keeps_the_pepper_and_the_partitions_that_it_began_with(
    kafka: Broker,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pepper that comes too late is refused, then partitions that Kafka's own tool adds end every
    process.
    """
    monkeypatch.setenv("LATE_PEPPER", "a-pepper-that-comes-too-late-0123456789")
    async with Namespace(kafka.bootstrap, namespace, 1, config=TRACE) as line:
        members = {"worker": line.join()}
        await line.publish(line.leads(1))
        await line.until(lambda: line.last()["accepted"] == 1, 90, "one lead is accepted")

        pepper = '[privacy]\npepper_env = "LATE_PEPPER"\n[gateway]\n'
        line.configure("[gateway]\n", pepper)
        why = (
            "privacy.pepper_env is set, and this namespace began without a pepper: remove it, or "
            "take a new"
        )
        for text in await line.refused("worker", "board"):
            assert text.startswith(f"{line.settings.names.state}/0: {why}")
        code, text = await line.run("suppress", "list", "ada@example.com")
        assert code == 2, text
        assert why in text, text
        line.configure(pepper, "[gateway]\n")

        members |= {name: line.start(name) for name in ("replay", "gateway", "board", "trace")}
        await line.until(
            lambda: all(member.answers() for member in members.values()),
            60,
            "every process runs",
        )
        topics = [topic.name for topic in line.settings.topic_plan()]
        await add_partitions(kafka.bootstrap, 8, *topics)
        outputs = dict(
            zip(members, await asyncio.gather(*map(ends, members.values())), strict=True),
        )
        for name, text in outputs.items():
            assert (
                "has 8 partitions, and this process runs with 4: partitions were added while it ran"
                in text
            ), name
            assert MORE in text, name

        (line.directory / "leads.csv").write_text("email\nada@example.com\n")
        code, text = await line.run("publish", "leads.csv", "--workspace", "w0")
        assert code != 0
        assert "has 8 partitions, the config says 4; " + MORE in text
        assert len(text.splitlines()) == 1

        line.configure("partitions = 4", "partitions = 8")
        began = "kafka.partitions = 8, and this namespace began with 4: " + MORE
        for text in await line.refused("worker", "board"):
            assert text.startswith(f"{line.settings.names.state}/0: {began}")
        for argv in (
            ("suppress", "add", "ada@example.com", "--why", "objected"),
            ("erase", "lead-0", "--yes", "--why", "x"),
        ):
            code, text = await line.run(*argv)
            assert code != 0, argv
            assert began in text, argv
        assert line.last()["accepted"] == 1
