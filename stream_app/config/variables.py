"""The environment variables that the configuration names.

This module says which program needs which, and whether a value is usable. Every key that ends in
`_env` names one, or several. No error repeats a value, which is a secret, nor an invalid name,
which could be the secret itself.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Final, Literal, NamedTuple

import msgspec

from stream_app.config.model import Settings
from stream_app.domain.model import addresses
from stream_app.domain.spans import headers_of

Need = Literal["clay", "gateway", "board", "api", "trace", "notify"]
"""A part that needs secrets: POSTs to Clay, callbacks, the board, those who ask its look-up API,
traces, messages.
"""

_NEEDED_FOR: Final[Mapping[str, Set[Need]]] = {
    "destinations.webhooks_env": {"clay"},
    "destinations.token_env": {"clay"},
    "destinations.callback_secrets_env": {"gateway"},
    "destinations.run_webhook_secret_env": {"gateway"},
    "workspaces.api_key_env": {"clay"},
    "egress.proxy_env": {"clay", "notify"},
    "gateway.token_keys_env": {"clay", "gateway"},
    "board.token_env": {"board", "api"},
    "board.operator_token_env": {"board"},
    "board.user_header_secret_env": {"board"},
    "notify.url_env": {"notify"},
    "trace.headers_env": {"trace"},
}
"""Every program needs the variables of the other keys."""

_KEPT_WHERE_SET: Final = frozenset(
    {
        "board.token_env",
        "destinations.callback_secrets_env",
        "egress.proxy_env",
        "trace.headers_env",
    },
)
_OURS: Final = frozenset(
    {"privacy.pepper_env", "gateway.token_keys_env", "destinations.callback_secrets_env"}
    | {"board.token_env", "board.operator_token_env", "board.user_header_secret_env"},
)
"""Keys of the secrets that we make ourselves."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Naming(NamedTuple):
    """A key that names variables."""

    key: str  # the table and the key, without what is between them
    place: str  # the whole key, as in the file
    names: tuple[str, ...]  # the variables

    @property
    def valid(self) -> list[str]:
        """The names that a variable can have."""
        return [name for name in self.names if _NAME.fullmatch(name)]


def namings_of(settings: Settings) -> Iterator[Naming]:
    """Yield the keys that name variables."""
    for table in ("kafka", "redis", "privacy", "gateway", "board", "trace", "notify", "egress"):
        yield from _namings(table, table, getattr(settings, table))
    for name, workspace in settings.workspaces.items():
        yield from _namings("workspaces", f"workspaces.{name}", workspace)
    for alias, destination in settings.destinations.items():
        yield from _namings("destinations", f"destinations.{alias}", destination)


def _namings(table: str, place: str, values: msgspec.Struct) -> Iterator[Naming]:
    for key in values.__struct_fields__:
        value = getattr(values, key)
        if isinstance(value, msgspec.Struct):
            yield from _namings(table, f"{place}.{key}", value)
        elif key.endswith("_env") and value is not None:
            yield Naming(
                f"{table}.{key}",
                f"{place}.{key}",
                value if isinstance(value, tuple) else (value,),
            )


def name_problems(settings: Settings) -> Iterator[str]:
    """Yield one line for each name that no variable can have, or that a key has twice."""
    for naming in namings_of(settings):
        if len(set(naming.names)) < len(naming.names):
            yield f"{naming.place}: must name each environment variable once"
        for _ in range(len(naming.names) - len(naming.valid)):
            yield (
                f"{naming.place}: must be the name of an environment variable, "
                "never the secret itself"
            )


def needed(namings: Iterable[Naming], needs: Set[Need]) -> list[tuple[str, str]]:
    """Return the secrets that a program with these needs must have.

    Returns:
        The place in the file and the variable of each.
    """
    return [
        (naming.place, name)
        for naming in namings
        if naming.key not in _NEEDED_FOR or _NEEDED_FOR[naming.key] & needs
        for name in naming.valid
    ]


def kept(namings: Sequence[Naming], needs: Set[Need], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values that a program with these needs works with. Other secrets are forgotten."""
    names = {name for _, name in needed(namings, needs)}
    names |= {name for naming in namings if naming.key in _KEPT_WHERE_SET for name in naming.valid}
    return {name: environ[name] for name in names if name in environ}


def missing(
    settings: Settings,
    namings: Iterable[Naming],
    needs: Set[Need],
    environ: Mapping[str, str],
) -> Iterator[str]:
    """Yield one line for each variable that is not set although these needs demand it."""
    where = f", and {settings.secrets_dir} has no such file" if settings.secrets_dir else ""
    for place, name in needed(namings, needs):
        if not environ.get(name):
            yield f"environment variable {name} is not set{where}; {place} names it"


def value_problems(
    settings: Settings,
    namings: Iterable[Naming],
    needs: Set[Need],
    environ: Mapping[str, str],
) -> Iterator[str]:
    """Yield one line for each value that cannot be used, webhooks aside."""
    yield from _guessable(settings, namings, environ)
    checks = [
        (settings.redis.url_env, _redis_problem),
        (settings.trace.headers_env, _headers_problem),
        (
            settings.egress.proxy_env if needs & {"clay", "notify"} else None,
            addresses.proxy_problem,
        ),
        (settings.notify.url_env, addresses.messages_problem),
    ]
    for name, problem_of in checks:
        if (value := environ.get(name or "")) and (problem := problem_of(value)):
            yield f"environment variable {name}: {problem}"


def webhook_problems(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield one line for each webhook's URL, and each token, that cannot be used."""
    seen: dict[str, str] = {}
    for alias, destination in settings.destinations.items():
        kinds: dict[addresses.WebhookKind, str] = {}
        for name in destination.webhooks_env:
            if not (url := environ.get(name)):
                continue
            if problem := addresses.webhook_problem(url, destination.allowed_hosts):
                yield f"environment variable {name}: {problem}"
            else:
                kinds.setdefault(addresses.webhook_kind(url), name)
            if seen.setdefault(url, name) != name:
                yield f"environment variable {name}: is the same webhook as {seen[url]}; remove one"
        if len(kinds) > 1:
            yield (
                f"destinations.{alias}.webhooks_env: {kinds['workflow']} is the webhook of a "
                f"workflow, and {kinds['table']} that of a table; give each a destination of its "
                "own"
            )
        elif "workflow" in kinds and destination.token_env is not None:
            yield (
                f"destinations.{alias}.token_env: the webhook of a workflow takes no token; remove "
                "it"
            )
        if (token := environ.get(destination.token_env or "")) and (
            problem := addresses.token_problem(token)
        ):
            yield f"environment variable {destination.token_env}: {problem}"


def key_problems(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield one line for each key of the Public API that cannot be used."""
    seen: dict[str, str] = {}
    for workspace in settings.workspaces.values():
        name = workspace.api_key_env or ""
        if not (key := environ.get(name)):
            continue
        if problem := addresses.key_problem(key):
            yield f"environment variable {name}: {problem}"
        if seen.setdefault(key, name) != name:
            yield (
                f"environment variable {name}: is the same key as {seen[key]}; a key is of one "
                "workspace, so make another one in the other workspace's settings in Clay"
            )


def _guessable(
    settings: Settings,
    namings: Iterable[Naming],
    environ: Mapping[str, str],
) -> Iterator[str]:
    """Find our secrets that are public or guessable, whether this program needs them or not."""
    hosts = (
        host for destination in settings.destinations.values() for host in destination.allowed_hosts
    )
    simulated = all(addresses.is_local(host.partition(":")[0]) for host in hosts)
    seen: dict[str, str] = {}
    for name in dict.fromkeys(
        name for naming in namings if naming.key in _OURS for name in naming.valid
    ):
        if not (secret := environ.get(name)):
            continue
        problem = addresses.secret_problem(secret)
        if problem is None and secret in addresses.PUBLIC_SECRETS and not simulated:
            problem = (
                "is an example from this project's files, which are public; "
                f"{addresses.HOW_TO_MAKE}"
            )
        if problem is None and seen.setdefault(secret, name) != name:
            problem = f"is the same as {seen[secret]}; {addresses.HOW_TO_MAKE}"
        if problem is not None:
            yield f"environment variable {name}: {problem}"


def _redis_problem(url: str) -> str | None:
    from stream_app.cache.redis import redis_problem  # most commands do not need Redis

    return redis_problem(url)


def _headers_problem(text: str) -> str | None:
    try:
        headers_of(text)
    except ValueError as error:
        return str(error)
    return None
