"""What a running worker adopts of a changed configuration, and what it leaves for a restart."""

import asyncio
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from stream_app.clock import Clock
from stream_app.config import Settings, load_settings
from stream_app.config.model import Http
from stream_app.config.reload import _LOOKED_UP, NOTHING_NEW, Configuration, Process, processes_of
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.model.addresses import webhook_id
from stream_app.domain.model.errors import RowUnreadable, SettingsError
from stream_app.domain.plan import Plan
from stream_app.partition.intake import Intake
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer

URL = "https://api.clay.com/v3/sources/webhook/"
TOML = """
secrets_dir = "{directory}"
[kafka]
partitions = 4
[workspace_defaults.budget]
credits_per_month = 100000
[workspaces.acme]
partition = 1
[destinations.people]
workspace = "acme"
webhooks_env = ["FIRST"]
token_env = "TOKEN"
callbacks = false
"""


class Files:
    """A configuration file and a directory of secrets, as an operator changes them."""

    def __init__(self, path: Path) -> None:
        self.toml = path / "stream_app.toml"
        self.secrets = path / "secrets"
        self.secrets.mkdir()
        self.environ = {"FIRST": URL + "first", "TOKEN": "old"}
        self.write(TOML)
        self.configuration = Configuration(self.read(), self.read)

    def read(self) -> Settings:
        return load_settings(self.toml, self.environ)

    def write(self, toml: str) -> None:
        self.toml.write_text(toml.format(directory=self.secrets))

    def secret(self, name: str, value: str) -> None:
        (self.secrets / name).write_text(value + "\n")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_webhook_and_a_token_are_adopted_and_old_webhooks_stay_known(files: Files) -> None:
    files.secret("SECOND", URL + "second")
    files.secret("TOKEN", "new")  # a file counts more than the environment, which cannot change
    files.write(TOML.replace('["FIRST"]', '["SECOND"]'))
    reported = asyncio.run(files.configuration.refresh())
    assert reported.applied is True
    assert reported.text == "adopted: destination people with 1 webhook"
    first = webhook_id(URL + "first")
    second = webhook_id(URL + "second")
    assert files.configuration.plan.destinations["people"].webhook_ids == (second,)
    endpoint = files.configuration.endpoints["people"]
    assert endpoint.token == "new"
    assert endpoint.urls == {first: URL + "first", second: URL + "second"}
    assert asyncio.run(files.configuration.refresh()) is NOTHING_NEW


def test_workspaces_and_policies_are_adopted(files: Files) -> None:
    files.secret("THIRD", URL + "third")
    files.write(
        TOML
        + """
[workspaces.acme.budget]
credits_per_day = 500
[workspaces.beta]
partition = 3
[destinations.firms]
workspace = "beta"
webhooks_env = ["THIRD"]
callbacks = false
""",
    )
    reported = asyncio.run(files.configuration.refresh())
    assert (
        reported.text
        == "adopted: workspace acme, workspace beta (new), destination firms (new) with 1 webhook"
    )
    plan = files.configuration.plan
    assert plan.workspaces["acme"].budget.credits_per_day == 500
    assert plan.pins == {"acme": 1, "beta": 3}
    assert plan.workspaces["beta"].default_destination == "firms"


def test_a_change_that_needs_a_restart_is_named_and_not_applied(files: Files) -> None:
    files.write(
        TOML.replace("partitions = 4", "partitions = 8").replace("partition = 1", "partition = 2"),
    )
    reported = asyncio.run(files.configuration.refresh())
    assert (
        reported.text
        == "needs a restart of every process (kafka.partitions, workspaces.acme.partition)"
    )
    assert files.configuration.plan.pins == {"acme": 1}
    assert files.configuration.plan.partitions == 4
    files.write(TOML[: TOML.index("[workspaces")])
    assert asyncio.run(files.configuration.refresh()).text == (
        "needs a restart of every process (workspace acme was removed, destination people "
        "was removed)"
    )
    assert "people" in files.configuration.plan.destinations


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("[http]\nworker_port = 9201", "of the workers (http.worker_port)"),
        (
            "[http]\nboard_port = 9207\n[board]\nbanner = 'test'",
            "of the board (http.board_port, board.banner)",
        ),
        (
            "[http]\ngateway_port = 9203\nreplay_port = 9202\ntrace_port = 9205",
            "of the replay processes (http.replay_port), of the gateways (http.gateway_port), "
            "of the trace process (http.trace_port)",
        ),
        ("[shares]\nbulk = 0.2", "of the workers (shares.bulk)"),
        (
            "[replay]\nrate_share = 0.1",
            "of the workers and the replay processes (replay.rate_share)",
        ),
    ],
)
def test_a_restart_is_named_by_the_processes_that_need_it(
    files: Files,
    more: str,
    text: str,
) -> None:
    files.write(f"{TOML}\n{more}\n")
    assert asyncio.run(files.configuration.refresh()).text == f"needs a restart {text}"


def test_each_setting_belongs_to_a_process() -> None:
    """Workspaces, destinations and secrets are looked up while a process runs."""
    for name in set(Settings.__struct_fields__) - _LOOKED_UP:
        table = getattr(Settings(), name)
        keys = table.__struct_fields__ if isinstance(table, msgspec.Struct) else ("",)
        assert all(processes_of(name, key) for key in keys), name
    assert {name.partition("_")[0] for name in Http.__struct_fields__} == {
        "host",
        *get_args(Process),
    }


def test_a_removed_workspace_that_comes_back_with_another_home_is_refused_and_nothing_adopted(
    files: Files,
) -> None:
    files.write(TOML[: TOML.index("[workspaces")])
    configuration = Configuration(files.read(), files.read)
    lanes = Lanes(1, configuration.plan, Clock(), Observer(), Intake())

    async def moved(plan: Plan) -> list[str]:
        return lanes.moved(plan)

    configuration.moved = moved
    lanes.load({b"l/acme": b'{"version": 1, "workspace": "acme", "partition": 1}'})
    files.write(TOML.replace("partition = 1", "partition = 2"))
    refused = asyncio.run(configuration.reload("first"))
    with pytest.raises(RowUnreadable) as at_start:
        Lanes(1, files.read().plan, Clock(), Observer(), Intake()).load(dict(lanes.rows()))
    assert refused.applied is False
    assert refused.reason == "refused"
    assert refused.text == str(at_start.value)
    assert configuration.plan.workspaces == {}
    assert configuration.plan.pins == {}
    assert configuration.endpoints == {}
    assert asyncio.run(configuration.refresh()) == refused, "until the file is corrected"
    files.write(TOML)
    assert asyncio.run(configuration.reload("second")).applied
    lanes.reconfigured()
    assert configuration.plan.pins == {"acme": 1}


def test_another_pepper_counts_from_a_restart_on(files: Files) -> None:
    before = plain_id("Ada King")
    files.secret("PEPPER", "s3cret-pepper-of-persons-32-characters")
    files.write(TOML + '[privacy]\npepper_env = "PEPPER"\n')
    assert (
        asyncio.run(files.configuration.refresh()).text
        == "needs a restart of every process (privacy.pepper_env, the pepper of privacy.pepper_env)"
    )
    assert plain_id("Ada King") == before
    files.read()
    assert plain_id("Ada King") != before


def test_a_wrong_configuration_changes_nothing_and_shows_no_secret(files: Files) -> None:
    files.secret("FIRST", "https://example.com/secret-slug")
    files.write(TOML + "\n[workspaces.beta.rate]\nrate_per_s = 4\n")
    reported = asyncio.run(files.configuration.refresh())
    assert reported.applied is False
    assert reported.reason == "bad_configuration"
    assert "environment variable FIRST" in reported.text
    assert "secret-slug" not in reported.text
    assert "beta" not in files.configuration.plan.workspaces


def test_an_unreadable_secret_file_is_reported_as_unreadable(files: Files) -> None:
    files.write(TOML.replace('["FIRST"]', '["NOWHERE"]'))
    with pytest.raises(SettingsError, match=r"NOWHERE is not set, and .*secrets has no such file"):
        files.read()
    files.toml.write_text(TOML.format(directory=files.secrets / "nowhere"))
    with pytest.raises(SettingsError, match="there is no such directory"):
        files.read()
    files.write(TOML)
    (files.secrets / "FIRST").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="the file FIRST cannot be read"):
        files.read()


def test_a_proxy_is_left_for_a_restart_and_its_url_is_not_shown(files: Files) -> None:
    files.secret("PROXY", "http://ada:s3cret@proxy.example.com:3128")
    files.write(TOML + '[egress]\nproxy_env = "PROXY"\n')
    assert asyncio.run(files.configuration.refresh()).text == (
        "needs a restart of the workers and the board (egress.proxy_env, the proxy's URL in PROXY)"
    )
    configuration = Configuration(files.read(), files.read)
    assert asyncio.run(configuration.refresh()) is NOTHING_NEW
    files.secret("PROXY", "http://ada:n3w@proxy.example.com:3128")
    assert (
        asyncio.run(configuration.refresh()).text
        == "needs a restart of the workers and the board (the proxy's URL in PROXY)"
    )


def test_a_reload_reads_the_configuration_once_a_command(files: Files) -> None:
    reads = 0

    def read() -> Settings:
        nonlocal reads
        reads += 1
        return files.read()

    configuration = Configuration(files.read(), read)
    assert {asyncio.run(configuration.reload("first")).text for _ in range(64)} == {
        NOTHING_NEW.text,
    }
    files.write(TOML.replace("credits_per_month = 100000", "credits_per_month = 70000"))
    assert {asyncio.run(configuration.reload("second")).text for _ in range(64)} == {
        "adopted: workspace acme",
    }
    assert reads == 2
