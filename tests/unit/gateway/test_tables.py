"""The tables of a gateway: adopted when a file changes, named by a fingerprint."""

from pathlib import Path

import pytest

from stream_app.config import load_settings
from stream_app.config.reload import FileWatch
from stream_app.gateway.tables import tables_of
from tests.support.narrow import present

KEY, OTHER_KEY, SECRET, LATER_SECRET = (
    f"{word} of thirty-two characters or more 81c5" for word in "abcd"
)
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
