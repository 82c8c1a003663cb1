"""The containers as a user runs them: what the file's first comment says, each killed, looked at
from outside.

These tests follow each other on one system.
"""

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import yaml
from playwright.sync_api import Page, expect, sync_playwright

from tests.containers.system import ONCE, ROOT, System, first_comment, tell, until
from tests.support.pace import BUSY
from tests.support.programs import find_browser

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

FIRST_ROWS: Final = 30
ROWS_EACH: Final = 6
"""Leads that are published before each kill."""
WITHIN_S: Final = 240 * BUSY
"""How long results may take: Clay's own time, and the time that a breaker stays open."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("containers")
    with System(folder) as running:
        yield running


def rows(name: str, count: int) -> str:
    """Return a CSV with so many people, who are like no others."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("email", "first_name", "last_name"))
    writer.writerows((f"{name}{n}@example.com", "Ada", f"Example {name} {n}") for n in range(count))
    return out.getvalue()


def typed(word: str) -> str:
    """Return the command of the file's first comment that has this word."""
    (line,) = [line for line in first_comment() if f" {word} " in f"{line} "]
    return line


def test_every_container_of_a_private_clone_is_healthy(system: System) -> None:
    assert first_comment()[1] == "docker compose up --build --detach", "which the fixture does"
    containers = system.containers()
    assert {"gateway-1", "gateway-2"} <= system.expected
    once = {f"{service}-1" for service in ONCE}
    assert set(containers) == system.expected | once
    assert {containers[name].ExitCode for name in once} == {0}
    until(system.are_healthy, 180 * BUSY, "the health of all containers")
    for name in containers:
        volumes = system.volumes(name)
        assert all(volume.startswith(f"{system.project}_") for volume in volumes), (
            f"{name}: `down` would leave {volumes}"
        )
    tell(f"image built in {system.built_s:.0f} s")
    tell(f"{len(system.expected)} containers healthy {system.healthy_s:.0f} s later")


def test_a_csv_comes_back_as_the_first_comment_says_and_the_books_agree(system: System) -> None:
    (system.folder / "leads.csv").write_text(rows("ada", FIRST_ROWS))
    none = system.run("results", "--workspace", "globex", ok=1)
    assert "stream-app imports" in none.stderr, "it says what to do where there is no result"
    assert f"{FIRST_ROWS} published, 0 refused" in system.shell(typed("publish"))
    took_s = until(
        lambda: system.ledger()["callbacks"].get("200") == FIRST_ROWS,
        WITHIN_S,
        "the last callback",
    )
    until(lambda: len(system.results()) == FIRST_ROWS, WITHIN_S, "the last result")
    system.shell(typed("results"))
    with (system.folder / "enriched.csv").open(encoding="utf-8") as enriched:
        assert (
            len({row["lead_id"] for row in csv.DictReader(enriched) if row["job_title"]})
            > FIRST_ROWS / 2
        )
    assert "enriched" in system.shell(typed("status").replace("ada@", "ada0@"))
    assert "FAILED" not in system.shell(typed("doctor"))
    books = system.books()
    ledger = system.ledger()
    assert books["leads"] == FIRST_ROWS
    assert books["columns"]["enriched"]["leads"] == FIRST_ROWS
    assert ledger["accepted"] == FIRST_ROWS
    assert ledger["leads_accepted"] == FIRST_ROWS
    assert ledger["leads_repeated"] == 0
    compare_credits(books, ledger)
    tell(f"{FIRST_ROWS} leads answered {took_s:.0f} s after `publish`, {spent(books)} credits")


def test_every_example_runs_against_them(system: System) -> None:
    examples = sorted(
        path.name for path in (system.folder / "examples").glob("*.py") if path.name != "connect.py"
    )
    arguments = {
        "consume_status_aiokafka.py": "--count 10",
        "consume_status_confluent.py": "--count 10",
        "publish_leads.py": "--workspace acme",
        "read_results.py": "--workspace acme",
        "reset_offsets.py": "--group example-aiokafka --topic leads.status",
    }
    assert examples == sorted(arguments)
    printed: dict[str, list[str]] = {}
    for name, words in arguments.items():
        line = f"set -a; . ./.env; set +a; exec {sys.executable} examples/{name} {words}"
        argv = ["/bin/sh", "-c", line]
        done = subprocess.run(
            argv,
            cwd=system.folder,
            capture_output=True,
            text=True,
            timeout=120 * BUSY,
            check=False,
        )
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        assert not done.stderr, (name, done.stderr)
        printed[name] = done.stdout.splitlines()
    assert "2 of 3 leads published" in printed["publish_leads.py"]
    assert sum(": enriched" in line for line in printed["publish_leads.py"]) == 2
    assert len(printed["read_results.py"]) == FIRST_ROWS + 2
    assert (
        len(printed["consume_status_aiokafka.py"])
        == len(printed["consume_status_confluent.py"])
        == 10
    )
    assert {line.rpartition(" ")[2] for line in printed["reset_offsets.py"]} == {"0"}
    without = {name: value for name, value in os.environ.items() if name != "KAFKA_PASSWORD"}
    done = subprocess.run(
        [sys.executable, "examples/read_results.py"],
        cwd=system.folder,
        env=without,
        capture_output=True,
        text=True,
        timeout=60 * BUSY,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert ". ./.env" in done.stderr, done.stderr


@pytest.mark.browser
def test_people_see_it_on_the_board_through_nginx(system: System) -> None:
    url = system.url("BOARD_PORT")
    token = system.secrets["BOARD_TOKEN"]
    # A browser that sends no Sec-Fetch-Site: the board compares Origin with the address that people
    # see.
    for origin, status in ((url, 303), ("http://127.0.0.1:1", 403)):
        form = {"token": token, "who": "jane"}
        answer = httpx.post(
            f"{url}/board/login",
            data=form,
            headers={"origin": origin},
            timeout=30 * BUSY,
        )
        assert answer.status_code == status, (origin, answer.text)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(),
            args=["--no-sandbox", "--disable-gpu"],
        )
        try:
            page = browser.new_page()
            page.set_default_timeout(60_000)
            errors: list[str] = []
            page.on(
                "console",
                lambda message: errors.append(message.text) if message.type == "error" else None,
            )
            look_at_the_board(page, url, token)
            assert errors == []
        finally:
            browser.close()


def look_at_the_board(page: Page, url: str, token: str) -> None:
    """Log in at the bare address, and find the leads that were published."""
    page.goto(f"{url}/")
    expect(page.get_by_label("Token")).to_be_visible()
    page.get_by_label("Token").fill(token)
    page.get_by_label("Your name").fill("jane")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{url}/board")
    for path, says in (("lanes", "acme"), ("books", "acme"), ("system", "worker")):
        page.goto(f"{url}/board/{path}")
        expect(page.locator("main")).to_contain_text(says)
    page.goto(f"{url}/board/imports")
    at_rest = page.get_by_role("img", name=f"{FIRST_ROWS} of {FIRST_ROWS} leads at rest")
    expect(at_rest).to_be_visible()
    page.goto(f"{url}/board/leads?workspace=acme")
    expect(page.locator("main")).to_contain_text("crm-17")


def test_prometheus_scrapes_each_process_and_has_the_rules(system: System) -> None:
    targets = ["board", "gateway", "gateway", "replay", "worker"]

    def up() -> list[str]:
        active = system.get("PROMETHEUS_PORT", "/api/v1/targets")["data"]["activeTargets"]
        return sorted(target["labels"]["job"] for target in active if target["health"] == "up")

    until(lambda: up() == targets, 120 * BUSY, "the last target")
    groups = system.get("PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
    loaded = {rule["name"] for group in groups for rule in group["rules"]}
    alerts = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    assert loaded == {
        rule.get("alert") or rule["record"] for group in alerts for rule in group["rules"]
    }
    tell(f"Prometheus: {len(targets)} targets are up, {len(loaded)} rules")


def test_no_lead_is_lost_or_sent_twice_while_each_container_is_killed(system: System) -> None:
    before = system.books()["leads"]
    killed = sorted(system.expected)
    for number, name in enumerate(killed):
        published = system.run(
            "publish",
            "-",
            "--format",
            "csv",
            "--workspace",
            "acme",
            stdin=rows(f"k{number}x", ROWS_EACH),
        )
        assert f"{ROWS_EACH} published" in published.stdout + published.stderr
        system.kill(name)
        took_s = until(
            system.are_healthy,
            180 * BUSY,
            f"the health of all after the kill of {name}",
        )
        system.report_again()
        tell(f"{name} killed: all healthy {took_s:.0f} s later")
    leads = before + ROWS_EACH * len(killed)

    def uncertain() -> int:
        """Return the leads of which a kill left it open whether Clay has them: these are not sent
        again.
        """
        return int(system.books()["statuses"].get("send_uncertain", {}).get("leads", 0))

    until(
        lambda: system.ledger()["leads_accepted"] + uncertain() == leads,
        WITHIN_S,
        "the last POST",
    )
    at_clay = system.ledger()["leads_accepted"]
    until(lambda: len(system.results()) == at_clay, WITHIN_S, "the last result")
    books = system.books()
    ledger = system.ledger()
    assert books["leads"] == leads
    assert at_clay >= leads - ROWS_EACH, "only the kill of the worker leaves that open"
    assert ledger["leads_accepted"] == at_clay, "the simulator keeps its rows"
    assert ledger["leads_repeated"] == 0, "the simulator keeps its rows"
    if at_clay == leads:
        compare_credits(books, ledger)
    else:  # for a lead that Clay may have, the books hold what it may have cost
        assert spent(books) >= charged(ledger)
    tell(
        f"{len(killed)} containers killed: {leads} leads, {at_clay} at Clay, none twice, "
        f"{leads - at_clay} "
        f"uncertain, {spent(books)} credits",
    )


def spent(books: Any) -> int:
    """Return the credits of this month in the books."""
    return sum(account["spent"] for account in books["accounts"] if of_month(account))


def of_month(account: Any) -> bool:
    return account["meter"] == "credits" and len(account["period"]) == len("2026-12")


def charged(ledger: Any) -> int:
    """Return the credits that the simulated Clay has kept."""
    totals = ledger["workspaces"]["acme"]
    return int(totals["credits_charged"]) - int(totals["credits_refunded"])


def compare_credits(books: Any, ledger: Any) -> None:
    """What the system has booked is what Clay has charged."""
    assert spent(books) == charged(ledger)
    open_credits = sum(
        account["unknown"] + account["reserved"]
        for account in books["accounts"]
        if of_month(account)
    )
    assert open_credits == 0
