"""A secured Kafka: refusals are reported at once, and the documented rights are enough."""

import asyncio
import logging
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from stream_app.board.read_model.follow import Projection
from stream_app.board.read_model.store import Sources
from stream_app.cli.main import main
from stream_app.client.doctor.checks import may_join, may_transact, strangers_may_not_write
from stream_app.client.doctor.gateways import CheckFailed
from stream_app.client.doctor.recording import deviations, read, simulated
from stream_app.dev.process import StartError
from stream_app.domain.model.errors import KafkaRefused
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import Retention, TopicNames
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.diagnosis import diagnose
from stream_app.kafka.rights import rights_of
from stream_app.kafka.topics import KnownTopics, TopicWatch
from stream_app.ops import logs as log
from stream_app.tasks import cancel
from tests.board.client import digest_on
from tests.e2e.on_board import OWN, acted, shown
from tests.e2e.secured import PASSWORD, Secured, user_of
from tests.support.acls import grant
from tests.support.commands import run_command
from tests.support.config import NO_BOARD
from tests.support.every import COMMANDS, PROCESSES, on_its_own, typed
from tests.support.kafka import create_topics, until
from tests.support.pace import BUSY
from tests.support.secure import MECHANISM, SecureKafka, secure_kafka
from tests.support.token_endpoint import CLIENT, SECRET

pytestmark = pytest.mark.timeout(600)

REFUSED: Final = ("not allow", "AuthorizationFailed", "Traceback")
TIERS_S: Final = (2, 10, 60, 600, 3_600)
PROGRAMS: Final = tuple(rights_of(TopicNames(), TIERS_S))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    try:
        with secure_kafka(
            tmp_path_factory.mktemp("pem"),
            {user_of(program): PASSWORD for program in PROGRAMS},
        ) as kafka:
            yield kafka
    except StartError as error:
        pytest.fail(str(error), pytrace=False)


# ------------------------------------------------------------------------------- what Kafka refuses


def scram(**changes: str) -> dict[str, Any]:
    options = {
        "mechanism": MECHANISM,
        "plain_username": "worker",
        "plain_password": PASSWORD,
        **changes,
    }
    return {f"sasl_{name}": value for name, value in options.items()}


def tls(authority: Path, certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


async def refusal_of(kafka: SecureKafka, listener: str, protocol: str, **security: Any) -> str:
    """Return the error for a client with these settings. Empty if Kafka accepts it."""
    host, _, port = kafka.addresses[listener].rpartition(":")
    text = ""
    try:
        assert (
            await diagnose({"security_protocol": protocol, **security}, [(host, int(port))]) is None
        )
    except KafkaRefused as refusal:
        text = str(refusal)
    assert PASSWORD not in text
    return text.removeprefix(f"Kafka at {host}:{port} ")


async def test_each_kind_of_refusal_has_its_own_text(secure: SecureKafka) -> None:
    ours = tls(secure.ca_pem)
    others = tls(secure.other_ca_pem)
    assert await refusal_of(secure, "PLAINTEXT", "PLAINTEXT") == ""
    assert await refusal_of(secure, "SASL_SSL", "SASL_SSL", ssl_context=ours, **scram()) == ""
    assert await refusal_of(secure, "SASL_PLAINTEXT", "SASL_PLAINTEXT", **scram()) == ""
    assert (
        await refusal_of(secure, "SSL", "SSL", ssl_context=tls(secure.ca_pem, secure.client_pem))
        == ""
    )

    wrong = scram(plain_password="wrong")
    assert await refusal_of(secure, "SASL_SSL", "SASL_SSL", ssl_context=ours, **wrong) == (
        "refuses the user worker (SCRAM-SHA-512): check kafka.security.username, and the "
        "secret that "
        "kafka.security.password_env names"
    )
    unknown = scram(plain_username="mallory")
    assert "refuses the user mallory" in await refusal_of(
        secure,
        "SASL_PLAINTEXT",
        "SASL_PLAINTEXT",
        **unknown,
    )
    assert await refusal_of(
        secure,
        "SASL_SSL",
        "SASL_SSL",
        ssl_context=ours,
        **scram(mechanism="PLAIN"),
    ) == ("has not enabled the mechanism PLAIN: set kafka.security.mechanism to SCRAM-SHA-512")
    assert await refusal_of(secure, "SASL_SSL", "SASL_SSL", ssl_context=others, **scram()) == (
        "has a certificate that is not trusted (unable to get local issuer certificate): set "
        "kafka.security.ca_file to "
        "the authority that signed it"
    )
    assert await refusal_of(secure, "SSL", "SSL", ssl_context=ours) == (
        "wants a client certificate: set kafka.security.cert_file and key_file"
    )
    assert "refuses our client certificate (" in await refusal_of(
        secure,
        "SSL",
        "SSL",
        ssl_context=tls(secure.ca_pem, secure.stranger_pem),
    )


async def test_a_stranger_may_not_write_to_topics_whose_records_are_obeyed(
    secure: SecureKafka,
) -> None:
    topics = ["leads.commands", "leads.callbacks"]
    await create_topics(secure.addresses["PLAINTEXT"], *topics)

    def stranger(listener: str, **security: Any) -> KafkaConnection:
        return KafkaConnection(secure.addresses[listener], security)

    through = stranger("SASL_SSL", security_protocol="SSL", ssl_context=tls(secure.ca_pem))
    assert "accepts no client without credentials" in await strangers_may_not_write(
        through,
        topics,
        10,
    )
    with pytest.raises(CheckFailed, match="any client that reaches Kafka may write to"):
        # On this listener the one who proves nothing may do everything.
        await strangers_may_not_write(
            stranger("PLAINTEXT", security_protocol="PLAINTEXT"),
            topics,
            10,
        )


async def test_a_wrong_protocol_is_reported_with_the_right_one(secure: SecureKafka) -> None:
    ours = tls(secure.ca_pem)
    for listener in ("SASL_SSL", "SSL"):
        assert "speaks TLS: set kafka.security.protocol to SSL or SASL_SSL" in await refusal_of(
            secure,
            listener,
            "PLAINTEXT",
        )
    assert "set kafka.security.protocol to SASL_SSL" in await refusal_of(
        secure,
        "SASL_SSL",
        "SASL_PLAINTEXT",
        **scram(),
    )
    assert 'speaks no TLS: set kafka.security.protocol = "PLAINTEXT"' in await refusal_of(
        secure,
        "PLAINTEXT",
        "SSL",
        ssl_context=ours,
    )
    assert 'speaks no TLS: set kafka.security.protocol = "SASL_PLAINTEXT"' in await refusal_of(
        secure,
        "SASL_PLAINTEXT",
        "SASL_SSL",
        ssl_context=ours,
        **scram(),
    )
    assert 'asks for no user: set kafka.security.protocol = "PLAINTEXT"' in await refusal_of(
        secure,
        "PLAINTEXT",
        "SASL_PLAINTEXT",
        **scram(),
    )
    for listener, protocol, context in (
        ("SASL_PLAINTEXT", "PLAINTEXT", {}),
        ("SASL_SSL", "SSL", {"ssl_context": ours}),
    ):
        assert await refusal_of(secure, listener, protocol, **context) == (
            f'asks for a user: set kafka.security.protocol = "{listener}", username, '
            "password_env and mechanism "
            "(SCRAM-SHA-512)"
        )


async def test_a_certificate_for_another_name_is_reported(secure: SecureKafka) -> None:
    port = int(secure.addresses["SASL_SSL"].rpartition(":")[2])
    security = {"security_protocol": "SASL_SSL", "ssl_context": tls(secure.ca_pem), **scram()}
    with pytest.raises(KafkaRefused) as refusal:
        await diagnose(security, [("localhost", port)])
    text = f"Kafka at localhost:{port} has a certificate for another name than localhost ("
    assert str(refusal.value).startswith(text)


CONFIG: Final = """
[kafka]
bootstrap = "{bootstrap}"
partitions = 2
replication = 1
security.protocol = "SASL_SSL"
security.username = "worker"
security.password_env = "KAFKA_PASSWORD"
security.ca_file = "{ca}"
[trace]
endpoint = "http://127.0.0.1:1/v1/traces"
[workspaces.w0]
budget.unlimited = true
[destinations.people]
workspace = "w0"
webhooks_env = ["WEBHOOK"]
callbacks = false
"""


@pytest.mark.parametrize("program", [*COMMANDS, "topics", "doctor", *PROCESSES])
def test_each_process_and_command_reports_a_refusal_at_once(
    program: str,
    secure: SecureKafka,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "stream_app.toml"
    config.write_text(
        CONFIG.format(bootstrap=secure.addresses["SASL_SSL"], ca=secure.ca_pem) + NO_BOARD,
    )
    environment = {
        "KAFKA_PASSWORD": "wrong",
        "WEBHOOK": "https://api.clay.com/v3/sources/webhook/x",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    argv = on_its_own(typed(program, tmp_path) if program in COMMANDS else [program], config)
    if program in PROCESSES:  # they set up signals and logs
        code, text = run_command(argv, tmp_path, 60 * BUSY)
    else:
        code = main(argv)
        text = "".join(capsys.readouterr())
    assert code == (1 if program == "doctor" else 6)
    assert "refuses the user worker (SCRAM-SHA-512)" in text
    assert "trying again" not in text
    assert "Traceback" not in text


def test_commands_log_in_with_one_token_and_report_one_for_something_else_at_once(
    secure: SecureKafka,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KAFKA_SECRET", SECRET)
    config = tmp_path / "stream_app.toml"
    config.write_text(
        f"""
[kafka]
bootstrap = "{secure.addresses["OAUTH"]}"
namespace = "{namespace}"
partitions = 1
replication = 1
broker_wait_s = 20
[kafka.security]
protocol = "SASL_PLAINTEXT"
mechanism = "OAUTHBEARER"
oauth.token_url = "{secure.tokens.url}/token"
oauth.client_id = "{CLIENT}"
oauth.client_secret_env = "KAFKA_SECRET"
""",
    )
    before = secure.tokens.granted
    assert main(["topics", "--config", str(config)]) == 0, capsys.readouterr().err
    assert secure.tokens.granted - before <= 3, "connections share it"
    assert main(["results", "--config", str(config), "-o", str(tmp_path / "results.csv")]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr(secure.tokens, "audience", "somewhere")
    assert main(["topics", "--config", str(config)]) == 6
    assert "refuses the token (OAUTHBEARER): check the audience" in capsys.readouterr().err


async def test_a_refusal_while_a_process_runs_is_logged_and_shown(
    secure: SecureKafka,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As after a change of the password: the process retries, because it may be changed back."""
    options = {
        "security_protocol": "SASL_SSL",
        "ssl_context": tls(secure.ca_pem),
        **scram(plain_password="wrong"),
    }
    connection = KafkaConnection(secure.addresses["SASL_SSL"], options)
    names = TopicNames("x.")
    feed = Projection(
        connection,
        Sources(names, 1, Retention(), frozenset()),
        tmp_path / "model.sqlite",
        log.get("test"),
    )
    running = [
        asyncio.create_task(TopicWatch(connection, KnownTopics(), [names.leads], 1).run()),
        asyncio.create_task(feed.run()),
    ]
    try:
        with caplog.at_level(logging.ERROR, "stream_app"):
            await until(lambda: "Kafka refuses this process: Kafka at" in caplog.text, 30)
        await until(lambda: "refuses the user worker" in feed.lag.trouble, 30)
        assert not any(task.done() for task in running)
    finally:
        await cancel(running)


# --------------------------------------------------------------------------------------- the rights


@pytest.mark.parametrize(
    ("program", "lines"),
    [
        ("publish", ["Read on Topic {}leads.lanes", "Write on Topic {}leads"]),
        ("replay list", ["Read on Topic {}stream-app-replay-state"]),
        ("results", ["Read on Topic {}leads.enriched"]),
    ],
)
def test_missing_rights_are_named(
    program: str,
    lines: list[str],
    secure: SecureKafka,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    config = tmp_path / "stream_app.toml"
    text = CONFIG.format(bootstrap=secure.addresses["SASL_SSL"], ca=secure.ca_pem)
    config.write_text(text.replace("[kafka]", f'[kafka]\nnamespace = "{namespace}"'))
    assert main(on_its_own(typed(program, tmp_path, namespace), config)) == 6
    why = f"`stream-app {program}` needs it; docs/kafka-rights.md has all its rights"
    expected = [f"Kafka does not allow us {line.format(namespace)}: {why}" for line in lines]
    assert capsys.readouterr().err.splitlines() == expected


async def test_doctor_names_the_rights_that_a_worker_lacks(
    secure: SecureKafka,
    namespace: str,
) -> None:
    """The test of the documented rights has the same checks pass."""
    security = {"security_protocol": "SASL_PLAINTEXT", **scram()}
    connection = KafkaConnection(secure.addresses["SASL_PLAINTEXT"], security)
    prefix = f"{namespace}stream-app"
    with pytest.raises(
        CheckFailed,
        match=rf"transactional ids that begin with {re.escape(prefix)}-$",
    ):
        await may_transact(connection, f"{prefix}-doctor", 30)
    with pytest.raises(
        CheckFailed,
        match=rf"offsets of {re.escape(prefix)} .*: allow Read and Describe on the group",
    ):
        await may_join(connection, prefix, 30)


def test_a_client_is_known_by_its_certificate(
    secure: SecureKafka,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asyncio.run(grant(secure, {"app": rights_of(TopicNames(namespace), TIERS_S)["topics"].acls}))
    config = tmp_path / "stream_app.toml"
    pem = secure.client_pem
    config.write_text(
        f"""
[kafka]
bootstrap = "{secure.addresses["SSL"]}"
namespace = "{namespace}"
replication = 1
security.protocol = "SSL"
security.ca_file = "{secure.ca_pem}"
security.cert_file = "{pem}"
security.key_file = "{pem}"
""",
    )
    assert main(["topics", "--config", str(config)]) == 0, capsys.readouterr().err


@pytest.mark.slow
async def test_the_documented_rights_are_enough_for_each_process_and_command(
    secure: SecureKafka,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    rights = rights_of(TopicNames(namespace), TIERS_S)
    fresh = f"new.{namespace}"
    async with Secured(secure, namespace) as line:
        await grant(secure, {user_of(program): its.acls for program, its in rights.items()})
        await grant(secure, {"topics": rights_of(TopicNames(fresh), TIERS_S)["topics"].acls})
        processes = {name: line.process(name) for name in PROCESSES}
        await line.receives()
        poison = Record(line.settings.names.leads, b"w0", b"no JSON", (), 0)
        await line.publish([poison, *line.leads(3)])

        async def done(
            program: str,
            *expected: int,
            argv: list[str] | None = None,
            other: str = "",
        ) -> None:
            code, text = await line.command(
                program,
                argv or typed(program, line.directory, namespace),
                other,
            )
            assert code in expected, (program, code, text)
            assert not [word for word in (*REFUSED, "FAILED") if word in text], (program, text)

        await done("topics", 0, argv=["topics"], other=fresh)
        await done("topics --apply", 0, argv=["topics", "--apply", "--yes"])
        await line.until(
            lambda: line.last()["enriched"] + line.last()["no_data"] >= 3,
            90,
            "three results",
        )
        await done("publish", 0)
        await done("publish --bulk", 0)
        await done("publish --wait", 0)
        await done("publish --bulk --wait", 0)
        for several in (
            ("results", "results --join", "books", "dlq show"),
            ("lanes", "explain", "suppress list", "dlq"),
            ("dlq export", "replay plan", "lanes log"),
        ):
            await asyncio.gather(*(done(program, 0, 1) for program in several))
        for program in ("lanes ORDER", "suppress add", "suppress remove", "erase"):
            await done(program, 0, 1)
        for program in (
            "dlq give-up",
            "replay pause",
            "replay resume",
            "replay select",
            "replay redrive",
            "replay list",
            "replay stop",
        ):
            await done(program, 0, 1)
        await done("doctor", 0, argv=["doctor"])
        await done("lanes ORDER", 0, argv=["lanes", "resume", "w0", "--why", "test"])
        recorded = line.directory / "clay.json"
        round_trip = ["doctor", "--round-trip", "w0-crm", "--yes", "--record", str(recorded)]
        await done("doctor --round-trip", 0, argv=round_trip)
        recording = read(recorded)
        assert {answer.status for answer in recording.answers["lead"]} == {200}
        assert [callback.body["lead_id"] for callback in recording.callbacks] == ["text"]
        # On a busy machine the body of an answer, or an answer, may come too late to be read.
        statuses = [line for line in deviations(recording, simulated()) if "status" in line]
        assert statuses == []
        for name, process in processes.items():
            assert await process.stop() == 0, name
            text = process.log.read_text()
            assert not [word for word in REFUSED if word in text], (name, text)
        await done("skip", 1)


# --------------------------------------------------------------------------- operators of the board

OPERATORS: Final = "board with operator_token_env"


@pytest.mark.slow
async def test_the_documented_rights_are_enough_for_operators_of_the_board(
    secure: SecureKafka,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("OPERATOR_TOKEN", "a token for people who act: 51d2e9c4")
    rights = rights_of(TopicNames(namespace), TIERS_S)
    async with Secured(secure, namespace, "[delivery]\nmax_attempts = 1\n") as line:
        programs = ("gateway", "board", OPERATORS, "worker", "replay")
        await grant(secure, {user_of(program): rights[program].acls for program in programs})
        less = line.process("board", operators=True)
        assert await less.ended(60 * BUSY) == 6
        for topic in ("leads.commands", "leads, ", "stream-app-replay-state"):
            assert re.search(
                rf"Write on Topic .*{re.escape(topic)}",
                less.log.read_text(),
            ), topic

        board = line.process("board", OPERATORS, operators=True)
        processes = [board, *map(line.process, ("gateway", "worker", "replay"))]
        await line.receives()
        assert (await line.run("replay", "pause", "--why", "only what is ordered"))[0] == 0
        await line.publish(line.leads(3))
        await line.until(
            lambda: line.last()["enriched"] + line.last()["no_data"] >= 3,
            90,
            "three results",
        )
        line.control("POST", "/control/faults", {"kind": "status_before", "status": 503})
        await line.publish([line.lead(3, "w0")])
        await line.until(lambda: line.last()["dead_lettered"] == 1, 90, "a dead letter")
        address = f"http://127.0.0.1:{line.board_port}"
        async with httpx.AsyncClient(
            base_url=address,
            headers=OWN,
            timeout=60 * BUSY,
            follow_redirects=True,
        ) as client:
            await shown(client, "/board/login", "Token")
            await client.post(
                "/board/login",
                data={"token": os.environ["OPERATOR_TOKEN"], "who": "jane"},
            )
            await shown(client, "/board/system", "What differs")
            answer = await acted(client, "/board/lanes/w0/act/pause", why="test")
            await shown(client, str(answer.url), "leads wait on Kafka until")
            await shown(client, "/board/leads/lead-0", "enriched")
            answer = await acted(
                client,
                "/board/leads/lead-0/act/erase",
                why="test",
                typed="lead-0",
                workspace="w0",
            )
            await shown(client, str(answer.url), "applied")

            answer = await acted(client, "/board/dead/act/plan", **{"from": "dlq"})
            plan = answer.url.path
            await shown(client, plan, "Send 1 dead letter for up to")
            answer = await acted(client, plan, why="test")
            await shown(client, answer.url.path, "1 dead letter was sent back")

            for bulk in ({}, {"bulk": "yes"}):
                file = {"file": ("leads.csv", b"lead_id,workspace,email\nL1,w0,p1@example.org\n")}
                path = (await client.post("/board/publish", files=file)).url.path
                await client.post(f"{path}/columns", data={"workspace": "", **bulk})
                await shown(client, path, "Publish 1 lead for about")
                digest = digest_on((await client.get(path)).text)
                await client.post(f"{path}/send", data={"why": "test", "digest": digest})
                await shown(client, path, "1 of 1 lead published")
        for process in processes:
            assert await process.stop() == 0
            text = process.log.read_text()
            assert not [word for word in REFUSED if word in text], text
