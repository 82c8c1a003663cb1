"""The export as a whole: what is read of Kafka, which lines are written, and what is counted."""

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import IO, Any, Self

import msgspec
import pytest

from stream_app.client.publish.leads import PublishOptions
from stream_app.client.publish.rows import Draft, FileRow
from stream_app.client.results import export as results
from stream_app.client.results.export import (
    MAX_FIELD_COLUMNS,
    OTHER_FIELDS,
    Export,
    Joined,
    Lines,
    Matcher,
    ResultFilter,
    ResultStore,
    export,
    no_stage,
    results_of,
)
from stream_app.config import Kafka, Settings
from stream_app.domain.lead.identity import people, person_key
from stream_app.domain.lead.read import Unreadable
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.messages import Result, Scalar
from stream_app.domain.plan import Destination, Workspace
from stream_app.kafka.readers import Progress

AT_MS = 1_790_000_000_000
SETTINGS = Settings(
    kafka=Kafka(bootstrap="kafka.example:9", partitions=4),
    workspaces={"acme": Workspace("acme"), "beta": Workspace("beta")},
    destinations={
        "people": Destination("people", "acme", webhooks_env=("A",)),
        "firms": Destination("firms", "acme", webhooks_env=("A",)),
        "beta-people": Destination("beta-people", "beta", webhooks_env=("B",)),
    },
)
ADA: dict[str, Scalar] = {"email": "ada@example.com"}
BOB: dict[str, Scalar] = {"email": "bob@example.com"}


def result(lead_id: str, at_ms: int = AT_MS, destination: str = "people", **fields: Scalar) -> Any:
    """Key and value of a record of `leads.enriched`."""
    value = Result(lead_id, "acme", destination, "clay", 1, at_ms, 0, fields)
    return f"acme/{destination}/{lead_id}".encode(), msgspec.json.encode(value)


class KafkaOfTopics:
    """What the topics hold, and what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **topics: list[Any]) -> None:
        self.topics = topics
        self.asked: list[Any] = []
        monkeypatch.setattr(results, "topic_reader", self._reader)
        monkeypatch.setattr(results, "kafka_ready", self._ready)
        self._progress: Progress = lambda done, total: None

    async def _ready(self, settings: Settings, program: str, *say: Any) -> None:
        assert settings is SETTINGS
        self.asked.append(program)
        for tell in say:
            tell("Kafka is away")

    def _reader(self, settings: Settings, progress: Progress) -> Self:
        assert settings is SETTINGS
        self._progress = progress
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def read(self, topic: str) -> AsyncIterator[list[Any]]:
        self.asked.append(topic)
        records = self.topics["state" if topic == SETTINGS.names.state else "enriched"]
        for done, (key, value) in enumerate(records, 1):
            self._progress(done, len(records))
            yield [SimpleNamespace(key=key, value=value)]


class Stages:
    """The stages of a command, with what each told last."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], list[tuple[int, int]]] = {}

    @contextmanager
    def __call__(self, what: str, unit: str) -> Iterator[Progress]:
        told = self.told.setdefault((what, unit), [])
        yield lambda done, total: told.append((done, total))


def exported(
    wanted: ResultFilter,
    join: Joined | None = None,
    *,
    raw: bool = False,
    stage: Any = no_stage,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Export, list[str]]:
    out = io.StringIO()
    done = asyncio.run(export(SETTINGS, wanted, out, "csv", join, stage, say, raw=raw))
    *lines, end = out.getvalue().split("\n")
    assert end == "", "each line has its end"
    return done, lines


HEADER = "lead_id,workspace,destination,source,version,at,age_s"
AT = "2026-09-21T14:13:20.000+00:00"


# ------------------------------------------------------------------------------------ results alone


def test_the_results_are_written_in_the_order_of_their_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "_PROGRESS_EVERY", 2)
    kafka = KafkaOfTopics(
        monkeypatch,
        enriched=[
            result("crm-1", T="old"),
            result("crm-2", T="=1"),
            (b"acme/people/odd", b"[]"),
            result("crm-3", AT_MS - 1, T="too old", Old=1),
            result("crm-4", destination="firms", T="elsewhere"),
            result("crm-5", T="gone"),
            (b"acme/people/crm-5", None),
            (None, b"no key"),
            result("crm-1", T="new", Age=7),
        ],
    )
    stages = Stages()
    told: list[str] = []
    wanted = ResultFilter("acme", "people", AT_MS)
    done, lines = exported(wanted, stage=stages, say=told.append)
    assert lines == [
        f"{HEADER},T,Age",
        f"crm-1,acme,people,clay,1,{AT},0,new,7",
        f"crm-2,acme,people,clay,1,{AT},0,'=1,",
    ], "no column is of a result that is not written"
    assert done == Export(lines=2, results=2, unreadable=1)
    assert kafka.asked == ["results", "leads.enriched"]
    assert told == ["Kafka is away"]
    assert stages.told == {
        ("reading results", "offsets"): [(n, 9) for n in range(1, 10)],
        ("looking at the results", "results"): [(2, 4), (4, 4)],
        ("writing", "lines"): [(2, 2)],
    }
    assert exported(wanted, raw=True)[1][2].endswith(",=1,")


@pytest.mark.parametrize(
    ("key", "wanted", "matches"),
    [
        (b"acme/people/1", ResultFilter(), True),
        (b"acme/people/record:leads/0/7", ResultFilter("acme", "people"), True),
        (b"acme/people/1", ResultFilter("acme"), True),
        (b"acme/people/1", ResultFilter("people"), False),
        (b"acme/people/1", ResultFilter(None, "people"), True),
        (b"acme/people/1", ResultFilter(None, "1"), False),
        (b"acme/people/1", ResultFilter("beta", "people"), False),
        (b"acme/people/1", ResultFilter("acme", "firms"), False),
        (b"\xff/people/1", ResultFilter(), True),
        (b"\xff/people/1", ResultFilter("acme"), False),
        (b"acme/people", ResultFilter(), False),
        (b"", ResultFilter(), False),
        (None, ResultFilter(), False),
    ],
)
def test_a_key_is_of_a_workspace_and_a_destination(
    key: bytes | None,
    wanted: ResultFilter,
    matches: bool,
) -> None:
    assert wanted.matches(key) is matches


async def test_a_program_gets_each_result_and_is_told_of_those_it_cannot_get(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka = KafkaOfTopics(
        monkeypatch,
        enriched=[
            (b"acme/people/odd", b"{}"),
            result("crm-1", AT_MS - 1),
            result("crm-2", AT_MS),
            result("crm-3", destination="firms"),
            (b"acme/people/odd-2", b"{}"),
            result("crm-4", AT_MS + 1, T=1),
        ],
    )
    unreadable: list[str] = []
    wanted = ResultFilter("acme", "people", AT_MS)
    got = [one async for one in results_of(SETTINGS, wanted, unreadable.append)]
    assert [(one.lead_id, one.fields) for one in got] == [("crm-2", {}), ("crm-4", {"T": 1})]
    assert unreadable == ["a result on leads.enriched cannot be read by this version"] * 2
    assert kafka.asked == ["results", "leads.enriched"]


# ------------------------------------------------------------------------------- joined to the file


def file_of(lines: tuple[str, ...]) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 (it goes with the test)
    file.write("".join(f"{line}\n" for line in lines).encode())
    file.seek(3)  # somebody has read of it before
    return file


def test_each_row_of_a_file_has_its_result_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_PROGRESS_EVERY", 2)
    (ada,) = people(ADA)
    (bob,) = people(BOB)
    kafka = KafkaOfTopics(
        monkeypatch,
        enriched=[
            result("crm-1", T="by id"),
            result("of-bob", T="by person"),
            (b"acme/people/crm-9", b"[]"),
            result("crm-8", AT_MS - 1, Old=1),
            result("nobody", Odd=1),
        ],
        state=[
            (person_key("acme", "people", bob), b"d/acme/people/of-bob"),
            (person_key("acme", "people", ada), b"d/acme/people/crm-1"),
            (person_key("acme", "people", ada), None),
            (None, b"d/acme/people/x"),
            (b"d/acme/people/of-bob", b"the row itself"),
        ],
    )
    lines = (
        "Mail,id",
        "ada@example.com,crm-1",
        'bob@example.com,"x"y',
        "bob@example.com,",
        "ada@example.com,other",
        "ada@example.com,crm-9",
        "ada@example.com,crm-8",
        *['x@example.com,"x"y'] * 10,
    )
    file = file_of(lines)
    join = Joined("leads.csv", file, {"email": "Mail", "lead_id": "id"})
    stages = Stages()
    done, written = exported(ResultFilter("acme", "people", AT_MS), join, stage=stages)
    assert written == [
        f"Mail,id,{HEADER},T",
        f"ada@example.com,crm-1,crm-1,acme,people,clay,1,{AT},0,by id",
        f"bob@example.com,,of-bob,acme,people,clay,1,{AT},0,by person",
        "ada@example.com,other,,,,,,,,",
        "ada@example.com,crm-9,,,,,,,,",
        "ada@example.com,crm-8,,,,,,,,",
    ]
    assert done == Export(
        lines=5,
        results=2,
        unreadable=1,
        broken=[3, *range(8, 17)],
        broken_count=11,
    ), "at most ten are named"
    assert kafka.asked == ["results --join", "leads.enriched", "stream-app-state"]
    size = sum(len(line) + 1 for line in lines)
    ((first, second),) = [
        told
        for (what, unit), told in stages.told.items()
        if (what, unit) == ("looking for the results of the rows", "bytes")
    ]
    assert first[1] == second[1] == size
    assert 0 < first[0] < second[0] < size
    assert stages.told["reading who is who", "offsets"] == [(n, 5) for n in range(1, 6)]
    assert stages.told["writing", "lines"] == [(2, 5), (4, 5)]


def test_a_file_is_refused_before_kafka_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = KafkaOfTopics(monkeypatch)
    for titles, workspace, says in (
        ("Mail,Mail", "acme", "leads.csv: two columns would have the name email; rename one, or"),
        ("a,b", "acme", "leads.csv: --map email=Mail: no such column; there are: a, b"),
        ("Mail", None, "leads.csv: no row names its workspace: pass --workspace, one of acme, be"),
    ):
        join = Joined("leads.csv", io.BytesIO(titles.encode()), {"email": "Mail"})
        with pytest.raises(SettingsError) as error:
            exported(ResultFilter(workspace), join)
        assert str(error.value).startswith(says)
    assert kafka.asked == []


# ------------------------------------------------------------------------------------- which result


def matched(store: ResultStore, draft: Draft | Unreadable, **options: Any) -> int:
    matcher = Matcher(SETTINGS, PublishOptions(**options), store)
    return matcher.match(FileRow(2, draft))


def test_a_row_takes_the_best_of_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its id, then by the leads of its person, then by the id that is made from the person."""
    linkedin: dict[str, Scalar] = {"linkedin_url": "https://www.linkedin.com/in/ada"}
    both = {**ADA, **linkedin}
    by_linkedin, by_email = people(both)
    keys = [
        f"acme/people/p-{by_email}",
        f"acme/people/p-{by_linkedin}",
        "acme/people/sent-2",
        "acme/people/sent-1",
        "acme/people/crm-1",
    ]
    store = ResultStore()
    options = {"workspace": "acme", "destination": "people"}
    row: Draft = {"fields": both, "lead_id": "crm-1"}
    store.put_people(
        [
            (person_key("acme", "people", by_email), [b"acme/people/sent-2"]),
            (person_key("acme", "people", by_linkedin), [b"acme/people/sent-1"]),
            (person_key("beta", "beta-people", by_email), [b"acme/people/nobody"]),
        ],
    )
    assert matched(store, dict(row), **options) == 0
    for key in keys:
        store.put([(key.encode(), b"{}")])
        assert matched(store, dict(row), **options) == store.of_lead(key.encode()) > 0, key
    name: dict[str, Scalar] = {"domain": "acme.example", "first_name": "A", "last_name": "B"}
    (by_name,) = people(name)
    store.put([(f"acme/people/p-{by_name}".encode(), b"{}")])
    assert matched(store, {"fields": {**name, **BOB}}, **options) == 0, "a namesake may be another"
    assert matched(store, {"fields": name}, **options) > 0
    assert matched(store, {"fields": name, "destination": "firms"}, **options) == 0
    assert matched(store, {"fields": name, "workspace": "beta"}, workspace="acme") == 0
    store.put([(f"acme/None/p-{by_name}".encode(), b"{}")])
    assert matched(store, {"fields": name}, workspace="acme") == 0, "it has two destinations"
    assert matched(store, Unreadable("bad_csv", "broken"), **options) == 0
    assert matched(store, {"fields": {"notes": "x"}}, **options) == 0

    def again(_: object) -> None:
        raise AssertionError("they are clean already")

    monkeypatch.setattr("stream_app.domain.lead.identity.normalise", again)
    assert matched(store, dict(row), **options) > 0


def test_keys_are_stored_as_short_hashes() -> None:
    store = ResultStore()
    store.put([(b"acme/people/" + b"x" * 500, b"{}")])
    store.put_people([(b"p/acme/people/y", [b"acme/people/" + b"x" * 500])])
    lengths = "SELECT length(key) FROM results UNION SELECT length(key) + length(lead) FROM people"
    assert [length for (length,) in store._db.execute(lengths)] == [16, 32]


def test_the_store_of_a_full_disk_says_what_to_do() -> None:
    store = ResultStore()
    store._db.execute("PRAGMA max_page_count = 5")
    with pytest.raises(StreamAppError) as error:
        store.put_people((f"{n}".encode(), [b"x"]) for n in range(1_000))
    assert str(error.value) == (
        "no room for the results in the temporary folder (database or disk is full): "
        "set TMPDIR to a larger one"
    )


@pytest.mark.parametrize(("names", "has_others"), [(4_999, False), (5_000, False), (5_001, True)])
def test_a_column_of_other_fields_is_only_where_there_are_too_many(
    names: int,
    has_others: bool,
) -> None:
    assert MAX_FIELD_COLUMNS == 5_000
    out = io.StringIO()
    lines = Lines(out, "csv")
    of_all = Result("crm-1", "acme", "people", "clay", 1, AT_MS, 0, {})
    fields: dict[str, Scalar] = {f"f{n}": n for n in range(names)}
    for _ in range(2):
        lines.learn(msgspec.structs.replace(of_all, fields=fields))
    lines.begin([])
    assert lines.has_others is has_others
    titles = out.getvalue().strip().split(",")
    assert len(titles) == 7 + min(names, 5_000) + has_others
    assert (titles[-1] == OTHER_FIELDS) is has_others
