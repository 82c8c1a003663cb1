"""The documents name tests, commands, options, keys, pages and files that exist."""

import html
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest

from stream_app.cli.main import COMMANDS
from stream_app.config import load_settings
from stream_app.domain.model import errors as error_classes
from stream_app.domain.model.messages import Status
from stream_app.domain.model.outcome import UncertainReason, UnsentReason
from tests.repository.documents import DOCS, DOCUMENTS, README, ROOT, each_document, name_of, parse
from tests.simulation.all_mutants import MUTANTS

CODE = ROOT / "stream_app"
IMAGES = sorted((DOCS / "images").glob("*.svg"))


@each_document
def test_tests_files_and_modules_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert re.search(
            rf"^(async )?def {name}\b",
            (ROOT / file).read_text(encoding="utf-8"),
            re.M,
        ), f"{file}::{name}"
    for path in re.findall(
        r"(?<![\w./-])((?:tests|stream_app|benchmarks|docs|deploy)/[\w./-]*\w)",
        text,
    ):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"(?:python -m |from )((?:benchmarks|tests|stream_app)[\w.]*)", text):
        at = ROOT / Path(*module.split("."))
        assert (
            at.with_suffix(".py").exists()
            or (at / "__init__.py").exists()
            or (at / "__main__.py").exists()
        ), module


# Links


def links_of(document: Path) -> list[str]:
    """The targets of the links and pictures of a document that lead into the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    return [target for target in targets if not re.match(r"https?://|mailto:", target)]


@cache
def anchors_of(document: Path) -> set[str]:
    """The anchors that a page's headings get from GitHub."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@each_document
def test_links_lead_to_a_file_and_a_heading(document: Path) -> None:
    for link in links_of(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@each_document
def test_links_to_code_lead_to_its_definition(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name, path in re.findall(r"\[`([\w.]+?)(?:\(\))?`\]\(([^)\s#]+\.py)\)", text):
        if not name.endswith(".py"):
            assert_defines((document.parent / path).read_text(encoding="utf-8"), name)


def assert_defines(source: str, name: str) -> None:
    """Fail unless the module defines the function, class, constant, or method (`Class.method`)."""
    for part in name.split("."):
        assert re.search(rf"^ *((async )?def |class ){part}\b|^{part}\b.* = ", source, re.M), name


def test_the_architecture_lists_every_folder_once() -> None:
    rows = re.findall(
        r"^\| \[`([\w/]+)`\]\(\.\./stream_app/([\w/]+)\) \|",
        (DOCS / "architecture.md").read_text(),
        re.M,
    )
    folders = {str(path.parent.relative_to(CODE)) for path in CODE.rglob("*.py")} - {"."}
    assert all(shown == linked for shown, linked in rows)
    assert sorted(linked for _, linked in rows) == sorted(folders)


def test_readme_leads_to_every_page_and_picture() -> None:
    seen = set[Path]()
    ahead = [README]
    while ahead:
        page = ahead.pop()
        seen.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links_of(page)}
        ahead += [target for target in targets - seen if target.suffix == ".md" and target.exists()]
        seen |= targets
    assert {*DOCUMENTS, *IMAGES} <= seen


# Commands


@each_document
def test_commands_in_the_text_exist(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    for line in re.findall(r"`stream-app ([^`$]+)`", text):
        parse(shlex.split(line), complete=False)
    named = set(
        re.findall(r"(?<!from )stream-app ([a-z][a-z-]+)", " ".join(re.findall(r"`[^`]+`", text))),
    )
    assert named <= set(COMMANDS), named - set(COMMANDS)


# Configuration


@cache
def tables_of_keys() -> dict[str, set[str]]:
    """Return for each key of the settings the words of the tables that have it."""
    tables: dict[str, set[str]] = {}
    words = set[str]()
    for line in (DOCS / "reference" / "settings.md").read_text(encoding="utf-8").splitlines():
        if table := re.match(r"#+ `\[(.+)\]`", line):
            words = set(re.findall(r"\b[a-z_]+\b", table[1]))
        elif key := re.match(r"\| `(\w+)` \|", line):
            tables.setdefault(key[1], set()).update(words)
    return tables


@each_document
def test_keys_in_the_text_are_in_their_tables(document: Path) -> None:
    """`topics.status_days` is a key, `retention.status_days` is none. `leads.bulk` is a topic, and
    `stream_app.run` an attribute of spans.
    """
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+)(?:\.[a-z_0-9<>]+)*\.([a-z_]+)(?: = [^`]*)?`", text)
    tables = tables_of_keys()
    assert len(tables) > 100
    wrong = [
        f"{table}.{key}"
        for table, key in named
        if key in tables and table not in {"leads", "stream_app"} | tables[key]
    ]
    assert wrong == []


def blocks_for_kafka() -> Iterator[tuple[str, str]]:
    for page in sorted((DOCS / "managed-kafka").glob("*.md")):
        for block in re.findall(
            r"^```toml\n(.*?)^```",
            page.read_text(encoding="utf-8"),
            re.M | re.S,
        ):
            yield page.stem, block


@pytest.mark.parametrize(("service", "block"), list(blocks_for_kafka()))
def test_configurations_of_managed_services_are_valid(
    service: str,
    block: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text(
        f"{block}\n[workspaces.a]\n[destinations.b]\nworkspace = 'a'\nwebhooks_env = ['W']\n"
        "callbacks = false\n",
    )
    environ = dict.fromkeys(re.findall(r'_env = "(\w+)"', block), "s3cret")
    assert load_settings(path, environ, ()).kafka.security.protocol == "SASL_SSL"


def test_each_managed_service_but_one_has_a_configuration() -> None:
    pages = {page.stem for page in (DOCS / "managed-kafka").glob("*.md")}
    assert pages - {service for service, _ in blocks_for_kafka()} == {"azure-event-hubs"}


# Metrics


def metrics_of(page: Path) -> list[tuple[str, set[str]]]:
    """The name and labels of each metric that a page lists."""
    rows = re.findall(r"^\| `(stream_app_\w+)` \|(.*?)\|", page.read_text(encoding="utf-8"), re.M)
    return sorted((name, set(re.findall(r"`(\w+)`", labels))) for name, labels in rows)


def test_the_metrics_page_has_every_metric_and_its_labels() -> None:
    """The other page is generated: tests/repository/test_site.py."""
    assert metrics_of(DOCS / "metrics.md") == metrics_of(
        DOCS / "reference" / "metrics.md",
    )


@each_document
def test_metrics_in_the_text_exist(document: Path) -> None:
    named = re.findall(r"\bstream_app_[a-z_]+\b", document.read_text(encoding="utf-8"))
    assert set(named) <= set(
        re.findall(
            r"stream_app_[a-z_]+",
            (DOCS / "metrics.md").read_text(encoding="utf-8"),
        ),
    )


# Failures


def test_the_failures_page_has_every_error_and_every_code() -> None:
    codes = re.findall(
        r"^\| `(\w+)` \|",
        (DOCS / "reference" / "failures.md").read_text(encoding="utf-8"),
        re.M,
    )
    errors = {value.__name__ for value in vars(error_classes).values() if isinstance(value, type)}
    assert errors | set(get_args(Status)) <= set(codes)
    assert {*get_args(UnsentReason), *get_args(UncertainReason)} <= set(codes)
    # Of a lead that cannot be read, of one that waits, and of one that has ended.
    assert {
        "no_identity",
        "unknown_workspace",
        "webhook_out",
        "lane_busy",
        "loop_guard",
        "resend",
    } <= set(codes)


# README, pictures, counts


@pytest.mark.parametrize("image", IMAGES, ids=name_of)
def test_pictures_load_nothing_from_elsewhere(image: Path) -> None:
    text = image.read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"href|url\((?!#)|@import", text)


def test_the_picture_of_the_demo_tells_its_story_and_ends_with_books_that_balance() -> None:
    picture = (DOCS / "images" / "demo.svg").read_text(encoding="utf-8")
    *frames, last = re.findall(r'<g class="(?:frame )?demo-matrix [^"]+">(.*?)</g>', picture, re.S)
    told = html.unescape(" ".join(frames)).replace("\xa0", " ")
    assert len(frames) > 20
    assert "Clay goes down" in told
    assert "held by the outage" in told
    assert "Clay is back" in told
    ended = html.unescape(" ".join(re.findall(r">([^<]+)<", last))).replace("\xa0", " ")
    records_in, accounted_for = re.findall(r"(\d+) in, (\d+) accounted for", ended)[0]
    assert records_in == accounted_for
    assert "0 sent twice" in ended


def test_the_documents_count_the_broken_lines() -> None:
    assert f"breaks the pipeline in {len(MUTANTS)} named ways" in (DOCS / "failures.md").read_text()


def test_the_table_of_failures_can_be_read_and_each_row_has_its_evidence() -> None:
    table, _, evidence = (
        (DOCS / "failures.md").read_text(encoding="utf-8").partition("## The evidence")
    )
    rows = {number: row for row, number in re.findall(r"^(\| (\d+) \|.*\|)$", table, re.M)}
    assert len(rows) > 90
    assert [number for number, row in rows.items() if row.count(" | ") != 4] == []
    shown = re.findall(r"^- \*\*(\d+)\.\*\* .*`tests/[^`]+::\w+`$", evidence, re.M)
    assert shown == list(rows) == [str(number) for number in range(1, len(rows) + 1)]
