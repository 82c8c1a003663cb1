"""The store of results: the last of each key, whose memory does not grow, and which leaves nothing behind."""

import os
from pathlib import Path

import psutil
import pytest

from stream_app.client.results import ResultStore
from stream_app.domain.errors import StreamAppError


def all_of(store: ResultStore) -> list[bytes]:
    return [store.value(number) for number in store]


def test_the_last_one_counts_in_the_order_of_the_first() -> None:
    store = ResultStore()
    store.put([(b"a", b"1"), (b"b", b"1"), (b"a", b"2")])
    store.put([(b"c", b"1"), (b"b", b"3"), (b"d", b"1")])
    store.put([(b"c", None), (b"x", None), (b"d", None), (b"d", b"2")])
    assert all_of(store) == [b"2", b"3", b"2"]
    assert len(store) == 3
    assert store.of_lead(b"c") == 0
    assert store.value(store.of_lead(b"d")) == b"2"


def test_a_person_leads_to_a_result_that_may_come_later() -> None:
    store = ResultStore()
    store.put_people([(b"p/ada", [b"lead"]), (b"p/bob", [b"lead"]), (b"p/bob", [])])
    assert store.of_person(b"p/ada") == 0
    store.put([(b"lead", b"1")])
    assert store.value(store.of_person(b"p/ada")) == b"1"
    assert store.of_person(b"p/bob") == store.of_person(b"p/eve") == 0
    store.put_people([(b"p/ada", [b"lead", b"later"])])
    store.put([(b"later", b"2")])
    assert store.value(store.of_person(b"p/ada")) == b"2", "of several leads the last result"


@pytest.mark.parametrize("results", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_memory_is_bounded_and_no_file_has_a_name(
    results: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    memory, store = psutil.Process().memory_info, ResultStore()
    before = memory().rss
    for first in range(0, results, 5_000):
        store.put((f"acme/people/{n}".encode(), os.urandom(500)) for n in range(first, first + 5_000))
    store.put((f"acme/people/{n}".encode(), b"new") for n in range(0, results, 2))
    assert memory().rss - before < 90 * 2**20, "of 100 MB and their index, where there are 200,000"
    assert list(tmp_path.iterdir()) == []
    assert len(store) == results
    store.close()


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore()
    store._db.execute("PRAGMA max_page_count = 50")
    with pytest.raises(StreamAppError, match="set TMPDIR"):
        store.put((f"{n}".encode(), b"x" * 500) for n in range(1_000))
