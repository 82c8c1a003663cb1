"""The rights on Kafka: the page for operators says what the code asks for."""

from collections import defaultdict
from pathlib import Path

import pytest

from stream_app.domain.rights import Acl, Rights, rights_of
from stream_app.domain.topics import TopicNames

TIERS_S = (2, 10, 60, 600, 3_600)
PAGE = Path(__file__).parents[3] / "docs" / "kafka-rights.md"


def in_words(resource: str, names: set[str], every: frozenset[str]) -> str:
    """Names as the page has them: all topics, or each; the delay tiers as one."""
    if names == every:
        return "all topics"
    tiers = {TopicNames().wait(tier_s) for tier_s in TIERS_S}
    short = sorted(names - tiers) + (["leads.wait.<n>s"] if tiers <= names else [])
    kind = {"Topic": "", "Group": "group ", "TransactionalId": "transactional id "}[resource]
    return ", ".join(f"{kind}`{name}`" for name in short)


def rows() -> list[str]:
    """The page's table, a row for each process and command; those with the same rights share one."""
    rights = rights_of(TopicNames(), TIERS_S)
    every = rights["topics"].create
    found: dict[str, list[str]] = defaultdict(list)
    for program, its in rights.items():
        by_kind: dict[tuple[str, str], set[str]] = defaultdict(set)
        for acl in its.acls:
            by_kind[acl.resource, acl.operation].add(acl.name + ("*" if acl.prefixed else ""))
        cells = [
            f"{operation}: {in_words(resource, names, every)}"
            for (resource, operation), names in sorted(by_kind.items(), reverse=True)
        ]
        found["<br>".join(cells)].append(f"`{program}`")
    return [f"| {', '.join(programs)} | {cells} |" for cells, programs in found.items()]


def test_the_page_lists_exactly_the_rights_of_the_code() -> None:
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert table == rows(), "write the rows as they are on the right"


def test_a_right_that_another_one_implies_is_not_listed() -> None:
    rights = Rights(
        read=frozenset({"a"}),
        write=frozenset({"b"}),
        describe=frozenset({"a", "c"}),
        configs=frozenset({"b"}),
        join_groups=frozenset({"g"}),
        look_at_groups=frozenset({"g", "h"}),
    )
    assert rights.topics == {"a", "b", "c"}
    assert rights.acls == [
        Acl("Read", "Group", "g"),
        Acl("Describe", "Group", "h"),
        Acl("Read", "Topic", "a"),
        Acl("DescribeConfigs", "Topic", "b"),
        Acl("Write", "Topic", "b"),
        Acl("Describe", "Topic", "c"),
    ]


@pytest.mark.parametrize("program", rights_of(TopicNames(), TIERS_S))
def test_every_name_has_the_namespace(program: str) -> None:
    for acl in rights_of(TopicNames("prod."), TIERS_S)[program].acls:
        assert acl.name.startswith("prod.")
