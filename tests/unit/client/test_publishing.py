"""What is sent of checked leads, where it goes, and what it will cost, without a broker."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Self

import msgspec
import pytest

from stream_app.client.publish import leads as publishing
from stream_app.client.publish.leads import (
    CheckedLeads,
    Checker,
    PublishOptions,
    PublishSummary,
    Ready,
    Refusal,
    announced,
    any_import_id,
    check_rows,
    column_lines,
    publish,
    quotes_of,
    send_batch,
    topic_of,
)
from stream_app.client.publish.rows import USUAL_FIELDS, Draft, FileRow
from stream_app.config import Kafka, Settings
from stream_app.domain.lead.identity import given_id, people
from stream_app.domain.lead.read import MAX_LEAD_BYTES, Unreadable
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.limits.meters import Estimate
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.messages import ImportSummary, Lead, Scalar
from stream_app.domain.plan import Destination, Workspace
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.price import Part, Quote
from tests.support.partition.virtual import virtual_time

SETTINGS = Settings(
    kafka=Kafka(bootstrap="kafka.example:9", partitions=4, broker_wait_s=7.5),
    workspaces={
        "acme": Workspace("acme", budget=BudgetPolicy(credits_per_day=100), partition=3),
        "beta": Workspace("beta", partition=1),
    },
    destinations={
        "people": Destination(
            "people",
            "acme",
            webhooks_env=("A",),
            estimate_credits=2,
            ceiling_credits=5,
            columns={"email": "E-Mail", "phone": "Phone"},
        ),
        "firms": Destination("firms", "acme", webhooks_env=("A",), estimate_credits=3),
        "beta-people": Destination("beta-people", "beta", webhooks_env=("B",)),
    },
)
ADA: dict[str, Scalar] = {"email": "ada@example.com"}
LINKEDIN: dict[str, Scalar] = {"linkedin_url": "https://www.linkedin.com/in/ada"}


def ada(**more: Any) -> Draft:
    return {"fields": dict(ADA), "workspace": "acme", "destination": "people", **more}


def check(draft: Draft, options: PublishOptions | None = None, *, ids: bool = False) -> Any:
    checker = Checker(SETTINGS, options or PublishOptions(), ids=ids)
    return checker.check(FileRow(7, draft, raw="as it stood\n"))


# --------------------------------------------------------------------------------------- the record


def test_a_record_holds_what_the_row_says_and_nothing_else() -> None:
    row: Draft = {"fields": dict(ADA), "destination": "firms", "lead_id": " crm-1 "}
    assert check(row, PublishOptions("acme", "people", "may")) == Ready(
        "acme",
        "firms",
        3,
        (
            b'{"fields":{"email":"ada@example.com"},"destination":"firms","lead_id":" crm-1 ",'
            b'"workspace":"acme","import_id":"may"}'
        ),
        7,
        "crm-1",
        " crm-1 ",
    )
    plain = check({"fields": dict(ADA), "workspace": "beta"})
    assert plain.value == b'{"fields":{"email":"ada@example.com"},"workspace":"beta"}'
    assert plain.destination == "beta-people", "the only one of its workspace"
    forced = check({"fields": dict(ADA), "workspace": "beta"}, PublishOptions(force=True))
    assert forced.value == b'{"fields":{"email":"ada@example.com"},"workspace":"beta","force":true}'


@pytest.mark.parametrize(
    ("draft", "reason", "text"),
    [
        (
            Unreadable("bad_csv", "broken quotes"),
            "bad_csv",
            "broken quotes",
        ),
        (
            ada(fields={"email": "no address"}),
            "bad_email",
            "Its e-mail is not an e-mail address: correct it, or leave it empty to publish the "
            "rest of the row",
        ),
        (ada(fields={**ADA, "x": "\udce9"}), "not_utf8", "The row is not UTF-8"),
        (
            ada(fields={**ADA, "x": object()}),
            "not_json",
            "The row holds a value that JSON cannot represent",
        ),
        (ada(workspace="other"), "unknown_workspace", "The config has no such workspace"),
        (
            ada(destination="beta-people"),
            "unknown_destination",
            "The workspace has no such destination, or it has several and no default_destination",
        ),
        (
            ada(destination=None),
            "unknown_destination",
            "The workspace has no such destination, or it has several and no default_destination",
        ),
        (
            ada(fields={**LINKEDIN}),
            "nothing_to_send",
            "No field of the lead has a column at this destination",
        ),
        (ada(fields="ada"), "invalid_lead", "Not a valid lead: Expected `object`, got `str`"),
    ],
)
def test_a_refusal_says_why_and_keeps_the_row(draft: Any, reason: str, text: str) -> None:
    answer = check(draft)
    assert isinstance(answer, Refusal)
    assert answer.text.startswith(text)
    assert answer == Refusal(7, reason, answer.text, "as it stood")


def test_what_is_written_of_a_refusal_leaves_out_a_row_that_is_no_text() -> None:
    assert msgspec.json.encode(Refusal(7, "bad_csv", "why")) == (
        b'{"line":7,"reason":"bad_csv","text":"why"}'
    )


OF_ADA, OF_EMAIL = people({**ADA, **LINKEDIN})
BOTH = {**ADA, **LINKEDIN}


@pytest.mark.parametrize(
    ("given", "ids", "lead_id"),
    [
        (None, False, ""),
        (None, True, f"p-{OF_ADA}"),
        ("", True, f"p-{OF_ADA}"),
        (" \t", True, f"p-{OF_ADA}"),
        ("crm-1", True, "crm-1"),
        (f" p-{OF_EMAIL} ", False, f"p-{OF_EMAIL}"),
        (f"p-{'A' * 22}", False, given_id(f"p-{'A' * 22}")),
    ],
)
def test_a_lead_has_the_id_that_the_worker_will_give_it(
    given: str | None,
    ids: bool,
    lead_id: str,
) -> None:
    """An id of our own form stays only if it follows from these fields."""
    answer = check(ada(fields=dict(BOTH), lead_id=given), ids=ids)
    assert answer.lead_id == lead_id
    assert answer.given == (given if given and given.strip() else "")
    assert answer.is_changed == bool(answer.given and answer.given != lead_id)


def test_the_fields_of_a_row_are_cleaned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleaning takes most of the time of a row, and a file may have millions."""

    def again(_: object) -> None:
        raise AssertionError("they are clean already")

    monkeypatch.setattr("stream_app.domain.lead.identity.normalise", again)
    assert check(ada(), ids=True).lead_id.startswith("p-")


def test_without_a_workspace_there_is_no_default() -> None:
    checker = Checker(Settings(), PublishOptions())
    answer = checker.check(FileRow(1, {"fields": dict(ADA)}))
    assert isinstance(answer, Refusal)
    assert answer.reason == "no_workspace"


# ---------------------------------------------------------------------------- the leads on the disk


def lead_of(workspace: str, line: int, note: str = "") -> Ready:
    value = msgspec.json.encode({"fields": {**ADA, "note": note}, "workspace": workspace})
    return Ready(workspace, "people", 3, value, line, "crm-1", "")


def test_what_is_kept_of_a_lead_is_its_values_only() -> None:
    """Millions of leads lie in the temporary folder, so the names of fields are not repeated."""
    lead = lead_of("acme", 2)
    kept = publishing._encode(lead)
    values = len(lead.value) + sum(map(len, (lead.workspace, lead.destination, lead.lead_id)))
    assert len(kept) < values + 16
    batch = CheckedLeads()
    batch.add(lead)
    batch.add(lead_of("beta", 3))
    assert list(batch) == list(batch) == [lead, lead_of("beta", 3)]
    batch.close()
    with pytest.raises(ValueError, match="closed"):
        batch.add(lead)


def test_a_full_folder_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

        seek = write

    batch = CheckedLeads()
    monkeypatch.setattr(batch, "_file", Full())
    for work in (lambda: batch.add(lead_of("acme", 2)), lambda: list(batch)):
        with pytest.raises(StreamAppError) as error:
            work()
        assert str(error.value) == (
            "the temporary folder has no room for the leads (No space left on device): "
            "set TMPDIR to a larger one"
        )


def test_the_first_lead_of_each_workspace_carries_the_summary_of_its_import() -> None:
    of_acme = ImportSummary(9, 4, 2, "leads.csv", "jane")
    of_beta = ImportSummary(9, 4, 3, "leads.csv", "jane")
    asked = {"acme": of_acme, "beta": of_beta}
    leads = [lead_of(name, line) for line, name in enumerate(("beta", "acme", "beta", "acme", "x"))]
    for _ in range(2):  # what is asked for stays as it is
        sent = list(announced(leads, asked))
        assert [lead.line for lead in sent] == [0, 1, 2, 3, 4]
        assert [msgspec.json.decode(lead.value, type=Lead).import_summary for lead in sent] == [
            of_beta,
            of_acme,
            None,
            None,
            None,
        ]
    assert sent[2:] == leads[2:]


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (1, False)])
def test_a_lead_carries_a_summary_as_long_as_clay_takes_both(
    spare: int,
    fits: bool,
) -> None:
    summary = {"acme": ImportSummary(9, 4, 2)}
    (marked,) = announced([lead_of("acme", 2)], summary)
    note = "x" * (MAX_LEAD_BYTES - len(marked.value) + spare)
    (sent,) = announced([lead_of("acme", 2, note)], summary)
    assert (b"import_summary" in sent.value) is fits
    assert len(sent.value) == (MAX_LEAD_BYTES if fits else len(lead_of("acme", 2, note).value))


def test_an_import_without_a_name_gets_one_of_its_day() -> None:
    before = datetime.now(UTC)
    names = [any_import_id() for _ in range(20)]
    days = {f"{day:%Y-%m-%d}" for day in (before, datetime.now(UTC))}
    assert {name[:10] for name in names} <= days
    assert all(name[10] == "-" and len(name) == 17 for name in names)
    assert len(set(names)) == 20
    assert not {letter for name in names for letter in name[11:]} & set("aeiouyl"), "no words"


# --------------------------------------------------------------------------------------- the counts


def counted(
    rows: Iterable[FileRow],
    on_progress: Any = lambda _: None,
    options: PublishOptions | None = None,
) -> PublishSummary:
    checker = Checker(SETTINGS, options or PublishOptions("acme", "people"))
    return asyncio.run(check_rows(rows, checker, lambda _: None, on_progress=on_progress))


def rows_of(*drafts: Draft | Unreadable) -> list[FileRow]:
    return [FileRow(line, draft) for line, draft in enumerate(drafts, 2)]


def test_fields_are_named_up_to_a_bound() -> None:
    def wide(first: int, names: int) -> Draft:
        return ada(fields={**ADA, **{f"f{n}": 1 for n in range(first, first + names)}})

    whole = counted(rows_of(wide(0, 150), wide(100, 150), wide(0, 400)))
    assert list(whole.fields) == ["email", *(f"f{n}" for n in range(199))]
    assert list(counted(rows_of(wide(0, 400))).fields) == list(whole.fields)
    assert len(counted(rows_of(wide(0, 198), wide(198, 1))).fields) == 200


def test_addresses_are_looked_for_in_the_first_rows_only() -> None:
    hidden: Draft = {"fields": {"Write to": "a@b.example", "phone": "1"}}
    refused = Unreadable("bad_csv", "broken")
    rows = rows_of(refused, *[hidden] * 150, *[ada()] * 48, hidden, hidden)
    assert counted(rows).addresses == {"Write to": 151, "email": 48}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"a": "x@y.example", "b": " x@y.example\n", "c": "xy.example", "d": "x@y@z"}, ["a", "b"]),
        ({"a": "x y@z.example", "b": "@y", "c": "x@", "d": "", "e": 7, "f": None}, []),
        ({"a": f"{'x' * 64}@y", "b": f"{'x' * 65}@y"}, ["a"]),
        ({"a": f"x@{'y' * 255}", "b": f"x@{'y' * 256}"}, ["a"]),
        ({"a": f"{' ' * 300}x@y.example", "b": f"{'x' * 64}@{'y' * 255}"}, ["a", "b"]),
        ({"a": f"{' ' * 310}x@y.example"}, []),
        ({**{f"f{n}": 1 for n in range(199)}, "a": "x@y.example"}, ["a"]),
        ({**{f"f{n}": 1 for n in range(200)}, "a": "x@y.example"}, []),
        ("x@y.example", []),
        (None, []),
    ],
)
def test_something_like_an_address_is_recognised_in_any_cell(fields: Any, names: list[str]) -> None:
    row = {"fields": fields, "workspace": "acme"}
    assert list(counted(rows_of(row)).addresses) == names


@virtual_time
async def test_others_have_their_turn_while_a_long_file_is_checked() -> None:
    turns: list[int] = []
    checked: list[int] = []

    async def other() -> None:
        while True:
            turns.append(len(checked))
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    await asyncio.sleep(0)
    await check_rows(
        rows_of(*[ada()] * 1_001),
        Checker(SETTINGS, PublishOptions()),
        lambda lead: checked.append(lead.line),
    )
    beside.cancel()
    assert turns == [0, 500, 1_000]
    assert asyncio.get_running_loop().time() == 0, "the file is not made to wait"


# ------------------------------------------------------------------------------------- the columns


def lines_about(fields: dict[str, Any], columns: dict[str, str]) -> list[str]:
    destinations = {
        alias: Destination(alias, "acme", webhooks_env=("A",), columns=names)
        for alias, names in (("q", columns), ("p", columns), ("all", {}))
    }
    settings = msgspec.structs.replace(SETTINGS, destinations=destinations)
    summary = PublishSummary(rows=1, fields=dict.fromkeys(fields))
    summary.going.update({("acme", "q"): 1, ("beta", "p"): 1, ("beta", "all"): 1})
    return list(column_lines(settings, list(fields), list(fields), summary, "use --map"))


def test_a_name_is_hinted_at_when_it_is_nearly_a_usual_one() -> None:
    assert lines_about(dict.fromkeys(("EMIAL", "Mailing", "email", "lead_id")), {}) == [
        "EMIAL: no usual name, so it stays a field of its own; is it email? Then name it so, or "
        "use --map",
        "Mailing: no usual name, so it stays a field of its own",
    ]
    assert not lines_about(dict.fromkeys(USUAL_FIELDS.values()), {})


def test_each_destination_says_what_it_does_not_send_to_clay() -> None:
    assert lines_about({"email": 1, "phone": 1, "title": 1}, {"email": "E-Mail"}) == [
        f"not sent to Clay, since destinations.{alias}.columns does not name it: phone, title"
        for alias in ("p", "q")
    ]


def test_a_column_of_addresses_needs_more_than_half_of_the_rows_that_were_looked_at() -> None:
    def hints(rows: int, addresses: int) -> bool:
        summary = PublishSummary(rows=rows)
        summary.addresses.update({"Write to": addresses, "Boss": addresses - 1})
        lines = list(column_lines(SETTINGS, ["Write to"], ["Write to"], summary, "use --map"))
        assert lines in (
            [],
            ["the column Write to holds e-mail addresses: add --map email='Write to'"],
        )
        return bool(lines)

    assert [hints(9, 4), hints(9, 5), hints(10, 5), hints(10, 6)] == [False, True, False, True]
    assert [hints(200, 101), hints(900, 100), hints(900, 101)] == [True, False, True], (
        "of a long file only the beginning is looked at"
    )
    with pytest.raises(ValueError, match="shorter"):
        list(column_lines(SETTINGS, ["a", "b"], ["a"], PublishSummary(), ""))


# -------------------------------------------------------------------------------- what is published


class Sending:
    """A `Sender` that acknowledges what it gets, in batches of two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Any] = []
        self.put_of: list[tuple[int, bytes, bytes]] = []
        self.acknowledged = 0
        self.ready_for: list[tuple[Settings, str]] = []
        self.is_open = False
        monkeypatch.setattr(publishing, "Sender", self._make)
        monkeypatch.setattr(publishing, "kafka_ready", self._ready)

    def _make(self, *args: Any) -> Self:
        self.made += [args]
        return self

    async def _ready(self, settings: Settings, program: str) -> None:
        assert not self.made, "else leads would go to topics that do not exist"
        self.ready_for.append((settings, program))

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False

    async def put(self, partition: int, key: bytes, value: bytes) -> None:
        assert self.is_open
        self.put_of.append((partition, key, value))

    async def flush(self) -> None:
        assert self.is_open
        self.acknowledged = len(self.put_of)


@pytest.mark.parametrize("bulk", [False, True])
async def test_checked_leads_go_to_their_partition_with_their_workspace_as_key(
    bulk: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sending = Sending(monkeypatch)

    def acknowledged(*_: int) -> None: ...

    lead = lead_of("acme", 2)
    options = PublishOptions(bulk=bulk)
    assert await send_batch([lead, lead], SETTINGS, options, acknowledged) == 2
    assert sending.put_of == [(3, b"acme", lead.value)] * 2
    ((connection, topic, wait_s, told),) = sending.made
    assert connection.bootstrap == "kafka.example:9"
    assert topic == topic_of(SETTINGS, options) == ("leads.bulk" if bulk else "leads")
    assert wait_s == 7.5
    assert told is acknowledged


@pytest.mark.parametrize(
    ("options", "program", "is_told"),
    [
        (PublishOptions("acme", "people"), "publish()", False),
        (PublishOptions("acme", "people", "may", bulk=True), "publish() bulk", True),
    ],
)
async def test_a_program_publishes_what_is_valid_and_gets_the_ids(
    options: PublishOptions,
    program: str,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sending = Sending(monkeypatch)
    refused: list[Refusal] = []
    flat = {"email": "ada@example.com", "lead_id": "crm-1"}
    leads: list[Lead | dict[str, Any]] = [
        flat,
        {"email": "no"},
        Lead(dict(ADA)),
        Lead(dict(ADA), workspace="beta"),
    ]
    summary = await publish(leads, SETTINGS, options, on_refused=refused.append)
    assert sending.ready_for == [(SETTINGS, program)]
    assert [(refusal.line, refusal.reason) for refusal in refused] == [
        (2, "bad_email"),
        (4, "unknown_destination"),
    ]
    (person,) = people(ADA)
    assert summary.lead_ids == ["crm-1", f"p-{person}"]
    assert summary.import_id == options.import_id
    counts = (summary.rows, summary.ready, summary.refused, summary.published)
    assert counts == (4, 2, 2, 2)
    first, second = [msgspec.json.decode(value, type=Lead) for _, _, value in sending.put_of]
    assert first.lead_id == "crm-1"
    assert first.import_id == second.import_id == options.import_id
    assert first.import_summary == (ImportSummary(4, 2, 2) if is_told else None)
    assert second.import_summary is None


# ---------------------------------------------------------------------------------- what it costs


def view(learned: Estimate) -> LaneView:
    return LaneView(
        "acme",
        3,
        5,
        "closed",
        "healthy",
        100.0,
        4.0,
        estimates={"people": learned},
    )


@pytest.fixture
def summary() -> PublishSummary:
    made = PublishSummary()
    made.going.update({("beta", "beta-people"): 7, ("acme", "people"): 40, ("acme", "firms"): 10})
    return made


def test_leads_are_quoted_by_workspace_with_what_their_lane_has_learned(
    summary: PublishSummary,
) -> None:
    at_ms = 1_790_000_000_000
    first, second = quotes_of(SETTINGS, summary, {"acme": view(Estimate(4.5, 1.0))}, at_ms)
    firms = Part("firms", 10, 3.0, 30, 200, 10, 50)
    people = Part("people", 40, 4.5, 180, 200, 40, 200)
    assert first == Quote("acme", [firms, people], {"credits_day": 100}, known=True, seconds=12.5)
    assert second.workspace == "beta"
    assert [part.leads for part in second.parts] == [7]
    assert second.known, "nothing was ever sent there"


def test_a_lane_that_was_not_asked_is_quoted_by_the_configuration(summary: PublishSummary) -> None:
    first, second = quotes_of(SETTINGS, summary, None, 1_790_000_000_000)
    assert [(part.destination, part.credits_each) for part in first.parts] == [
        ("firms", 3.0),
        ("people", 2.0),
    ]
    assert not first.known
    assert not second.known


def test_the_leads_of_a_workspace_are_those_of_all_its_destinations(
    summary: PublishSummary,
) -> None:
    summary.rows = 60
    summary.refused = 3
    assert summary.workspaces == {"acme": 50, "beta": 7}
    assert summary.import_summaries("ada@example.com.csv", "jane") == {
        "acme": ImportSummary(60, 3, 50, "[email]", "jane"),
        "beta": ImportSummary(60, 3, 7, "[email]", "jane"),
    }
    assert summary.import_summaries() == {
        "acme": ImportSummary(60, 3, 50),
        "beta": ImportSummary(60, 3, 7),
    }


def test_the_draft_of_a_row_may_say_that_it_is_of_the_same_import() -> None:
    options = PublishOptions(import_id="may")
    same = counted(rows_of(ada(import_id="may"), ada()), options=options)
    assert same.own_imports == 0
    assert counted(rows_of(ada(import_id="may"), ada())).own_imports == 1
