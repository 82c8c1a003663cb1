"""What the first lead of an import says of it."""

import msgspec

from stream_app.client.publish import Ready, Summary, announced, any_import_id
from stream_app.domain.lead.lead import MAX_LEAD_BYTES, read_lead
from stream_app.domain.messages import ImportSummary, Lead

ACME = ImportSummary(rows=3, refused=1, leads=2, file="leads.csv", who="jane")


def ready(workspace: str, note: str = "") -> Ready:
    value = msgspec.json.encode({"fields": {"email": "ada@example.com", "note": note}, "workspace": workspace})
    return Ready(workspace, "people", 0, value, 2, "", "")


def summaries(leads: list[Ready]) -> list[ImportSummary | None]:
    return [msgspec.json.decode(lead.value, type=Lead).import_summary for lead in leads]


def test_the_first_lead_of_each_workspace_has_the_summary() -> None:
    globex = ImportSummary(rows=3, refused=1, leads=1)
    leads = [ready("acme"), ready("globex"), ready("acme"), ready("globex")]
    found = list(announced(leads, {"acme": ACME, "globex": globex}))
    assert summaries(found) == [ACME, globex, None, None]
    assert found[2:] == leads[2:], "all others are as they were"


def test_a_lead_without_room_leaves_the_summary_to_the_next() -> None:
    bare = len(ready("acme").value)
    found = list(announced([ready("acme", "x" * (MAX_LEAD_BYTES - bare)), ready("acme")], {"acme": ACME}))
    assert summaries(found) == [None, ACME]
    assert all(isinstance(read_lead(lead.value, None), Lead) for lead in found)


def test_rows_with_imports_of_their_own_have_no_summary() -> None:
    summary = Summary(rows=2, ready=2)
    summary.going["acme", "people"] = 2
    assert summary.import_summaries("leads.csv", "jane") == {"acme": ImportSummary(2, 0, 2, "leads.csv", "jane")}
    summary.own_imports = 1
    assert summary.import_summaries() == {}


def test_two_imports_have_two_names() -> None:
    assert any_import_id() != any_import_id()
