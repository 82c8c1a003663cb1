"""The board without a browser: what its pages say, and what no page ever does."""

import csv
import re
from collections import Counter, defaultdict
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from stream_app.board.pages.system import _flat
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import STALE_MS, ProjectionLag
from stream_app.cli.status import yield_text
from stream_app.domain.dead_letter.orders import PAUSE, ReplayPause
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.topics import ExistingTopic, TopicNames, differences
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.groups import Consumption
from stream_app.services.board import DeadLetterMetrics
from tests.board.client import OWN, Client, ClientOf, board_with, plain
from tests.board.clock import DAY_MS, HOUR_MS, NOW_MS
from tests.board.model_records import Made, dead_letter, event, lane, person
from tests.board.scene import HASH, HOSTILE, board_of, consumers_of, events, settings_of, topics_of

NAMES = TopicNames()


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/board/lanes/initech", "initech"),
        ("/board/leads/crm-17", "crm-17"),
        ("/board/imports?workspace=initech&id=2026-09-21-kfdwzp", "Import 2026-09-21-kfdwzp"),
        ("/board/imports?workspace=initech", "Imports"),
        ("/board/replays/r-0b9c40e1f2a", "Replay r-0b9c40e1f2a"),
        ("/board/money", "Money"),
        ("/board/money?workspace=acme", "Money of acme"),
    ],
)
async def test_the_tab_of_a_page_says_what_it_is_about(
    local: Client,
    path: str,
    title: str,
) -> None:
    assert f"<title>{title} - stream-app</title>" in (await local.get(path)).text


async def test_an_import_without_a_csv_points_to_no_command_that_is_not_there(
    operator: Client,
) -> None:
    of_csv = "/board/imports?workspace=initech&id=2026-09-21-kfdwzp"
    text = plain((await operator.get(of_csv)).text)
    assert "the command below, with --map" in text
    assert text.index("the command below") < text.index("The same as a command")
    other = f"/board/imports?{urlencode({'workspace': 'umbrella', 'id': HOSTILE})}"
    text = plain((await operator.get(other)).text)
    assert "stream-app results --join FILE --map" in text
    assert "below" not in text


async def test_now_says_first_which_lanes_are_held(local: Client) -> None:
    text = (await local.get("/board")).text
    assert '<span class="banner">production</span>' in text
    heading = r'<h1 class="bad">.*3</a> of .*6</a> lanes are held, .*1</a> more in part</h1>'
    assert re.search(heading, text)
    assert "Clay refuses its token (401)" in text
    assert "1,240 records wait on Kafka" in plain(text)
    assert "Clay answers 503; 47 calls have failed; the circuit breaker is half open" in plain(text)
    cards = [text.index(f"{name}</strong>") for name in ("acme", "hooli", "globex", "umbrella")]
    assert cards == sorted(cards), (
        "what needs a person comes first, and a whole lane before one that is held in part, "
        "although more waits for that"
    )
    assert "Up to 2,310 records wait on Kafka" in plain(text), (
        "some are of the destination that goes"
    )
    assert "2.0 s old, lag 0" in plain(text)


async def test_no_worker_is_the_first_thing_to_know(client_of: ClientOf) -> None:
    consumers = consumers_of()
    consumers.now = Consumption(ConsumerGroup("Empty", 0), ConsumerGroup("Stable", 1), {})
    client = client_of(consumers=consumers)
    text = (await client.get("/board")).text
    assert "Nothing is sent: no worker runs" in text
    cards = re.findall(r'<div class="notice[^>]*>.*?</a></div>', text, re.DOTALL)
    assert ["no worker runs" in card for card in cards] == [True, False, False, False, False], (
        "one card says so"
    )
    assert all('class="facts"' in card for card in cards), "and none is empty"
    consumers.now = None
    text = (await client.get("/board")).text
    assert "3 of 6 lanes are held, 1 more in part" in plain(text), (
        "nothing is claimed of workers when Kafka does not answer"
    )
    assert "Kafka does not answer" in text


async def test_no_dead_letter_comes_back_by_itself_while_replays_are_paused(
    tmp_path: Path,
) -> None:
    letter = dead_letter(
        NAMES.dlq,
        "http_503",
        NOW_MS - HOUR_MS,
        destination="initech-people",
        origin="leads/3/1",
        seq="4",
    )
    letter = msgspec.structs.replace(letter, key=b"initech")
    steps = event(NAMES, "crm-1", "dead_lettered", 4, origin="leads/3/1", workspace="initech")
    value = msgspec.json.encode(ReplayPause("jane", "wait", NOW_MS - HOUR_MS))
    pause = Made(NAMES.replay_state, PAUSE, value)
    with board_with(tmp_path, letter, steps) as client:
        assert "1 dead letter comes back by itself" in plain((await client.get("/board")).text)
    (tmp_path / "paused").mkdir()
    with board_with(tmp_path / "paused", letter, steps, pause) as client:
        text = plain((await client.get("/board")).text)
    assert "1 dead letter comes back when replays run again" in text
    assert "by itself" not in text


async def test_replays_that_are_paused_have_a_card(tmp_path: Path) -> None:
    value = msgspec.json.encode(ReplayPause("jane", "wait for the new table", NOW_MS - 3_600_000))
    with board_with(tmp_path, Made(NAMES.replay_state, PAUSE, value)) as client:
        text = plain((await client.get("/board")).text)
    assert "All replays: replays are paused by jane: wait for the new table." in text
    assert "All lanes" not in text, "they go on"
    assert "Lifted by: stream-app replay resume" in text


async def test_before_kafka_has_answered_nothing_is_said_of_it(client_of: ClientOf) -> None:
    """A newcomer's first screen: the first answer takes longer than a page waits for it."""
    consumers = consumers_of()
    consumers.now = None
    consumers.is_first = True
    client = client_of(consumers=consumers)
    for page in ("", "/books", "/waiting", "/system"):
        text = plain((await client.get(f"/board{page}")).text).lower()
        assert "does not answer" not in text, page
        assert "asking kafka" in text or "is asked" in text, page


async def test_until_kafka_is_read_a_page_says_so_and_calls_no_lead_unknown(
    client_of: ClientOf,
) -> None:
    for lag in (ProjectionLag(None, 1_200), ProjectionLag(NOW_MS - STALE_MS - 1, 1_200)):
        client = client_of(lag=lag)
        now = plain((await client.get("/board")).text)
        assert "Not read yet. 1,200 records of Kafka are still to be read" in now
        lead = plain((await client.get("/board/leads/unheard-of")).text)
        assert "Not read yet: the board still reads Kafka" in lead
        assert "Nothing is known" not in lead


@pytest.mark.parametrize(
    ("views", "shown"),
    [(0, True), (1, False)],
    ids=["before the first lead", "once a lane was published"],
)
async def test_how_to_publish_a_first_lead_is_said_until_there_is_one(
    tmp_path: Path,
    views: int,
    shown: bool,
) -> None:
    with board_with(tmp_path, *[lane(NAMES, "acme", at_ms=NOW_MS)] * views) as client:
        assert ("Publish a first lead" in (await client.get("/board")).text) == shown


async def test_a_setting_is_shown_as_it_is(local: Client) -> None:
    settings = {
        "no": None,
        "zero": 0,
        "off": False,
        "on": True,
        "empty": "",
        "some": ["a", "b"],
        "of": {"s": 1.5},
    }
    shown = {
        "no": "not set",
        "zero": "0",
        "off": "false",
        "on": "true",
        "empty": "",
        "some": "a, b",
        "of.s": "1.5",
    }
    assert dict(_flat("", settings)) == shown
    text = (await local.get("/board/system")).text
    partitions = local.board._maker.site.settings.kafka.partitions
    assert f"<dt><code>partitions</code></dt><dd>{partitions}</dd>" in text


async def test_the_money_as_csv_is_of_one_workspace_or_of_all(local: Client) -> None:
    async def workspaces(query: str) -> set[str]:
        text = (await local.get(f"/board/money.csv{query}")).text
        return {row["workspace"] for row in csv.DictReader(text.splitlines())}

    named = await workspaces("")
    assert {"acme", "globex"} <= named
    for name in named:
        assert await workspaces(f"?workspace={name}") == {name}


async def test_the_money_of_an_hour_and_of_a_day_is_that_of_their_events(local: Client) -> None:
    booked = Counter[tuple[str, int]]()
    for made in events():
        if made.topic == NAMES.status:
            event = msgspec.json.decode(made.value or b"", type=StatusEvent)
            for name, length_ms in (("day", DAY_MS), ("hour", HOUR_MS)):
                booked[name, event.at_ms // length_ms] += event.credits or 0
    hour = NOW_MS // HOUR_MS
    expected = (booked["hour", hour], booked["hour", hour - 24], booked["day", NOW_MS // DAY_MS])
    assert all(expected)
    text = (await local.get("/board/money")).text
    shown = re.search(
        r'([\d,]+)</p><p>since .*?yesterday ([\d,]+)</p>.*?class="big">([\d,]+)<',
        text,
        re.DOTALL,
    )
    assert shown is not None
    assert shown.groups() == tuple(f"{credits_:,}" for credits_ in expected)


async def test_the_money_sets_apart_what_nobody_has_reported(local: Client) -> None:
    """The numbers of the page and of the CSV are those of the events."""
    booked = Counter[str]()
    of_days: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for made in events():
        if made.topic == NAMES.status:
            event = msgspec.json.decode(made.value or b"", type=StatusEvent)
            day = datetime.fromtimestamp(event.at_ms / 1000, UTC).date().isoformat()
            for sums in (booked, of_days[day]):
                sums["credits"] += event.credits or 0
                sums["estimated"] += event.estimated_credits
    assert 0 < booked["estimated"] < booked["credits"]
    text = " ".join(plain((await local.get("/board/money")).text).split())
    reported = booked["credits"] - booked["estimated"]
    assert f"{reported:,} were reported, {booked['estimated']:,} are estimated." in text
    table = csv.DictReader((await local.get("/board/money.csv")).text.splitlines())
    told: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in table:
        for name in ("credits", "estimated", "reported"):
            told[row["day"]][name] += int(row[name])
    for day, sums in of_days.items():
        if sums["credits"]:
            assert told[day] == {**sums, "reported": sums["credits"] - sums["estimated"]}, day


async def test_a_search_puts_no_personal_data_into_an_address(local: Client) -> None:
    for text, path in (
        ("crm-17", "/board/leads/crm-17"),
        (" crm-unknown ", "/board/leads/crm-unknown"),
        ("record:leads/0/3", "/board/leads/record:leads/0/3"),
        ("", "/board/leads"),
    ):
        answer = await local.ask("POST", "/board/leads", data={"text": text}, headers=OWN)
        assert answer.status_code == 303
        assert answer.headers["location"] == path
    for who in ("ada@example.com", "https://www.linkedin.com/in/ada"):
        answer = await local.ask("POST", "/board/leads", data={"text": who}, headers=OWN)
        assert re.fullmatch(r"/board/leads\?person=[A-Za-z0-9_-]{22}", answer.headers["location"])
    answer = await local.get("/board/leads/ada@example.com")
    assert answer.status_code == 400
    assert "ada@" not in answer.text.split("<main", 1)[1]


async def test_personal_data_is_shown_on_request_and_that_is_logged(
    with_token: Client,
    capfd: pytest.CaptureFixture[str],
) -> None:
    await with_token.login()
    assert "ada@example.com" not in (await with_token.get("/board/leads/crm-17")).text
    capfd.readouterr()
    shown = await with_token.ask("POST", "/board/leads/crm-17", headers=OWN)
    assert "ada@example.com" in shown.text
    assert shown.headers["cache-control"] == "no-store"
    logged = "".join(capfd.readouterr())
    assert all(word in logged for word in ("personal_data_shown", "jane", "crm-17"))
    assert "ada@example.com" not in logged


async def test_the_system_says_which_process_is_missing_and_how_to_start_it(
    client_of: ClientOf,
) -> None:
    consumers = consumers_of()
    client = client_of(consumers=consumers)
    for worker, replay, texts in (
        (
            ConsumerGroup("Stable", 2),
            ConsumerGroup("Stable", 1),
            ["workers 2 members", "replay processes 1 member"],
        ),
        (
            ConsumerGroup("Empty", 0),
            ConsumerGroup("Stable", 1),
            ["workers none runs Nothing is sent until one runs. Start it: stream"],
        ),
        (
            ConsumerGroup("Stable", 2),
            ConsumerGroup("Dead", 0),
            ["replay processes none runs Dead letters and deferred leads do not"],
        ),
        (
            ConsumerGroup("PreparingRebalance", 3),
            ConsumerGroup("Stable", 1),
            ["workers PreparingRebalance Partitions are being"],
        ),
    ):
        consumers.now = Consumption(worker, replay, {})
        text = words((await client.get("/board/system")).text)
        assert [expected for expected in texts if expected not in text] == []


async def test_the_system_says_of_each_topic_what_stream_app_topics_says(
    client_of: ClientOf,
    folder: Path,
) -> None:
    settings = settings_of(folder)
    topics = topics_of(settings)
    assert topics.now is not None
    existing = dict(topics.now)
    client = client_of(topics=topics)
    text = (await client.get("/board/system")).text
    assert text.count('<span class="pill ok">nothing</span>') == len(settings.topic_plan())
    del topics.now["leads.parked"]
    topics.now["leads.audit"] = ExistingTopic(
        3,
        1,
        existing["leads.audit"].config | {"retention.ms": "60000"},
    )
    text = (await client.get("/board/system")).text
    assert re.findall(r'<th scope="row"><code>([^<]+)</code>', text)[:2] == [
        "leads.parked",
        "leads.audit",
    ]
    for line in differences(settings.topic_plan(), topics.now):
        assert line.partition(": ")[2] in words(text)
    assert "leads.parked 6 none there is no such topic; create it with: stream-app topics" in words(
        text,
    )
    topics.now = None
    text = plain((await client.get("/board/system")).text)
    assert "Which topics there are is not known: Kafka has not answered" in text


def words(text: str) -> str:
    return " ".join(plain(text.replace("<", " <")).split())


async def test_a_lead_has_a_bar_for_each_wait_and_names_what_holds_it_now(local: Client) -> None:
    text = (await local.get("/board/leads/crm-17")).text
    held = words((await local.get("/board/leads/crm-60003")).text)
    assert all(
        f'aria-label="Waited for {what}"' in text
        for what in ("queue on Kafka: 12 min", "POST to Clay: 361 ms")
    )
    assert text.count('<rect class="moving"') == 5, "on Kafka, received, two POSTs, the callback"
    assert "For <strong>" not in text, "it is at rest"
    assert ", 6 credits</small>" in text
    assert (
        "For budget : the next lead may cost 20 credits, and the budget credits_day has less left "
        "budget_credits_day Since" in held
    )


async def test_a_lead_leads_to_the_other_leads_of_its_person_until_it_is_erased(
    tmp_path: Path,
) -> None:
    with board_with(
        tmp_path,
        event(NAMES, "crm-17", "callback_duplicate", 1, 99, at_ms=NOW_MS),
        filled=True,
    ) as client:
        text = (await client.get("/board/leads/crm-17")).text
        assert re.search(r"<h1[^>]*>crm-17 <span[^>]*>enriched<", text), "as the books count it"
        assert "crm-60003 held: budget globex / globex-people," in words(text)
        assert (
            f'All <a class="count" href="/board/leads?person={HASH}">2</a> leads of this person'
            in text
        )
        assert "crm-17 enriched initech" in words((await client.get("/board/leads/crm-60003")).text)
        assert "Other leads" not in (await client.get("/board/leads/crm-60004")).text
    with board_with(tmp_path, person(NAMES, HASH, None)) as client:
        for lead_id in ("crm-17", "crm-60003"):
            assert "Other leads" not in (await client.get(f"/board/leads/{lead_id}")).text


async def test_a_lead_names_at_most_20_other_leads_of_its_person(tmp_path: Path) -> None:
    leads = [f"crm-{number}" for number in range(60_000, 60_023)]
    many = person(NAMES, HASH, *leads[:1], *(f"d/acme/people/{lead}" for lead in leads[1:]))
    with board_with(tmp_path, many, filled=True) as client:
        text = (await client.get("/board/leads/crm-60022")).text
    assert re.findall(r'<li><a href="/board/leads/(crm-\d+)">', text) == leads[21:1:-1], (
        "the newest"
    )
    assert f'href="/board/leads?person={HASH}">23</a> leads of this person' in text


async def test_a_parked_lead_may_be_at_clay(local: Client) -> None:
    text = plain((await local.get("/board/dead?from=parked")).text)
    assert "it may be at Clay" in text
    assert "Clay did not take it" not in text


async def test_a_lead_that_waits_on_kafka(local: Client) -> None:
    text = (await local.get("/board/waiting?lead_id=crm-waits")).text
    assert "Not taken yet: it waits on Kafka" in text
    assert "about 1,190 records are before it" in text
    assert "Clay refuses its token (401)" in text


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/board/lanes/unknown", 404),
        ("/board/nothing", 404),
        (f"/board/leads/{'x' * 10_000}", 400),
        (f"/board/imports?workspace=initech&id={'x' * 10_000}", 200),
        ("/board/waiting?partition=x&after=-1", 200),
        ("/board/leads?after=1-2-3&status=nothing&column=nothing", 200),
        ("/board/audit?after=x", 200),
        ("/board?span=year", 200),
    ],
)
async def test_bad_input_is_answered(local: Client, url: str, status: int) -> None:
    assert (await local.get(url)).status_code == status


async def test_refused_logins_do_not_fill_the_log(
    with_token: Client,
    capfd: pytest.CaptureFixture[str],
) -> None:
    capfd.readouterr()
    for _ in range(20):
        await with_token.login("not the token")
        await with_token.ask("POST", "/board/login", headers=OWN)
    assert "".join(capfd.readouterr()).count("board_login_refused") == 2


async def test_a_form_is_bounded(local: Client) -> None:
    answer = await local.ask("POST", "/board/leads", data={"text": "x" * 9_000}, headers=OWN)
    assert answer.status_code == 413
    answer = await local.ask("POST", "/board/leads", json={"text": "x"}, headers=OWN)
    assert answer.status_code == 415


async def test_without_a_model_it_says_why(tmp_path: Path) -> None:
    with closing(board_of(settings_of(tmp_path), tmp_path / "nothing.sqlite")) as board:
        answer = await Client(board).get("/board")
    assert answer.status_code == 503
    assert "The read model cannot be read" in answer.text


async def test_the_metric_of_dead_letters_says_what_has_become_of_them(
    local: Client,
    folder: Path,
) -> None:
    registry = CollectorRegistry()
    topics = {"dlq": "leads.dlq", "parked": "leads.parked"}
    queries = BoardQueries(folder / "model.sqlite", set())
    registry.register(DeadLetterMetrics(queries, topics, lambda: True))
    text = (await local.get("/board/dead")).text
    shown = {
        name: int(many)
        for name, many in re.findall(r'<dd id="(\w+)"><b><span class="total">(\d+)<', text)
    }
    assert sum(shown.values()) > 0
    for state, many in shown.items():
        labels = {"topic": "dlq", "state": state}
        assert registry.get_sample_value("stream_app_dead_letters_kept", labels) == many
    (none,) = DeadLetterMetrics(
        BoardQueries(folder / "not made yet", set()),
        topics,
        lambda: True,
    ).collect()
    assert none.samples == []
    (none,) = DeadLetterMetrics(queries, topics, lambda: False).collect()
    assert none.samples == [], (
        "while the model is being built, some of the letters are missing in it"
    )


async def test_a_share_and_a_price_read_as_on_the_command_line(local: Client, folder: Path) -> None:
    text = plain((await local.get("/board/money")).text)
    rows = BoardQueries(folder / "model.sqlite", set()).yields(NOW_MS)
    assert len(rows) > 1
    for row in rows:
        assert yield_text(row.day) in text
        assert f"{row.day.price or '-'}{row.before.price or '-'}" in text
