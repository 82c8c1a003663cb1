"""Retired words stay retired: a word of the field replaces each (glossary in docs/architecture.md)."""

import io
import re
import tokenize
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("stream_app", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__) and "dev" not in path.relative_to(ROOT).parts
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

IDENTIFIERS: Final = {
    "Desk": "PartitionState",
    "desk": "partition",
    "WayBack": "PartitionOwner",
    "way_back": "timeouts",
    "Walk": "InFlight",
    "walk": "in_flight",
    "walks": "unfinished",
    "Taken": "ConsumedRecord",
    "taken": "consumed",
    "Inlet": "PartitionStream",
    "Prefix": "AckTracker",
    "Aside": "Rejects",
    "Case": "ResolvedLead",
    "Subject": "LeadRef",
    "Step": "WriteBatch",
    "Gate": "AdmissionQueue",
    "Ask": "AdmissionRequest",
    "Turns": "KeyLocks",
    "Turn": "KeyLock",
    "Marks": "ProcessedMarkers",
    "let_next": "release_next",
    "CatchUp": "Bootstrap",
    "catch_up": "bootstrap",
    "SentBack": "RedriveDedup",
    "KafkaLedger": "TransactionalState",
    "LedgerError": "StateStoreError",
    "Shelf": "OffsetTable",
    "Shelves": "OffsetTables",
    "Takers": "Projector",
    "Standing": "ProjectionLag",
    "CannotMend": "EditError",
    "Wishes": "PublishOptions",
    "wishes": "options",
    "Asked": "SentCommand",
    "find_held": "find_stored_leads",
    "tell_json": "show_json",
    "StandingStill": "StallGauge",
    "Sparing": "Throttled",
    "Hearing": "CallbackHealth",
    "Ear": "DestinationCallbacks",
    "hearing": "callback_health",
    "listened_ms": "owned_ms",
    "unheard_ms": "unowned_ms",
    "heard": "record_callback",
    "halt": "suspend",
    "let_go": "exempt",
    "put_off": "postpone_probe",
    "let_by": "admit_dead_letter",
    "stands_still": "is_held",
    "hanging": "stall",
    "why_not": "suppression_reason",
    "expects_silence": "may_suspend",
    "is_news": "are_missing",
    "told_by": "byline",
    "told_ms": "reported_ms",
    "set_up_anew": "reconfigured",
    "record_letter": "record_dead_letter",
    "News": "LaneChange",
    "Story": "RecordHistory",
    "story": "history",
    "stories": "histories",
    "letter": "dead_letter",
    "letters": "dead_letters",
    "Letters": "DeadLetters",
    "case_of": "resolve_lead",
    "whose": "find_lead_ref",
    "mend": "repair",
    "mended": "repaired",
    "hear": "apply",
    "aside": "released",
    "read_place": "parse_record_id",
    "marked_place": "marked_record",
    "place_of": "record_id_of",
    "stands": "status_counts",
}
"""Identifier -> what replaces it."""

OUTSIDE: Final = re.compile(r"clay-facts|faust-hazards|\bhazards? [1-9]\b|[Dd]esign section")
"""Documents outside the repository, which no reader can look up."""

PROSE: Final = re.compile(
    r"(?<![^\W_])(?:told|anew|whoever|nobody|somebody|mended|judg(?:e[sd]?|ing)|story|stories|desks?|walks?)(?![^\W_])"
    r"|\bas it is(?=[,.;:])|(?<!dead)(?<!dead.)(?<![^\W_])letters?(?![^\W_])",
    re.IGNORECASE,
)
"""Words to avoid. Write who does what: "the worker reports" for "is told", "again" for "anew"."""

FOREIGN: Final = re.compile(
    r"\b(?:ast|os)\.walk\b|\bascii_letters\b|\bletter-spacing\b|[Tt]wo-letter|`(?:stories|letters)`"
)
"""Names of the standard library and of CSS, other meanings, and old names that CHANGELOG quotes."""

TEXTS: Final = sorted(
    path
    for folder in ("stream_app", "tests", "docs", "deploy", "examples", "schemas", "benchmarks", ".github")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md", ".toml", ".html", ".js", ".css", ".yml", ".yaml", ".tpl", ".txt", ".json"}
    and not {"vendor", "samples"} & set(path.parts)
    and path != Path(__file__)
)


def test_no_retired_identifier_comes_back() -> None:
    found: dict[str, str] = {}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if IDENTIFIERS.keys() & re.findall(r"\w+", text):  # in a comment, too: tokens cost ten times as much as words
            tokens = tokenize.generate_tokens(io.StringIO(FOREIGN.sub("", text)).readline)
            names = {token.string for token in tokens if token.type == tokenize.NAME} & IDENTIFIERS.keys()
            found |= {f"{path.relative_to(ROOT)}: {name}": IDENTIFIERS[name] for name in names}
    assert not found, "use the word on the right"


def test_nothing_cites_a_document_outside_the_repository() -> None:
    cites = {path: OUTSIDE.findall(path.read_text(encoding="utf-8")) for path in (*SOURCES, *PAGES)}
    assert not {path: found for path, found in cites.items() if found}


def test_names_and_prose_avoid_vague_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *TEXTS]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PROSE.search(FOREIGN.sub("", line))
    ]
    assert not found
