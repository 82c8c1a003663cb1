"""A row becomes the record that the worker reads, or is refused with the worker's reason."""

import asyncio
from contextlib import closing

import msgspec
import pytest

from stream_app.client.publish import (
    Batch,
    Checker,
    PublishOptions,
    PublishSummary,
    Ready,
    Refusal,
    announced,
    check_rows,
)
from stream_app.client.rows import Draft, Row
from stream_app.config import Kafka, Settings
from stream_app.domain.lead.identity import identify, plain_id
from stream_app.domain.lead.read import MAX_LEAD_BYTES, read_lead
from stream_app.domain.model.messages import ImportSummary, Lead
from stream_app.domain.plan import Destination, Workspace

SETTINGS = Settings(
    kafka=Kafka(bootstrap="127.0.0.1:1", partitions=4),
    workspaces={"acme": Workspace("acme", partition=3), "beta": Workspace("beta")},
    destinations={
        "people": Destination("people", "acme", webhooks_env=("A",)),
        "beta-people": Destination("beta-people", "beta", webhooks_env=("B",)),
    },
)


ACME = PublishOptions(workspace="acme")


def check(
    draft: Draft,
    options: PublishOptions = ACME,
    settings: Settings = SETTINGS,
) -> Ready | Refusal:
    return Checker(settings, options).check(Row(7, draft))


def ready(draft: Draft, options: PublishOptions = ACME) -> Ready:
    answer = check(draft, options)
    assert isinstance(answer, Ready), answer
    return answer


def reason(draft: Draft, options: PublishOptions = ACME) -> str:
    answer = check(draft, options)
    assert isinstance(answer, Refusal), answer
    assert answer.line == 7
    return answer.reason


def email() -> Draft:
    return {"fields": {"email": "a@b.example"}}


def test_it_goes_to_its_workspaces_home_as_the_worker_reads_it() -> None:
    answer = ready(email())
    assert answer.workspace == "acme"
    assert answer.partition == 3
    lead = read_lead(answer.value, b"acme")
    assert lead == Lead(fields={"email": "a@b.example"}, workspace="acme")
    assert ready({**email(), "workspace": "beta"}).partition == SETTINGS.home("beta")


def test_a_rows_own_values_win_over_the_options_but_force_is_for_all() -> None:
    options = PublishOptions("acme", "people", "batch-1", force=True)
    lead = msgspec.json.decode(ready({**email(), "import_id": "own"}, options).value, type=Lead)
    assert lead.import_id == "own"
    assert lead.destination == "people"
    assert lead.force is True


def test_the_only_workspace_is_the_default() -> None:
    one = msgspec.structs.replace(SETTINGS, workspaces={"acme": Workspace("acme")})
    assert isinstance(check(email(), PublishOptions(), one), Ready)
    assert reason(email(), PublishOptions()) == "no_workspace"


def test_reasons() -> None:
    assert reason({"fields": {"first_name": "Ada"}}) == "no_identity"
    assert reason({"fields": {"email": "a@b.example", "x": {"y": 1}}}) == "invalid_lead"
    assert reason({"fields": {"email": "a@b.example", "notes": "x" * 110_000}}) == "oversize"
    assert reason({"fields": {"email": "caf\udce9@b.example"}}) == "not_utf8"
    assert reason({"fields": {"email": "a@b.example", "x": object()}}) == "not_json"
    assert reason({"fields": {"email": "a@b.example", "x": 2**70}}) == "number_out_of_range"
    assert reason({"fields": {"email": "a@b.example", "x": "y" * 8_193}}) == "cell_oversize", (
        "as the worker says"
    )
    assert isinstance(check({"fields": {"email": "a@b.example", "x": "y" * 8_192}}), Ready)
    assert reason({**email(), "workspace": "unknown"}) == "unknown_workspace"
    assert reason({**email(), "destination": "beta-people"}) == "unknown_destination"


def test_all_rows_are_checked_before_any_is_sent() -> None:
    refused: list[Refusal] = []
    rows = [
        Row(1, email()),
        Row(2, {"fields": {}}, raw=b"{}\n"),
        Row(3, {**email(), "lead_id": "c 3"}),
    ]
    with closing(Batch()) as batch:
        work = check_rows(
            rows,
            Checker(SETTINGS, PublishOptions("acme")),
            batch.add,
            on_refused=refused.append,
        )
        summary = asyncio.run(work)
        assert [lead.line for lead in batch] == [lead.line for lead in batch] == [1, 3]
    assert summary.rows == 3
    assert summary.ready == 2
    assert summary.published == 0
    assert summary.refused == 1
    assert summary.changed == 1
    assert summary.going == {("acme", "people"): 2}
    assert list(summary.fields) == ["email"]
    assert [(row.line, row.row) for row in refused] == [(2, "{}")]


# ---------------------------------------------------------------------------------- e-mails and ids


@pytest.mark.parametrize(
    "given",
    ["n/a", "ada@", "ada@example", "a@b.example; c@d.example", "Ada Lovelace", 17, True],
)
def test_a_malformed_email_address_is_refused(given: object) -> None:
    """Seen: the rest of the row was published, without the e-mail and without a word."""
    who = {"linkedin_url": "https://www.linkedin.com/in/ada"}
    assert reason({"fields": {"email": given, **who}}) == "bad_email"
    assert reason({"fields": {"email": given}}) == "bad_email"


@pytest.mark.parametrize("given", ["", "  ", None, "Ada@Example.com ", "mailto:ada@example.com"])
def test_an_email_that_is_empty_or_only_badly_written_is_none_of_these(given: object) -> None:
    ready({"fields": {"email": given, "linkedin_url": "https://www.linkedin.com/in/ada"}})


@pytest.mark.parametrize(
    ("given", "lead_id", "changed"),
    [
        ("crm-17", "crm-17", False),
        (" crm-17 ", "crm-17", True),
        ("ada@example.com", plain_id("ada@example.com"), True),
        ("  ", "", False),
        (None, "", False),
    ],
)
def test_an_id_that_is_changed_is_known_as_such(
    given: str | None,
    lead_id: str,
    changed: bool,
) -> None:
    answer = ready({**email(), "lead_id": given})
    assert answer.lead_id == lead_id
    assert answer.is_changed == changed


def test_ids_are_those_that_the_worker_will_make() -> None:
    answer = Checker(SETTINGS, PublishOptions("acme"), ids=True).check(Row(1, email()))
    assert isinstance(answer, Ready)
    who = identify(Lead(fields={"email": "a@b.example"}))
    assert who is not None
    assert answer.lead_id == who.lead_id
    assert answer.given == ""
    assert answer.is_changed is False


OF_ACME = ImportSummary(rows=3, refused=1, leads=2, file="leads.csv", who="jane")


def lead_of(workspace: str, note: str = "") -> Ready:
    value = msgspec.json.encode(
        {"fields": {"email": "ada@example.com", "note": note}, "workspace": workspace},
    )
    return Ready(workspace, "people", 0, value, 2, "", "")


def summaries(leads: list[Ready]) -> list[ImportSummary | None]:
    return [msgspec.json.decode(lead.value, type=Lead).import_summary for lead in leads]


def test_a_lead_without_room_leaves_the_summary_to_the_next() -> None:
    bare = len(lead_of("acme").value)
    marked = list(
        announced(
            [lead_of("acme", "x" * (MAX_LEAD_BYTES - bare)), lead_of("acme")],
            {"acme": OF_ACME},
        ),
    )
    assert summaries(marked) == [None, OF_ACME]
    assert all(isinstance(read_lead(lead.value, None), Lead) for lead in marked)


def test_rows_with_imports_of_their_own_have_no_summary() -> None:
    summary = PublishSummary(rows=2, ready=2)
    summary.going["acme", "people"] = 2
    assert summary.import_summaries("leads.csv", "jane") == {
        "acme": ImportSummary(2, 0, 2, "leads.csv", "jane"),
    }
    summary.own_imports = 1
    assert summary.import_summaries() == {}
