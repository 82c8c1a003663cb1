"""The published formats: what is committed is what the types say, and nothing that was promised is
broken.

tests/samples holds messages as they were once written, and the schemas as they were when others
began to rely on them; both are only ever added to.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from stream_app.dev.schemas import MESSAGES, documents, schema
from stream_app.domain.delivery.envelope import HEADER_MEANING, HEADERS, read_envelope
from stream_app.domain.model.records import ConsumedRecord

TESTS = Path(__file__).parents[2]
COMMITTED = TESTS.parent / "schemas"
SAMPLES = TESTS / "samples"


def test_the_committed_schemas_are_the_generated_ones() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in COMMITTED.iterdir()}
    assert committed == documents(), "run: python -m stream_app.dev.schemas"


def as_in(sample: Any, kept: Any) -> Any:
    """Return what was kept without the members of nested objects that came after the sample."""
    if isinstance(sample, dict) and isinstance(kept, dict):
        return {key: as_in(sample[key], value) for key, value in kept.items() if key in sample}
    return kept


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.v*.json")), ids=lambda path: path.stem)
def test_an_old_sample_still_decodes_and_is_valid(path: Path) -> None:
    name = path.stem.rsplit(".", 1)[0]
    raw = path.read_bytes()
    message = msgspec.json.decode(raw, type=MESSAGES[name])
    sample = json.loads(raw)
    kept = as_in(sample, json.loads(msgspec.json.encode(message)))
    assert {key: value for key, value in sample.items() if key in message.__struct_fields__} == {
        key: value for key, value in kept.items() if key in sample
    }
    jsonschema.validate(sample, schema(name))


def test_every_message_has_a_small_and_a_full_sample() -> None:
    for name, kind in MESSAGES.items():
        minimal = json.loads((SAMPLES / f"{name}.minimal.json").read_bytes())
        required = {field.name for field in msgspec.structs.fields(kind) if field.required}
        assert set(minimal) == required
        full = json.loads((SAMPLES / f"{name}.full.json").read_bytes())
        assert set(kind.__struct_fields__) <= set(full), (
            f"{name}: add the new field to the full sample"
        )


def test_an_old_dead_letter_is_still_read() -> None:
    """By its headers: each has its name and its value when it is written again."""
    sample = json.loads((SAMPLES / "dead-letter.headers.json").read_bytes())
    headers = tuple((name, value.encode()) for name, value in sample.items())
    envelope = read_envelope(ConsumedRecord("leads.dlq", 3, 7, b"acme", b"{}", headers, 1))
    again = {name: value.decode() for name, value in envelope.to_headers()}
    assert again == sample
    assert set(HEADERS.values()) == set(sample), "add the new header to the sample"


@pytest.mark.parametrize("name", MESSAGES)
def test_no_promised_field_is_gone(name: str) -> None:
    promised = json.loads((SAMPLES / "schemas" / f"{name}.json").read_bytes())
    assert broken(promised, schema(name)) == []


def broken(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """How `new` fails who wrote or read by `old`: fields removed, retyped or newly required."""
    before = _object(old)
    after = _object(new)
    lines = []
    for field, was in before["properties"].items():
        now = after["properties"].get(field)
        if now is None:
            lines.append(f"{field}: removed")
        elif not _accepts(_kinds(was), _kinds(now)):
            lines.append(f"{field}: was {_kinds(was)}, is {_kinds(now)}")
    new_duties = set(after.get("required", ())) - set(before.get("required", ()))
    return lines + [f"{field}: is required now" for field in sorted(new_duties)]


def _object(document: dict[str, Any]) -> dict[str, Any]:
    definition: dict[str, Any] = document["$defs"][document["$ref"].rpartition("/")[2]]
    return definition


def _kinds(field: dict[str, Any]) -> set[str]:
    """The types a field may have; each allowed word of an enumeration counts as one."""
    if "anyOf" in field:
        return {kind for option in field["anyOf"] for kind in _kinds(option)}
    if "enum" in field:
        return {f"={word}" for word in field["enum"]}
    if "$ref" in field:
        return {field["$ref"]}
    inner = field.get("additionalProperties") or field.get("items")
    return {field["type"] + (f" of {sorted(_kinds(inner))}" if isinstance(inner, dict) else "")}


def _accepts(was: set[str], now: set[str]) -> bool:
    """Old messages still decode: every type and word there was is still there."""
    return was <= now


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda new: new["properties"].pop("seq"), "seq: removed"),
        (
            lambda new: new["properties"].update(seq={"type": "string"}),
            "seq: was {'integer'}, is {'string'}",
        ),
        (lambda new: new["properties"]["status"]["enum"].remove("parked"), "status: was"),
        (lambda new: new["required"].append("reason"), "reason: is required now"),
    ],
)
def test_incompatible_changes_are_found(change: Any, expected: str) -> None:
    new = schema("status-event.v1")
    change(_object(new))
    assert any(line.startswith(expected) for line in broken(schema("status-event.v1"), new))


def test_the_asyncapi_document_is_yaml_whose_references_exist() -> None:
    document = yaml.safe_load(documents()["asyncapi.yaml"])
    assert document["asyncapi"] == "3.0.0"
    for ref in _references(document):
        if ref.startswith("./"):
            assert ref.removeprefix("./") in documents()
        else:
            place = document
            for part in ref.removeprefix("#/").split("/"):
                place = place[part]
    headers = document["components"]["schemas"]["deadLetterHeaders"]["properties"]
    assert list(headers) == list(HEADERS.values())
    assert list(HEADER_MEANING) == list(HEADERS.values())
    for name in ("status", "enriched", "deadLetters", "parked"):
        assert "read_committed" in document["channels"][name]["description"]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [ref for inner in value.values() for ref in _references(inner)]
    return [ref for inner in value for ref in _references(inner)] if isinstance(value, list) else []
