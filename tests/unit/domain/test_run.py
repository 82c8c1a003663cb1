"""What names a lead in a run of a routine."""

import re

from stream_app.domain.delivery.state_machine import delivery_key, item_id
from stream_app.domain.model.run import is_run_id


def test_an_item_names_one_lead_and_tells_nothing_of_it() -> None:
    plain = delivery_key("acme", "people", "ada@example.com")
    forced = delivery_key("acme", "people", "ada@example.com", "leads/0/7")
    items = [item_id(key) for key in (plain, forced, delivery_key("acme", "other", "ada"))]
    assert len(set(items)) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", item) for item in items)
    # Rows outlive versions of this program, so the id of a lead must never change.
    assert items[0] == "zbztzAH9dt5q7i66zRSOKA"


def test_the_id_of_a_run_is_one_step_of_a_path() -> None:
    assert is_run_id("rr_0-a.b:c")
    assert not any(map(is_run_id, ("", ".", "..", "a b", "\u00e9", "r\n", "x" * 129)))
