"""Fair shares between peers: the largest gives way, the others are served in turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.fair_share import FairTurns, Holders, peer_of


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::"),
        ("2001:db8:0:1:bbbb::2", "2001:db8:0:1::"),
        ("2001:db8:0:2::1", "2001:db8:0:2::"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_a_peer_is_an_address_or_a_subnet(host: str, peer: str) -> None:
    assert peer_of(host) == peer


def test_the_oldest_of_the_largest_peer_gives_way() -> None:
    holders: Holders[str] = Holders()
    assert holders.gives_way() is None
    holders.add("a", "a1", 10)
    holders.add("b", "b1", 5)
    holders.add("b", "b2", 4)
    assert holders.gives_way() == "a1"
    holders.add("b", "b1", 2)
    assert holders.gives_way() == "b1", "it stays the oldest when it takes more"
    holders.remove("b", "b1")
    assert holders.gives_way() == "a1"
    holders.remove("a", "a1")
    holders.remove("a", "a1")
    assert holders.gives_way() == "b2"
    holders.remove("b", "b2")
    assert holders.gives_way() is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 9), st.booleans())))
def test_a_peer_with_less_never_gives_way(steps: list[tuple[str, int, int, bool]]) -> None:
    holders: Holders[tuple[str, int]] = Holders()
    held: dict[tuple[str, int], int] = {}
    for peer, number, amount, add in steps:
        if add:
            holders.add(peer, (peer, number), amount)
            held[peer, number] = held.get((peer, number), 0) + amount
        else:
            holders.remove(peer, (peer, number))
            held.pop((peer, number), None)
        sums = {name: sum(n for (who, _), n in held.items() if who == name) for name, _ in held}
        victim = holders.gives_way()
        assert (victim is None) == (not held)
        if victim is not None:
            assert sums[victim[0]] == max(sums.values())
            assert victim == next(each for each in held if each[0] == victim[0])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers())))
def test_peers_are_served_in_turn_and_each_in_its_order(items: list[tuple[str, int]]) -> None:
    turns: FairTurns[tuple[str, int]] = FairTurns()
    for item in items:
        turns.push(item[0], item)
    served = []
    while turns:
        served.append(turns.pop())
    with pytest.raises(LookupError):
        turns.pop()
    for peer in "abc":
        mine = [item for item in items if item[0] == peer]
        assert [item for item in served if item[0] == peer] == mine
    busy = len({peer for peer, _ in items})
    assert len({peer for peer, _ in served[:busy]}) == busy, "each peer is among the first"
