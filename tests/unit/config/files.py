"""A configuration file, its secrets, and what loading it comes to."""

from pathlib import Path

import pytest

import stream_app.config
from stream_app.config import Settings, load_settings
from stream_app.config.variables import Need
from stream_app.domain.model.errors import SettingsError

EXAMPLE = Path(stream_app.config.__file__).with_name("stream_app.example.toml")
URL = "https://api.clay.com/v3/sources/webhook/s3cret-slug"
KEY = "s3cret-key-of-callback-tokens-32-characters"
PEPPER = "s3cret-pepper-of-persons-32-characters"
SECRETS = {
    "CLAY_WEBHOOK_PEOPLE": URL,
    "CLAY_TOKEN_PEOPLE": "s3cret-token",
    "CALLBACK_KEY": KEY,
    "PERSON_PEPPER": PEPPER,
}

CAP = """
[workspace_defaults.budget]
credits_per_month = 100000
"""
PEOPLE = f"""{CAP}
[workspaces.acme]
[destinations.people]
workspace = "acme"
webhooks_env = ["CLAY_WEBHOOK_PEOPLE"]
callbacks = false
"""
CALLED_BACK = PEOPLE.replace("callbacks = false", "callbacks = true")
GATEWAY = """
[gateway]
public_url = "https://leads.example.com/clay/"
token_keys_env = ["CALLBACK_KEY"]
[board]
token_env = "BOARD_TOKEN"
"""


def load(
    tmp_path: Path,
    text: str,
    environ: dict[str, str] = SECRETS,
    needs: tuple[Need, ...] = ("clay",),
) -> Settings:
    path = tmp_path / "stream_app.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ, needs)


def problems(tmp_path: Path, text: str, environ: dict[str, str] = SECRETS) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert not any("\n" in line or "s3cret" in line for line in caught.value.problems)
    return [
        line.removeprefix(f"{tmp_path / 'stream_app.toml'}: ") for line in caught.value.problems
    ]
