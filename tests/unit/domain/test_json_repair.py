"""Broken JSON is repaired where one reading makes sense, and left alone where there are two."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.callback.json_repair import repair


def repaired(text: str) -> object:
    good = repair(text)
    return None if good is None else json.loads(good)


@pytest.mark.parametrize(
    ("broken", "meant"),
    [
        ('{"a": "x", "note": "they said "call me back" twice"}', {"a": "x", "note": 'they said "call me back" twice'}),
        ('{"note": ""quoted"", "b": 1}', {"note": '"quoted"', "b": 1}),
        ('{"note": "he said "hi", then left", "b": "y"}', {"note": 'he said "hi", then left', "b": "y"}),
        ('{"json": "[{"a": 1, "b": "y"}]", "c": true}', {"json": '[{"a": 1, "b": "y"}]', "c": True}),
        ('{"a": "one\ntwo\tthree\x00"}', {"a": "one\ntwo\tthree "}),
        ('{"a": "already \\"escaped\\" and "not""}', {"a": 'already "escaped" and "not"'}),
        ('{"a": 1, "b": "x",}', {"a": 1, "b": "x"}),
        ('{"credits": , "a": "x", "b": }', {"credits": None, "a": "x", "b": None}),
        (' { "a" : -1.5e3 , "b" : null } ', {"a": -1500, "b": None}),
        ('{"a": "", "b": "{{x}}"}', {"a": "", "b": "{{x}}"}),
    ],
)
def test_json_with_one_plausible_reading_is_repaired(broken: str, meant: object) -> None:
    assert repaired(broken) == meant


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{",
        "[1,]",
        '{"a": "x"',
        '{"a": "x" "b": "y"}',
        '{"a": "x"\n"b": "y", "c": 1}',
        '{"a": Ada Lovelace}',
        '{"a": {{Name}}}',
        '{"size": "6" wide"}',
        '{"json": "{"name": "Ada", "title": "CEO"}"}',
        '{"note": "he said "hi", "name": "Bob" and "x"", "b": 1}',
        '{"a": "x", "a": "the "other" one"}',
        '{"a": {"b": "x "y" z"}}',
        '{"a": "x "y" z"} {"b": 1}',
        "{'a': 'x'}",
        '{"a": "x",,}',
        '{"a\nb": "x"}',
    ],
)
def test_ambiguous_json_is_not_repaired(broken: str) -> None:
    assert repaired(broken) is None


words = st.text(st.sampled_from('ab "\\,:{}[]\n1é'), max_size=12)


@given(st.dictionaries(st.sampled_from(["lead_id", "title", "note"]), st.one_of(words, st.integers(), st.none())))
def test_valid_flat_json_keeps_its_meaning(document: dict[str, object]) -> None:
    found = repaired(json.dumps(document))
    assert found == document or not document or found is None, "never something else"


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text(st.sampled_from("xy é.!?-("), max_size=8), min_size=1))
def test_doubled_quotes_are_quotes_of_the_cell(cells: dict[str, str]) -> None:
    meant = {name: f'said "{text}" twice' for name, text in cells.items()}
    broken = "{" + ", ".join(f'"{name}": "{text}"' for name, text in meant.items()) + "}"
    assert repaired(broken) == meant


@given(st.text(max_size=60))
def test_a_repair_never_raises(text: str) -> None:
    repair(text)
    repair('{"a": "' + text + '"}')


@pytest.mark.parametrize("piece", ['"', '" ', '",', '", "a', '"a": "b", ', "\\", '"}', '"} ', " ", '{"a":', '\\"'])
def test_the_time_of_a_repair_is_linear(piece: str) -> None:
    began = time.process_time()
    repair('{"x": "' + piece * (262_144 // len(piece)))
    assert time.process_time() - began < 2
