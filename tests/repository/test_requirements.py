"""The pinned requirements: they satisfy pyproject.toml, have hashes and no address, and are what is
installed.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
NOT_IN_THE_IMAGE = {"dev", "local"}
"""Extras for a developer's machine: the tests, and a Kafka of its own. The image has every other
one.
"""
FILES = {
    "requirements.txt": tuple(EXTRAS.keys() - NOT_IN_THE_IMAGE),
    "requirements-dev.txt": tuple(EXTRAS),
}
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
"""Of Python."""
PLACES = [
    {
        "python_version": version,
        "python_full_version": f"{version}.9",
        "sys_platform": system,
        "platform_system": name,
    }
    for version in VERSIONS
    for system, name in (("linux", "Linux"), ("darwin", "Darwin"))
]


class Pin(NamedTuple):
    """One entry of a file of requirements: `requirement` is `name==version`, with its marker."""

    requirement: Requirement
    hashes: list[str]

    @property
    def version(self) -> str:
        """The one version that it allows."""
        (only,) = self.requirement.specifier
        assert only.operator == "=="
        return only.version


def text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def pins(file: str) -> Iterator[Pin]:
    for line in text(file).replace("\\\n", " ").splitlines():
        if line.strip():
            what, *hashes = line.split(" --hash=")
            yield Pin(Requirement(what.strip()), [digest.strip() for digest in hashes])


def applies(requirement: Requirement, place: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(place)


def asked_for(file: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in FILES[file] for line in EXTRAS[extra])]
    return [
        requirement
        for requirement in map(Requirement, lines)
        if requirement.name != PROJECT["name"]
    ]


def installed(file: str, place: dict[str, str]) -> dict[str, str]:
    """Return the version of everything that pip installs there, by name.

    Fails if a name comes twice.
    """
    versions: dict[str, str] = {}
    for pin in pins(file):
        if applies(pin.requirement, place):
            assert (
                versions.setdefault(canonicalize_name(pin.requirement.name), pin.version)
                == pin.version
            )
    return versions


def test_every_place_names_the_same_versions_of_python() -> None:
    span = f"Python {VERSIONS[0]} to {VERSIONS[-1]}"
    for file in ("README.md", ".github/CONTRIBUTING.md", "docs/compatibility.md", ".ci/run"):
        assert span in text(file), file
    later = f"3.{int(VERSIONS[-1].removeprefix('3.')) + 1}"
    assert PROJECT["requires-python"] == f">={VERSIONS[0]},<{later}"
    named = [
        classifier.rpartition(" ")[2]
        for classifier in PROJECT["classifiers"]
        if " :: Python :: " in classifier
    ]
    assert tuple(named) == VERSIONS
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    assert tuple(jobs["tests"]["strategy"]["matrix"]["python"]) == VERSIONS


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "place",
    PLACES,
    ids=lambda place: f"{place['python_version']}-{place['sys_platform']}",
)
def test_the_pins_satisfy_what_the_package_asks_for(file: str, place: dict[str, str]) -> None:
    versions = installed(file, place)
    for requirement in asked_for(file):
        if applies(requirement, place):
            name = canonicalize_name(requirement.name)
            assert name in versions, (
                f"{requirement}: write {file} again, see .github/CONTRIBUTING.md"
            )
            assert versions[name] in requirement.specifier, str(requirement)
    assert (
        installed("requirements-dev.txt", place).items()
        >= installed("requirements.txt", place).items()
    )


@pytest.mark.parametrize("file", [*FILES, ".ci/uv.txt", ".ci/build.txt", ".ci/release.txt"])
def test_each_pin_has_hashes_and_no_address(file: str) -> None:
    assert "://" not in text(file)
    assert not re.search(r"^\s*--?(?!hash=)\w", text(file), re.MULTILINE), (
        "no option for pip: an index is yours to set"
    )
    for pin in pins(file):
        assert pin.requirement.url is None
        assert pin.hashes, str(pin.requirement)
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in pin.hashes), str(
            pin.requirement,
        )


PINNED: Final = {".ci/uv.txt": "uv", ".ci/build.txt": "editables", ".ci/release.txt": "build"}
"""What the tools of a build are pinned in, and one tool of each."""
INSTALLERS: Final = {
    "Dockerfile": {"requirements.txt", ".ci/build.txt"},
    ".ci/run": {"requirements-dev.txt", ".ci/uv.txt", ".ci/build.txt"},
    ".github/workflows/ci.yml": {"requirements-dev.txt", ".ci/build.txt"},
    ".github/workflows/release.yml": {".ci/release.txt"},
}
"""What installs packages, and from which files."""


@pytest.mark.parametrize("user", INSTALLERS)
def test_nothing_is_installed_or_built_with_a_tool_that_has_no_hash(user: str) -> None:
    """pip builds a package in an environment of its own, with the newest tools that it finds,
    unless told not to.
    """
    given = re.sub(r"\\\n\s*", "", text(user))
    installs = re.findall(
        r"\b(?:install|pip wheel) ([^&\n]*--(?:require-hashes|no-deps|no-cache)[^&\n]*)",
        given,
    )
    hashed = {
        match[1] for line in installs if (match := re.search(r"--require-hashes -r (\S+)", line))
    }
    assert hashed == INSTALLERS[user]
    for line in installs:
        if "--require-hashes" not in line:
            assert "--no-build-isolation" in line or line.rstrip().endswith(".whl"), line
    named = re.findall(r"\bpip3? install (?!-)[^&\n]*|\bpip install [^&\n]*==[^&\n]*", given)
    assert named == [], "a package by its name has no hash"
    assert "python -m build" not in given or "python -m build --no-isolation" in given


@pytest.mark.parametrize("file", PINNED)
def test_the_tools_of_a_build_are_pinned_and_agree_with_the_rest(file: str) -> None:
    versions = {canonicalize_name(pin.requirement.name): pin.version for pin in pins(file)}
    assert PINNED[file] in versions
    beside = {
        canonicalize_name(pin.requirement.name): pin.version for pin in pins("requirements-dev.txt")
    }
    if file == ".ci/build.txt":  # both are installed into one environment
        assert {
            name: version
            for name, version in versions.items()
            if beside.get(name, version) != version
        } == {}
        backend = tomllib.loads(text("pyproject.toml"))["build-system"]["requires"]
        assert {canonicalize_name(Requirement(line).name) for line in backend} <= versions.keys()
