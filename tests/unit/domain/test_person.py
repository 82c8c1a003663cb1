"""The person of a lead: whatever identifiers leads come with, each finds all leads of its person in
one look-up.
"""

from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.lead import identity


class Rows:
    """Alias rows and which leads count, as the line keeps them."""

    def __init__(self) -> None:
        self.aliases: dict[bytes, bytes] = {}
        self.counting: dict[bytes, bool] = {}

    def take(
        self,
        lead: str,
        names: tuple[str, ...],
        counts: bool = True,
        sent: bool = True,
    ) -> bool:
        """Whether the lead is new.

        `counts`: it stays so once it has ended. `sent`: Clay is asked about it.
        """
        own = tuple(identity.person_key("acme", "people", name) for name in names)
        person = identity.person_of(own, self.aliases.get)
        new = not any(self.counting[row] for row in person.rows)
        if new:
            key = f"d/acme/people/{lead}".encode()
            self.aliases.update(identity.pointed(own, key, self.aliases.get))
            if sent:
                self.aliases.update(identity.linked(own, key, self.aliases.get))
                assert identity.linked(own, key, self.aliases.get) == [], (
                    "a second attempt writes nothing"
                )
            self.counting[key] = counts
        return new

    def persons(self) -> dict[str, tuple[set[bytes], set[str]]]:
        """By identifier, the rows and identifiers that it finds."""
        return {
            identity.hash_of(key): (
                set(identity.rows_of(value)),
                set(identity.identifiers_of(key, value)),
            )
            for key, value in self.aliases.items()
        }


def test_a_shared_address_does_not_collect_identifiers_without_end() -> None:
    rows = Rows()
    assert rows.take("0", ("info", "L0"))
    for number in range(1, 100):
        rows.counting = dict.fromkeys(rows.counting, False)
        assert rows.take(str(number), ("info", f"L{number}"))
    assert max(len(names) for _, names in rows.persons().values()) == identity.MAX_IDENTIFIERS
    assert max(map(len, rows.aliases.values())) < 1_000
    assert not rows.take("101", ("info",))


def test_no_more_identifiers_are_looked_up_than_one_above_the_most_that_are_linked() -> None:
    others = b" ".join(b"%d" % number for number in range(2 * identity.MAX_IDENTIFIERS))
    person = identity.person_of((b"p/acme/people/info",), {b"p/acme/people/info": others}.get)
    assert len(person.aliases) == identity.MAX_IDENTIFIERS + 1


def test_a_lead_of_too_large_a_person_claims_at_least_its_own() -> None:
    rows = Rows()
    for number in range(identity.MAX_IDENTIFIERS - 1):
        rows.take(str(number), ("info", f"L{number}"), counts=False)
    assert rows.take("x", ("info", "X"))
    assert not rows.take("y", ("X",))
    assert not rows.take("z", ("L1",)), "it was known with the address, and that was bought"
    assert not rows.take("z", ("info",))


names = st.lists(st.sampled_from("ABCDEF"), min_size=1, max_size=2, unique=True).map(tuple)


@given(st.lists(st.tuples(names, st.booleans(), st.booleans()), max_size=20))
def test_a_lead_is_new_exactly_when_no_lead_of_its_person_counts(
    leads: list[tuple[tuple[str, ...], bool, bool]],
) -> None:
    """Against sets that are united by hand: `whole` is all that is known of the person of an
    identifier.
    """
    rows = Rows()
    whole = dict[str, frozenset[str]]()
    bought = list[tuple[frozenset[str], bool]]()
    for number, (identifiers, counts, sent) in enumerate(leads):
        person = frozenset(identifiers).union(
            *(whole.get(name, frozenset()) for name in identifiers),
        )
        new = not any(still and not person.isdisjoint(before) for before, still in bought)
        assert rows.take(str(number), identifiers, counts, sent) == new
        if new:
            bought.append((frozenset(identifiers), counts))
            whole |= (
                dict.fromkeys(person, person)
                if sent
                else {name: whole.get(name, frozenset(name)) for name in identifiers}
            )
    assert {name: leads_of[1] for name, leads_of in rows.persons().items()} == {
        n: set(all_) for n, all_ in whole.items()
    }
