"""The tables of a gateway: adopted when a file changes, named by a fingerprint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream_app.config import load_settings
from stream_app.config.reload import FileWatch
from stream_app.domain.model.tokens import Keys
from stream_app.domain.model.topics import home_partition
from stream_app.gateway.tables import CallbackTable, Tables, tables_of
from tests.support.narrow import present

KEY = "a of thirty-two characters or more 81c5"
OTHER_KEY = "b of thirty-two characters or more 81c5"
SECRET = "c of thirty-two characters or more 81c5"
LATER_SECRET = "d of thirty-two characters or more 81c5"
TOML = """
secrets_dir = "{secrets}"
[gateway]
public_url = "https://leads.example.com"
token_keys_env = ["KEY"]
[destinations.people]
workspace = "acme"
webhooks_env = ["WEBHOOK"]
callback_secrets_env = ["SECRET"]
[workspaces.acme]
"""
MORE = """
[destinations.firms]
workspace = "globex"
webhooks_env = ["WEBHOOK"]
[workspaces.globex]
partition = 3
"""
DUMB = """
[destinations.dumb]
workspace = "globex"
webhooks_env = ["WEBHOOK"]
callbacks = false
"""


class Watched:
    """A configuration in files, and the gateway that watches it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "stream_app.toml"
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        self.write(KEY=KEY, SECRET=SECRET)
        self.file.write_text(TOML.format(secrets=self.secrets))
        settings = load_settings(self.file, {}, ("gateway",))
        self.tables = [tables_of(settings)]
        self.reports: list[str] = []
        self.watch = FileWatch(
            settings,
            lambda: load_settings(self.file, {}, ("gateway",)),
            lambda now: self.tables.append(tables_of(now)),
            self.reports.append,
        )

    def write(self, **secrets: str) -> None:
        for name, value in secrets.items():
            (self.secrets / f"{name}.new").write_text(value)
            (self.secrets / f"{name}.new").rename(self.secrets / name)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_secret_is_adopted_from_its_file(watched: Watched) -> None:
    watched.write(SECRET=LATER_SECRET)
    watched.watch.look()
    tables = [present(known.at("/callbacks/acme/people", b"")) for known in watched.tables]
    assert [table.secrets for table in tables] == [(SECRET.encode(),), (LATER_SECRET.encode(),)]


def test_a_configuration_that_is_invalid_changes_nothing_and_is_reported_once(
    watched: Watched,
) -> None:
    text = watched.file.read_text()
    watched.file.write_text(f"{text}\n[nonsense]\n")
    for _ in range(3):
        watched.watch.look()
    (report,) = watched.reports
    assert report.startswith("the configuration is invalid, nothing was adopted: ")
    assert "nonsense" in report
    assert not any(secret in report for secret in (KEY, SECRET))
    watched.file.write_text(text + MORE)
    watched.watch.look()
    assert [len(known) for known in watched.tables] == [1, 2]


def test_equal_fingerprints_mean_the_same_tables_secrets_and_keys(watched: Watched) -> None:
    def digest() -> str:
        return tables_of(load_settings(watched.file, {}, ("gateway",))).digest

    before = digest()
    assert before == digest() == watched.tables[0].digest
    digests = {before}
    watched.write(SECRET=LATER_SECRET)
    digests.add(digest())
    watched.write(KEY=OTHER_KEY)
    digests.add(digest())
    with watched.file.open("a") as file:
        file.write(MORE)
    digests.add(digest())
    watched.file.write_text(watched.file.read_text().replace("partition = 3", "partition = 4"))
    digests.add(digest())
    assert len(digests) == 5
    assert all(len(digest_) == 12 for digest_ in digests)


def test_a_command_reads_the_files_at_once_and_says_what_was_adopted(watched: Watched) -> None:
    assert watched.watch.reload().text == "the configuration has no changes"
    with watched.file.open("a") as file:
        file.write(MORE)
    adopted = watched.watch.reload()
    assert adopted.applied is True
    assert adopted.text == "adopted: 2 workspaces and 2 destinations"
    table = present(watched.tables[-1].at("/callbacks/globex/firms", b""))
    assert len(watched.tables[-1]) == 2
    assert table.partition == 3
    assert table.is_configured is True
    number = len(watched.tables)
    watched.file.write_text(f"no_such_key = 1\n{watched.file.read_text()}")
    for _ in range(2):
        refused = watched.watch.reload()
        assert refused.applied is False
        assert refused.reason == "bad_configuration"
        assert "no_such_key" in refused.text
    assert len(watched.tables) == number


KEYS = Keys([KEY])
ACME = CallbackTable("acme", "people", 2, (SECRET.encode(),))
PARTITIONS = 8


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/callbacks/acme/people", ACME),
        ("/callbacks/acme/firms", ("acme", "firms")),
        ("/callbacks/globex/people", ("globex", "people")),
        (f"/callbacks/{'w' * 64}/{'d' * 64}", ("w" * 64, "d" * 64)),
        ("/callbacks/A.b_c-9/A.b_c-9", ("A.b_c-9", "A.b_c-9")),
        (f"/callbacks/{'w' * 65}/d", None),
        (f"/callbacks/w/{'d' * 65}", None),
        ("/callbacks//d", None),
        ("/callbacks/w/", None),
        ("/callbacks/w/d/", None),
        ("/callbacks/w", None),
        ("/callbacks/w/d\n", None),
        ("/callbacks/w d/d", None),
        ("/x/callbacks/w/d", None),
    ],
)
def test_the_table_of_an_address(path: str, known: Any) -> None:
    table = Tables([ACME], KEYS, PARTITIONS).at(path, b"")
    if isinstance(known, tuple):
        workspace, destination = known
        home = home_partition(workspace, PARTITIONS, {})
        known = CallbackTable(workspace, destination, home, (), is_configured=False)
    assert table == known
    if table is not ACME:
        assert Tables([ACME], None, PARTITIONS).at(path, b"") is None, "only its secret proves it"
    else:
        assert Tables([ACME], None, PARTITIONS).at(path, b"") is ACME


HOME = home_partition("globex", PARTITIONS, {})


@pytest.mark.parametrize(
    ("query", "partition"),
    [
        (b"", HOME),
        (b"partition=0", 0),
        (b"partition=7", 7),
        (b"partition=8", HOME),
        (b"partition=000007", 7),
        (b"partition=0000007", HOME),
        (b"partition=-1", HOME),
        (b"partition=%37", 7),
        ("partition=٣".encode(), HOME),
        (b"partition=\xff", HOME),
        (b"partition=1&partition=2", 1),
        (b"x=" + b"y" * 86 + b"&partition=1", 1),
        (b"x=" + b"y" * 87 + b"&partition=1", HOME),
    ],
)
def test_the_partition_that_an_address_names(query: bytes, partition: int) -> None:
    """No workspace of this name is at home in each of the partitions, so that it shows."""
    table = present(Tables([], KEYS, PARTITIONS).at("/callbacks/globex/firms", query))
    assert table.partition == partition
    configured = Tables([CallbackTable("globex", "firms", 3)], KEYS, PARTITIONS)
    assert present(configured.at("/callbacks/globex/firms", query)).partition == 3


def test_each_part_of_the_tables_is_in_their_fingerprint() -> None:
    others = [
        Tables([ACME], KEYS, PARTITIONS),
        Tables([ACME], None, PARTITIONS),
        Tables([ACME], Keys([KEY, OTHER_KEY]), PARTITIONS),
        Tables([ACME], KEYS, PARTITIONS + 1),
        Tables([], KEYS, PARTITIONS),
        Tables([replace(ACME, workspace="globex")], KEYS, PARTITIONS),
        Tables([replace(ACME, destination="firms")], KEYS, PARTITIONS),
        Tables([replace(ACME, partition=3)], KEYS, PARTITIONS),
        Tables([replace(ACME, secrets=())], KEYS, PARTITIONS),
        Tables([replace(ACME, secrets=(*ACME.secrets, b"the next"))], KEYS, PARTITIONS),
        Tables([ACME, CallbackTable("acme", "firms", 2)], KEYS, PARTITIONS),
    ]
    assert len({tables.digest for tables in others}) == len(others)
    assert all(SECRET not in tables.digest and KEY not in tables.digest for tables in others)
    firms = CallbackTable("acme", "firms", 2)
    assert (
        Tables([ACME, firms], KEYS, PARTITIONS).digest
        == Tables([firms, ACME], KEYS, PARTITIONS).digest
    ), "in whichever order they are configured"


def test_the_tables_of_a_configuration(watched: Watched) -> None:
    """Only destinations with callbacks are tables, and only a gateway with keys takes tokens."""
    watched.write(LATER=LATER_SECRET)
    text = watched.file.read_text()
    text = text.replace(
        'callback_secrets_env = ["SECRET"]',
        'callback_secrets_env = ["SECRET", "LATER"]',
    )
    watched.file.write_text(text + MORE + DUMB)
    tables = tables_of(load_settings(watched.file, {}, ("gateway",)))
    assert len(tables) == 2
    people = present(tables.at("/callbacks/acme/people", b""))
    assert people.secrets == (SECRET.encode(), LATER_SECRET.encode())
    assert people.is_configured
    assert people.workspace == "acme"
    assert people.destination == "people"
    firms = present(tables.at("/callbacks/globex/firms", b"partition=1"))
    assert firms.secrets == ()
    assert firms.partition == 3
    dumb = present(tables.at("/callbacks/globex/dumb", b"partition=1"))
    assert not dumb.is_configured
    assert repr(tables.keys) == repr(Keys([KEY])), "the fingerprint of its keys"
    watched.file.write_text(text.replace('token_keys_env = ["KEY"]', ""))
    keyless = tables_of(load_settings(watched.file, {}, ("gateway",)))
    assert keyless.keys is None
    assert keyless.at("/callbacks/globex/dumb", b"") is None
    assert present(keyless.at("/callbacks/acme/people", b"")).secrets == people.secrets


ROUTINE = """
[workspaces.initech]
api_key_env = "CLAY_API_KEY"
[destinations.finder]
workspace = "initech"
routine = "function:t_0abc"
run_webhook = "wh_1"
run_webhook_secret_env = "RUN_SECRET"
"""


def test_a_completion_webhook_is_adopted_with_its_secret_and_at_its_own_address(
    watched: Watched,
) -> None:
    watched.write(RUN_SECRET="whsec_1c0ffee0123456789abcdef012345678")
    with watched.file.open("a") as file:
        file.write(ROUTINE)
    watched.watch.look()
    assert watched.reports == []
    before, after = watched.tables
    assert before.at("/callbacks/initech/finder/run", b"") is None
    webhook = present(after.at("/callbacks/initech/finder/run", b""))
    assert webhook.signs
    assert webhook.secrets == (b"whsec_1c0ffee0123456789abcdef012345678",)
    settings = load_settings(watched.file, {}, ("gateway",))
    assert webhook.partition == settings.home("initech")
    called_back = present(after.at("/callbacks/initech/finder", b""))
    assert not called_back.is_configured, "only the leads of an earlier table may call back there"
    watched.write(RUN_SECRET="whsec_2c0ffee0123456789abcdef012345678")
    watched.watch.look()
    assert watched.tables[-1].digest not in (before.digest, after.digest)
