"""Routines: the ids of items, when a run is looked at, and what an item says of its lead."""

import re

from stream_app.domain.delivery.state_machine import delivery_key, forced_origin_of, item_id


def test_the_item_of_a_lead_has_an_id_of_its_own_that_tells_nothing() -> None:
    keys = [
        delivery_key("acme", "people", "ada"),
        delivery_key("acme", "people", "ada", "leads/0/7"),
        delivery_key("acme", "firms", "ada"),
    ]
    ids = [item_id(key) for key in keys]
    assert ids == [item_id(key) for key in keys]
    assert len(set(ids)) == len(keys)
    assert all(re.fullmatch(r"[\w-]{22}", name) for name in ids)
    assert [forced_origin_of(key) for key in keys] == ["", "leads/0/7", ""]
