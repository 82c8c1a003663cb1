"""`doctor` as a whole, with each of its checks replaced: which come in which order, what each is
given, and what depends on what.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from stream_app.client.doctor import checks as doctor
from stream_app.client.doctor.checks import (
    Check,
    examine,
)
from stream_app.client.doctor.gateways import CheckFailed
from stream_app.config import Kafka, Settings
from stream_app.config.model import Gateway, Notify, Privacy, Redis, Trace
from stream_app.config.secret_files import Secrets
from stream_app.domain.model.errors import TopicsError
from stream_app.domain.plan import Destination, Workspace
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.connection import KafkaConnection

S3CRET = "s3cret"
SETTINGS = Settings(
    kafka=Kafka(bootstrap="kafka.example:9", namespace="t.", partitions=4),
    workspaces={
        name: Workspace(name, partition=number) for name, number in (("acme", 3), ("beta", 2))
    },
    destinations={
        "people": Destination("people", "acme", webhooks_env=("A", "B")),
        "firms": Destination("firms", "beta", webhooks_env=("C",), callbacks=False),
    },
    gateway=Gateway(public_url="https://leads.example.com"),
    privacy=Privacy(pepper_env="PEPPER"),
    notify=Notify(url_env="HOOK"),
    secrets=Secrets(
        {
            "A": f"https://api.clay.com/v3/{S3CRET}",
            "B": f"https://api.clay.com/v3/{S3CRET}-2",
            "C": f"http://127.0.0.1:444/{S3CRET}",
            "HOOK": f"https://hooks.example.com/{S3CRET}",
            "REDIS": f"redis://:{S3CRET}@redis.example",
        },
    ),
)
NAMES = SETTINGS.names
CHECKS = (
    "kafka_answers",
    "strangers_may_not_write",
    "may_transact",
    "clocks_agree",
    "may_join",
    "runs",
    "redis_answers",
    "host_answers",
    "gateway_answers",
    "callbacks_come_in",
)


class Systems:
    """What `doctor` asks. A check that is in `fails` fails with its words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: dict[str, str] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.views: dict[str, LaneView] = {}
        self.topics: list[str] = []
        for name in CHECKS:
            monkeypatch.setattr(doctor, name, self._check(name))
        for name, work in (
            ("kafka_ready", self._ready),
            ("check_topics", self._check_topics),
            ("namespace_problems", self._problems),
            ("last_views", self._views),
        ):
            monkeypatch.setattr(doctor, name, work)
        monkeypatch.setattr(doctor, "check_board", lambda url: self.asked.append(("board", url)))

    def _check(self, name: str) -> Callable[..., Awaitable[object]]:
        async def check(*args: Any) -> object:
            self.asked.append((name, *args))
            key = name if name not in ("may_join", "runs") else f"{name} {args[1]}"
            if key in self.fails:
                raise CheckFailed(self.fails[key])
            return True if name == "gateway_answers" else f"{name} is well"

        return check

    async def _ready(self, settings: Settings, program: str) -> None:
        assert settings.kafka == SETTINGS.kafka
        self.asked.append(("kafka_ready", program))

    async def _check_topics(self, connection: Any, plan: Any, within_s: float) -> None:
        assert plan == SETTINGS.topic_plan()
        self.asked.append(("check_topics", connection.bootstrap, within_s))
        if self.topics:
            raise TopicsError(self.topics)

    async def _problems(self, settings: Settings) -> list[str]:
        return [self.fails["namespace"]] if "namespace" in self.fails else []

    async def _views(self, settings: Settings) -> dict[str, LaneView]:
        return self.views


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> Systems:
    return Systems(monkeypatch)


async def lines_of(settings: Settings = SETTINGS, *, notify: bool = False) -> list[tuple[str, ...]]:
    checks = [check async for check in examine(settings, notify=notify)]
    assert not [check for check in checks if S3CRET in check.text]
    return [(check.name, check.verdict, check.text) for check in checks]


ALL = [
    ("kafka", "ok", "kafka_answers is well"),
    ("topics", "ok", f"{len(SETTINGS.topic_plan())} topics are as planned"),
    ("namespace", "ok", "what is on Kafka began with these settings, or is empty"),
    ("strangers", "ok", "strangers_may_not_write is well"),
    ("transactions", "ok", "may_transact is well"),
    ("clock", "ok", "clocks_agree is well"),
    ("lanes", "ok", "no lane is held"),
    ("group", "ok", "may_join is well"),
    ("worker", "ok", "runs is well"),
    ("group", "ok", "may_join is well"),
    ("replay", "ok", "runs is well"),
    ("redis", "skipped", "none is configured: the cache is in memory"),
    ("clay", "ok", "host_answers is well"),
    ("clay", "ok", "host_answers is well"),
    ("proxy", "ok", "a reverse proxy answers at https://leads.example.com"),
    ("callbacks", "ok", "callbacks_come_in is well"),
    ("board", "ok", f"the board answers at {SETTINGS.board_url}"),
]
AFTER_KAFKA = ALL[11:]


async def test_where_all_is_well_each_system_is_asked_once(systems: Systems) -> None:
    assert await lines_of() == ALL
    within_s = doctor._WITHIN_S
    with_kafka = [
        (name, *args[1:])
        for name, *args in systems.asked
        if args and isinstance(args[0], KafkaConnection)
    ]
    assert with_kafka == [
        ("kafka_answers", within_s),
        ("strangers_may_not_write", (NAMES.commands, NAMES.callbacks), within_s),
        ("may_transact", "t.stream-app-doctor", within_s),
        ("clocks_agree", "t.stream-app-doctor", NAMES.audit, within_s),
        ("may_join", NAMES.worker_app, within_s),
        ("runs", "worker", NAMES.worker_app, within_s),
        ("may_join", NAMES.replay_app, within_s),
        ("runs", "replay", NAMES.replay_app, within_s),
    ]
    egress = SETTINGS.make_egress()
    assert [asked for asked in systems.asked if not isinstance(asked[1], KafkaConnection)] == [
        ("kafka_ready", "doctor"),
        ("check_topics", "kafka.example:9", within_s),
        ("host_answers", "http://127.0.0.1:444", egress, within_s),
        ("host_answers", "https://api.clay.com", egress, within_s),
        ("gateway_answers", SETTINGS, egress, within_s),
        ("callbacks_come_in", SETTINGS, "people", egress, within_s),
        ("board", SETTINGS.board_url),
    ]


async def test_without_kafka_what_needs_it_is_skipped_and_the_rest_is_asked(
    systems: Systems,
) -> None:
    systems.fails["kafka_answers"] = "Kafka is away"
    names = ("topics", "namespace", "strangers", "transactions", "clock", "lanes", "group")
    assert await lines_of() == [
        ("kafka", "failed", "Kafka is away"),
        *((name, "skipped", "it needs Kafka") for name in (*names, "worker", "replay")),
        *AFTER_KAFKA,
    ]
    assert {asked[0] for asked in systems.asked} == {
        "kafka_answers",
        "host_answers",
        "gateway_answers",
        "callbacks_come_in",
        "board",
    }


async def test_without_topics_what_needs_them_is_skipped(systems: Systems) -> None:
    systems.topics = ["t.leads is missing", "t.audit has 3 partitions"]
    systems.fails["may_transact"] = "no transaction"
    lines = await lines_of()
    failed = [(name, text) for name, verdict, text in lines if verdict == "failed"]
    skipped = [(name, text) for name, verdict, text in lines if verdict == "skipped"]
    assert failed == [
        *(("topics", line) for line in str(TopicsError(systems.topics)).split("\n")),
        ("transactions", "no transaction"),
    ]
    assert skipped == [
        *((name, "it needs the topics") for name in ("namespace", "strangers", "clock", "lanes")),
        ("redis", "none is configured: the cache is in memory"),
    ]
    assert lines[-len(AFTER_KAFKA) :] == AFTER_KAFKA


async def test_what_fails_alone_is_told_with_its_own_verdict(systems: Systems) -> None:
    systems.fails = {
        "strangers_may_not_write": "any client may write",
        "clocks_agree": "an hour off",
        f"may_join {NAMES.worker_app}": "the group is closed",
        "runs replay": "no replay process runs",
        "host_answers": "a firewall",
        "namespace": "another namespace",
        "callbacks_come_in": "another key",
    }
    systems.views = {
        "acme": LaneView("acme", 3, 5, "closed", "healthy", 100, 8, "paused", "by jane"),
        "beta": LaneView("beta", 2, 5, "closed", "healthy", 100, 8),
    }
    changed = {
        ("namespace", 0): ("failed", "another namespace"),
        ("strangers", 0): ("advice", "any client may write"),
        ("clock", 0): ("failed", "an hour off"),
        ("lanes", 0): (
            "advice",
            "1 of 2 lanes is held: `stream-app explain` says why, and what lifts it",
        ),
        ("group", 0): ("failed", "the group is closed"),
        ("worker", 0): ("skipped", f"it needs to see the group {NAMES.worker_app}"),
        ("replay", 0): ("failed", "no replay process runs"),
        ("clay", 0): ("failed", "a firewall"),
        ("clay", 1): ("failed", "a firewall"),
        ("callbacks", 0): ("failed", "another key"),
    }
    expected = []
    seen: dict[str, int] = {}
    for name, verdict, text in ALL:
        number = seen.get(name, 0)
        seen[name] = number + 1
        expected.append((name, *changed.get((name, number), (verdict, text))))
    assert await lines_of() == expected


async def test_several_lanes_that_are_held_are_counted(systems: Systems) -> None:
    systems.views = {
        name: LaneView(name, number, 5, "closed", "healthy", 100, 8, "paused", "by jane")
        for name, number in (("acme", 3), ("beta", 2))
    }
    assert await doctor._lanes(SETTINGS) == Check(
        "lanes",
        "advice",
        "2 of 2 lanes are held: `stream-app explain` says why, and what lifts it",
    )


async def test_what_the_settings_leave_open_is_advice(
    systems: Systems,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def says(*args: Any) -> Check:
        return Check("of " + str(args[1:]), "ok", "asked")

    monkeypatch.setattr(doctor, "trace_check", says)
    monkeypatch.setattr(doctor, "message_check", says)
    workspaces = {name: Workspace(name, partition=1) for name in ("acme", "beta")}
    settings = msgspec.structs.replace(
        SETTINGS,
        privacy=Privacy(),
        workspaces=workspaces,
        redis=Redis(url_env="REDIS", ca_file="ca.pem"),
        trace=Trace(endpoint="http://trace.example/v1/traces"),
    )
    lines = await lines_of(settings, notify=True)
    assert lines[:11] == ALL[:11]
    assert lines[11] == (
        "privacy",
        "advice",
        "no pepper: hashes of people can be guessed from a list of addresses; set "
        "privacy.pepper_env (docs/privacy.md)",
    )
    assert lines[12][:2] == ("partitions", "advice")
    assert lines[12][2].startswith("partition 1 is shared by acme, beta: ")
    assert lines[13] == ("redis", "ok", "redis_answers is well")
    assert lines[14:18] == AFTER_KAFKA[1:5]
    assert lines[19:] == [
        ("of ()", "ok", "asked"),
        (f"of ({settings.make_egress()!r},)", "ok", "asked"),
    ]
    url = SETTINGS.secrets["REDIS"]
    assert ("redis_answers", url, doctor._WITHIN_S, "ca.pem") in systems.asked


@pytest.mark.parametrize(
    ("public_url", "answers", "lines"),
    [
        (
            "http://leads.example.com",
            False,
            [
                (
                    "callbacks",
                    "advice",
                    "gateway.public_url is http: results and tokens are not encrypted; use https",
                ),
                (
                    "proxy",
                    "failed",
                    "the gateway itself answers at http://leads.example.com, so that any peer "
                    "could exhaust its memory: put a reverse proxy with TLS in front of it, such "
                    "as deploy/nginx.conf, which keeps the header Connection to itself",
                ),
                ("callbacks", "ok", "callbacks_come_in is well"),
            ],
        ),
        (
            "https://127.0.0.1:9",
            False,
            [
                (
                    "proxy",
                    "skipped",
                    "gateway.public_url is this machine, and no reverse proxy answers there",
                ),
                ("callbacks", "ok", "callbacks_come_in is well"),
            ],
        ),
        (
            "https://127.0.0.1:9",
            True,
            [
                ("proxy", "ok", "a reverse proxy answers at https://127.0.0.1:9"),
                ("callbacks", "ok", "callbacks_come_in is well"),
            ],
        ),
    ],
)
async def test_where_callbacks_come_in_is_told_by_the_url_and_who_answers_there(
    systems: Systems,
    monkeypatch: pytest.MonkeyPatch,
    public_url: str,
    answers: bool,
    lines: list[tuple[str, str, str]],
) -> None:
    async def gateway_answers(*_: object) -> bool:
        return answers

    monkeypatch.setattr(doctor, "gateway_answers", gateway_answers)
    settings = msgspec.structs.replace(SETTINGS, gateway=Gateway(public_url=public_url))
    told = await lines_of(settings)
    assert told[14:-1] == lines
    none = {"firms": SETTINGS.destinations["firms"]}
    told = await lines_of(msgspec.structs.replace(settings, destinations=none))
    text = "no destination has callbacks (callbacks = false, or a routine without run_webhook)"
    assert ("callbacks", "skipped", text) in told
    assert "proxy" not in {name for name, _, _ in told}
