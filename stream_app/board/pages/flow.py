"""The pages of what flows in: imports, what waits on Kafka, the books, and the commands."""

from collections import Counter, defaultdict
from typing import Final

from stream_app.board.formats import plan_path
from stream_app.board.lookup import waiting_lead
from stream_app.board.page import outcome_of
from stream_app.board.read_model.board_query import CommandFilter
from stream_app.board.read_model.history import DAY_S
from stream_app.board.read_model.on_kafka import Search
from stream_app.board.requests import MAX_FILE_BYTES, Query, after_of, number, word, words
from stream_app.board.site import ROWS, Moment, PageData, Site, untaken
from stream_app.client.results.answers import FoundImport
from stream_app.domain.books.bill import AGREES, COMPARE_BY_HAND
from stream_app.domain.books.records import COLUMN_MEANING, COLUMNS, MOVING, books_line, meaning_of
from stream_app.domain.commands import REPLAY_RELOAD
from stream_app.domain.dead_letter.causes import LetterSource
from stream_app.kafka.backlog import sum_of, waiting_in

_COLOURS: Final = {
    "enriched": "enriched",
    "accepted_final": "enriched",
    "served_from_cache": "cache",
    "served_locally": "cache",
    "rejected": "refused",
    "parked": "failed",
    "held": "held",
    "under_way": "moving",
    "waiting": "track",
}
"""CSS class of each column."""


_FAILED: Final[dict[str, tuple[LetterSource, str]]] = {
    "dead_lettered": ("dlq", "dead letters"),
    "rejected_invalid": ("dlq", "dead letters"),
    "parked": ("parked", "parked leads"),
}
"""Status of a lead that has a dead letter -> the topic of that, and what a person calls it."""


def imports_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the list, of one workspace or of all."""
    workspace = word(query, "workspace")
    imports, more = site.queries.imports(workspace, "", after_of(query), ROWS)
    return {
        "rows": [row_of(publication) for publication in imports],
        "workspace": workspace,
        "after": more,
    }


def import_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page of one import."""
    workspace = word(query, "workspace")
    import_id = word(query, "id")
    imports, _ = site.queries.imports(workspace, import_id, None, 1)
    _, counts = site.queries.import_counts(workspace, import_id)
    configured = workspace if workspace in site.settings.workspaces else ""
    failed = {_FAILED[count.status] for count in counts if count.status in _FAILED}
    return {
        "workspace": workspace,
        "import_id": import_id,
        "row": next(map(row_of, imports), None),
        # Of each topic that has some of its leads: the path of the form that plans to send them
        # back, and what they are called.
        "plans": [
            (plan_path(source, workspace=configured, import_id=import_id), name)
            for source, name in sorted(failed)
        ],
        "may_join": bool(configured),
        "most_mb": MAX_FILE_BYTES // 2**20,
    }


def row_of(publication: FoundImport) -> PageData:
    """Return an import with its bar.

    The parts of the bar are in percent of the leads, and are grouped by whether the leads are at
    rest. Duplicates are no leads, so the bar has none.
    """
    parts: list[dict[str, object]] = []
    total = publication.leads
    x = 0.0
    for name, leads in publication.columns_of_leads.items():
        width = leads / total * 100
        part = {
            "column": name,
            "meaning": meaning_of(name),
            "colour": _COLOURS.get(name, "nodata"),
            "leads": leads,
        }
        parts.append({**part, "x": round(x, 2), "width": round(width, 2)})
        x += width
    resting = [part for part in parts if part["column"] not in MOVING]
    moving = [part for part in parts if part["column"] in MOVING]
    groups = [
        ("At rest", "at-rest", publication.at_rest, resting),
        ("Not at rest", "moving", publication.moving, moving),
    ]
    return {
        "publication": publication,
        "parts": parts,
        "groups": groups,
    }


BACKLOG_ROWS: Final = 100
_MAX_NAMES: Final = 10


def backlog_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page, of a topic ('': all) and a partition (None: all).

    `after`: how many rows come before it.

    `of`: "producers" leaves out the copies that come back, whose leads are counted elsewhere.
    """
    topic = word(query, "topic")
    partition = number(query, "partition")
    after = number(query, "after") or 0
    of = "producers" if word(query, "of") == "producers" else ""
    about: dict[str, object] = {"topic": topic, "partition": partition, "of": of}
    left = untaken(moment)
    if left is None:
        return {"waiting": None, "rows": [], "after": 0, "back": 0, **about}
    names = site.settings.names
    topics = names.inputs if of else names.lead_topics
    backlog = [
        (place, waiting)
        for place, waiting in sorted(left.items())
        if waiting.records
        and place[0] in topics
        and topic in ("", place[0])
        and partition in (None, place[1])
    ]
    rows: list[PageData] = []
    for (name, home), waiting in backlog[after : after + BACKLOG_ROWS]:
        residents = list(site.settings.plan.residents(home))
        some = {"workspaces": residents[:_MAX_NAMES], "more": len(residents) > _MAX_NAMES}
        rows.append({"topic": name, "partition": home, "waiting": waiting, **some})
    more = after + BACKLOG_ROWS if len(backlog) > after + BACKLOG_ROWS else 0
    back = sum_of(dict(backlog), {names.retry})
    return {
        "waiting": sum_of(dict(backlog)),
        "rows": rows,
        "after": more,
        "back": back.records,
        **about,
    }


def waiting_page(site: Site, moment: Moment, search: Search) -> PageData:
    """Return the result of a search, with what blocks each record."""
    views = site.views({record.workspace for record in search.matches}, moment.now_ms)
    waiting = waiting_in(untaken(moment) or {}, site.settings.names.namespace)
    leads = [
        waiting_lead(
            search,
            record,
            views.get(record.workspace),
            waiting.get(record.partition, {}),
            moment.now_ms,
        )
        for record in search.matches
    ]
    return {"leads": leads, "search": search}


BILL_DAYS: Final = 7


def books_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page. `after`: the last workspace of the page before."""
    after = word(query, "after")
    sums: Counter[str] = Counter()
    not_leads: Counter[str] = Counter()
    rows: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for count in site.queries.status_counts():
        if count.column:
            sums[count.column] += count.leads
            rows[count.workspace][count.column] += count.leads
        else:
            not_leads[count.status] += count.leads
    left = untaken(moment)
    inputs = sorted(site.settings.names.inputs)
    whole = None if left is None else sum_of(left, inputs)
    on_kafka = None if whole is None else whole.records
    columns: list[tuple[str, str, int | None]] = [
        (name, COLUMN_MEANING[name], sums[name]) for name in COLUMNS[:-1]
    ]
    columns.append(("waiting", COLUMN_MEANING["waiting"], on_kafka))
    if sums["unknown"]:
        columns.append(("unknown", meaning_of("unknown"), sums["unknown"]))
    # The balance of a workspace with a key is read before its first lead, too.
    keyed = {name for name, policy in site.settings.workspaces.items() if policy.api_key_env}
    names = [name for name in sorted({*rows, *keyed}) if name > after or not after]
    since_s = moment.now_ms // 1000 - BILL_DAYS * DAY_S
    bills = site.queries.bills([name for name in names[:ROWS] if name], since_s)
    return {
        # Name, meaning and number of leads. For `waiting` it is the number of records, None if
        # unknown.
        "columns": columns,
        "says": None
        if on_kafka is None
        else books_line(site.queries.records_in() + on_kafka, sums.total() + on_kafka),
        "waiting": {} if left is None else {topic: sum_of(left, {topic}) for topic in inputs},
        # Fewer records than that may wait on Kafka.
        "at_most": whole is not None and whole.at_most,
        "rows": [(name, rows[name]) for name in names[:ROWS] if name in rows],
        "after": names[ROWS - 1] if len(names) > ROWS else "",
        # Of the workspaces above whose balance was read: the newest day, and the others that do not
        # simply agree.
        "bills": [
            (bill, [day for place, day in enumerate(bill.days) if not place or day.says != AGREES])
            for bill in bills
        ],
        "bill_days": BILL_DAYS,
        "at_clay": COMPARE_BY_HAND,
        # By status, the records that begin with a callback or a command.
        "not_leads": not_leads.most_common(),
        "unreadable": site.queries.unreadable(),
    }


def audit_page(site: Site, moment: Moment, query: Query) -> PageData:
    """Return the page of commands: those that match, or all answers to one command.

    Matching commands begin after one of them, which its time and id name.
    """
    queries = site.queries
    wanted = CommandFilter(**words(query, CommandFilter.__struct_fields__))
    if command := word(query, "id"):
        return {"orders": queries.answers(command), "id": command}
    at_ms, _, last = word(query, "after").partition(".")
    begins = (int(at_ms), last) if at_ms.isdecimal() and len(at_ms) < 16 else (1 << 62, "")
    commands = queries.commands(wanted, begins, ROWS + 1)
    answers = {name: queries.answers(name) for _, name in commands[:ROWS]}
    return {
        "id": "",
        "filter": wanted,
        # The page with the buttons that give a command; '' for no workspace, or one that is gone.
        "lane": wanted.workspace if wanted.workspace in site.settings.workspaces else "",
        "has_buttons": site.settings.board.operator_token_env is not None,
        "kinds": queries.words_of_commands("kind"),
        "people": queries.words_of_commands("who"),
        # The last answer of a worker has the kind of the command.
        "rows": [
            (
                max(orders, key=lambda order: (order.kind != REPLAY_RELOAD, order.place)),
                outcome_of(site, name, orders),
            )
            for name, orders in answers.items()
        ],
        "after": f"{commands[ROWS - 1][0]}.{commands[ROWS - 1][1]}" if len(commands) > ROWS else "",
    }
