"""A row becomes the record that the worker reads, or is refused with the worker's reason."""

import asyncio
from contextlib import closing

import msgspec
import pytest

from stream_app.client.publish.leads import (
    CheckedLeads,
    Checker,
    PublishOptions,
    PublishSummary,
    Ready,
    Refusal,
    announced,
    check_rows,
    column_lines,
    no_workspace,
)
from stream_app.client.publish.rows import Draft, FileRow
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
    return Checker(settings, options).check(FileRow(7, draft))


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
        FileRow(1, email()),
        FileRow(2, {"fields": {}}, raw=b"{}\n"),
        FileRow(3, {**email(), "lead_id": "c 3"}),
    ]
    with closing(CheckedLeads()) as batch:
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
    answer = Checker(SETTINGS, PublishOptions("acme"), ids=True).check(FileRow(1, email()))
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


def counted(
    *drafts: Draft,
    options: PublishOptions = ACME,
) -> tuple[PublishSummary, list[tuple[int, int]]]:
    """Check the rows; return the counts, and what each report of progress had counted."""
    seen: list[tuple[int, int]] = []
    rows = [FileRow(line, draft) for line, draft in enumerate(drafts, 2)]
    work = check_rows(
        rows,
        Checker(SETTINGS, options),
        lambda _: None,
        on_progress=lambda summary: seen.append((summary.rows, summary.ready)),
    )
    return asyncio.run(work), seen


def test_the_counts_of_a_file_add_up() -> None:
    own: Draft = {"fields": {"email": "c@d.example", "Phone": "1"}, "import_id": "march"}
    beta: Draft = {"fields": {"email": "e@f.example"}, "workspace": "beta"}
    bad: Draft = {"fields": {"email": "no address", "Spare": "x"}}
    worse: Draft = {"fields": {"email": "a@b"}}
    changed: Draft = {"fields": {"email": "g@h.example"}, "lead_id": "g@h.example"}
    options = PublishOptions(workspace="acme", import_id="may")
    summary, _ = counted(email(), own, beta, bad, worse, changed, email(), options=options)
    assert summary.rows == 7
    assert summary.ready == 5
    assert summary.refused == 2
    assert summary.reasons == {"bad_email": 2}
    assert summary.going == {("acme", "people"): 4, ("beta", "beta-people"): 1}
    assert summary.workspaces == {"acme": 4, "beta": 1}
    assert summary.changed == 1
    assert summary.own_imports == 1
    assert list(summary.fields) == ["email", "Phone"], "those of the leads, not of what is refused"
    assert summary.import_summaries("f", "jane") == {}, "the rows name an import of their own"
    plain, _ = counted(email(), beta, bad, options=options)
    assert plain.import_summaries("may.csv", "jane") == {
        "acme": ImportSummary(3, 1, 1, "may.csv", "jane"),
        "beta": ImportSummary(3, 1, 1, "may.csv", "jane"),
    }


def test_progress_is_told_while_a_long_file_is_checked() -> None:
    summary, seen = counted(*[email(), {"fields": {"email": "no"}}] * 600)
    assert summary.rows == 1_200
    assert seen == [(500, 250), (1_000, 500)]


def lines_about(
    titles: list[str],
    names: list[str],
    *drafts: Draft,
    columns: dict[str, str] | None = None,
    correct: str = "use --map",
) -> list[str]:
    people = Destination("people", "acme", webhooks_env=("A",), columns=columns or {})
    settings = msgspec.structs.replace(SETTINGS, destinations={"people": people})
    summary, _ = counted(*drafts)
    return list(column_lines(settings, titles, names, summary, correct))


def test_a_column_of_addresses_without_a_usual_name_is_hinted_at() -> None:
    """Above half of the rows must have one: notes name an address now and then."""
    rows: list[Draft] = [{"fields": {"Write to": "a@b.example", "phone": "1"}}] * 3
    none: list[Draft] = [{"fields": {"phone": "1"}}] * 3
    says = "the column Write to holds e-mail addresses: "
    titles = ["Write to", "phone"]
    assert f"{says}add --map email='Write to'" in lines_about(titles, titles, *rows, *none[:2])
    assert f"{says}name it so" in lines_about(titles, titles, *rows, correct="name it so")
    assert not [line for line in lines_about(titles, titles, *rows, *none) if "holds" in line]
    with_email: list[Draft] = [{"fields": {"Write to": "a@b.example", "email": "a@b.example"}}]
    assert not [line for line in lines_about(titles, titles, *with_email) if "holds" in line]
    mapped = ["email", "phone"]
    assert lines_about(titles, mapped, *rows)[0] == "columns: Write to -> email"


def test_what_the_columns_were_named_and_what_clay_does_not_get_is_listed() -> None:
    row: Draft = {
        "fields": {"email": "a@b.example", "Emial": "x", "Shoe size": "40", "first_name": "Ada"},
        "lead_id": "crm-1",
    }
    titles = ["E-Mail", "Emial", "", "Shoe size", "", "Vorname"]
    names = ["email", "Emial", "", "Shoe size", "", "first_name"]
    own = "no usual name, so it stays a field of its own"
    assert lines_about(titles, names, row, columns={"email": "E", "Emial": "F"}) == [
        "columns: E-Mail -> email, Vorname -> first_name",
        "left out, since the header has no title there: column 3, 5",
        f"Emial: {own}; is it email? Then name it so, or use --map",
        f"Shoe size: {own}",
        (
            "not sent to Clay, since destinations.people.columns does not name it: "
            "Shoe size, first_name"
        ),
    ]
    assert lines_about([], [], row) == [
        f"Emial: {own}; is it email? Then name it so",
        f"Shoe size: {own}",
    ], "JSON has no header, and without columns all fields are sent"


@pytest.mark.parametrize(
    ("workspaces", "says"),
    [
        (["a"], ""),
        (["b", "a"], "no row names its workspace: pass --workspace, one of a, b"),
        (
            [f"w{number:02}" for number in range(13)],
            "one of w00, w01, w02, w03, w04, w05, w06, w07, w08, w09 and 3 more",
        ),
        (
            [f"w{number}" for number in range(10)],
            "one of w0, w1, w2, w3, w4, w5, w6, w7, w8, w9",
        ),
    ],
)
def test_a_file_without_workspaces_names_those_to_choose_from(
    workspaces: list[str],
    says: str,
) -> None:
    settings = Settings(workspaces={name: Workspace(name) for name in workspaces})
    missing = no_workspace(settings, ["email"], None)
    assert missing.endswith(says)
    assert bool(missing) is bool(says)
    assert no_workspace(settings, ["email", "workspace"], None) == ""
    assert no_workspace(settings, ["email"], "a") == ""
