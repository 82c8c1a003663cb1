"""A row becomes the record that the worker will read, or is refused with the worker's own reason."""

from __future__ import annotations

import asyncio

import msgspec

from stream_app.core.lead import read_lead
from stream_app.core.messages import Lead
from stream_app.publish import Wishes, publish_rows
from stream_app.publish.check import Checker, Ready, Refusal
from stream_app.publish.rows import Draft, Row
from stream_app.settings import Destination, Kafka, Settings, Workspace

SETTINGS = Settings(
    kafka=Kafka(bootstrap="127.0.0.1:1", partitions=4),
    workspaces={"acme": Workspace(partition=3), "beta": Workspace()},
    destinations={
        "people": Destination(workspace="acme", webhooks_env=("A",)),
        "beta-people": Destination(workspace="beta", webhooks_env=("B",)),
    },
)


def check(draft: Draft, wishes: Wishes = Wishes(workspace="acme"), settings: Settings = SETTINGS) -> Ready | Refusal:  # noqa: B008 (frozen)
    return Checker(settings, wishes).check(Row(7, draft))


def ready(draft: Draft, wishes: Wishes = Wishes(workspace="acme")) -> Ready:  # noqa: B008 (frozen)
    answer = check(draft, wishes)
    assert isinstance(answer, Ready), answer
    return answer


def reason(draft: Draft, wishes: Wishes = Wishes(workspace="acme")) -> str:  # noqa: B008 (frozen)
    answer = check(draft, wishes)
    assert isinstance(answer, Refusal), answer
    assert answer.line == 7
    return answer.reason


def email() -> Draft:
    return {"fields": {"email": "a@b.example"}}


def test_it_goes_to_its_workspaces_home_as_the_worker_reads_it() -> None:
    answer = ready(email())
    assert (answer.workspace, answer.partition) == ("acme", 3)
    lead = read_lead(answer.value, b"acme")
    assert lead == Lead(fields={"email": "a@b.example"}, workspace="acme")
    assert ready({**email(), "workspace": "beta"}).partition == SETTINGS.home("beta")


def test_the_rows_own_words_win_over_wishes_but_force_is_for_all() -> None:
    wishes = Wishes("acme", "people", "batch-1", force=True)
    lead = msgspec.json.decode(ready({**email(), "import_id": "own"}, wishes).value, type=Lead)
    assert (lead.import_id, lead.destination, lead.force) == ("own", "people", True)


def test_the_only_workspace_is_the_default() -> None:
    one = msgspec.structs.replace(SETTINGS, workspaces={"acme": Workspace()})
    assert isinstance(check(email(), Wishes(), one), Ready)
    assert reason(email(), Wishes()) == "no_workspace"


def test_reasons() -> None:
    assert reason({"fields": {"email": "n/a"}}) == "no_identity"
    assert reason({"fields": {"email": "a@b.example", "x": {"y": 1}}}) == "invalid_lead"
    assert reason({"fields": {"email": "a@b.example", "notes": "x" * 110_000}}) == "oversize"
    assert reason({"fields": {"email": "caf\udce9@b.example"}}) == "not_utf8"
    assert reason({"fields": {"email": "a@b.example", "x": object()}}) == "not_json"
    assert reason({"fields": {"email": "a@b.example", "x": 2**70}}) == "number_out_of_range"
    assert reason({**email(), "workspace": "nobody"}) == "unknown_workspace"
    assert reason({**email(), "destination": "beta-people"}) == "unknown_destination"


def test_a_dry_run_needs_no_kafka() -> None:
    refused: list[Refusal] = []
    rows = [Row(1, email()), Row(2, {"fields": {}})]
    work = publish_rows(rows, SETTINGS, Wishes("acme"), dry_run=True, on_refused=refused.append)
    summary = asyncio.run(work)
    assert (summary.rows, summary.ready, summary.published, summary.refused) == (2, 1, 0, 1)
    assert refused[0].line == 2
