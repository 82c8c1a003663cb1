"""Ways to count wrongly: each must differ from the ledger in one of the first schedules."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

import msgspec

from stream_app.board.read_model import account, history, query
from stream_app.board.read_model.account import AccountWriter, Letter
from stream_app.board.read_model.history import History, Imports, slots_of
from stream_app.client.books import compare
from stream_app.domain.books.records import (
    BookEvent,
    KeptRecord,
    columns_of,
    elect,
    is_at_rest,
    state_of,
)
from stream_app.domain.delivery.state_machine import open_costs
from stream_app.domain.model.messages import RESEND
from stream_app.ops import metrics

Make = Callable[[], AbstractContextManager[Any]]
ACCOUNT_MUTANTS: Final[dict[str, Make]] = {}


def mutant(make: Make) -> Make:
    ACCOUNT_MUTANTS[make.__name__] = make
    return make


@mutant
def every_record_is_a_lead() -> AbstractContextManager[Any]:
    return patch.object(account, "elect", lambda records: {number for number, _ in records})


@mutant
def the_first_record_counts() -> AbstractContextManager[Any]:
    def first(records: Iterable[tuple[int, KeptRecord]]) -> set[int]:
        return elect(
            (number, msgspec.structs.replace(kept, took=-kept.took)) for number, kept in records
        )

    return patch.object(account, "elect", first)


@mutant
def a_duplicate_counts_like_any_record() -> AbstractContextManager[Any]:
    return patch.object(account, "rank_of", lambda history: 0 if history.status in _NO_LEADS else 3)


_NO_LEADS: Final = {"callback_duplicate", "callback_unmatched", "erased", "cost_corrected"}


@mutant
def a_lead_keeps_its_old_status() -> AbstractContextManager[Any]:
    """What a record contributed before is not taken away."""

    class Growing(Counter[Any]):
        def subtract(self, *_: Any, **__: Any) -> None:
            pass

    return patch.object(account, "Counter", Growing)


@mutant
def held_leads_are_at_rest() -> AbstractContextManager[Any]:
    def at_rest(status: str, *, final: bool) -> bool:
        return status.startswith("held_") or is_at_rest(status, final=final)

    return patch.object(account, "is_at_rest", at_rest)


@mutant
def accepted_is_the_end_with_callbacks() -> AbstractContextManager[Any]:
    return patch.object(
        account,
        "is_at_rest",
        lambda status, *, final: is_at_rest(status, final=True),
    )


@mutant
def rows_that_were_sent_back_arrive_again() -> AbstractContextManager[Any]:
    """Of an import: a copy of a dead letter counts as a row that had not arrived."""
    arrived = Imports.arrived

    def twice(self: Imports, number: int) -> None:
        arrived(self, number)
        arrived(self, number)

    return patch.object(Imports, "arrived", twice)


@mutant
def held_leads_of_an_import_also_wait() -> AbstractContextManager[Any]:
    return patch.object(Imports, "arrived", lambda self, number: None)


@mutant
def a_day_is_dropped() -> AbstractContextManager[Any]:
    count = History.count

    def without(self: History, events: Iterable[tuple[int, BookEvent]]) -> None:
        count(self, [(number, event) for number, event in events if event.at_ms // 86_400_000 % 2])

    return patch.object(History, "count", without)


@mutant
def corrections_are_not_booked() -> AbstractContextManager[Any]:
    count = History.count

    def without(self: History, events: Iterable[tuple[int, BookEvent]]) -> None:
        count(self, [(number, event) for number, event in events if (event.credits or 0) >= 0])

    return patch.object(History, "count", without)


@mutant
def estimates_are_never_taken_back() -> AbstractContextManager[Any]:
    count = History.count

    def kept(self: History, events: Iterable[tuple[int, BookEvent]]) -> None:
        count(
            self,
            [
                (
                    number,
                    msgspec.structs.replace(
                        event,
                        estimated_credits=max(0, event.estimated_credits),
                    ),
                )
                for number, event in events
            ],
        )

    return patch.object(History, "count", kept)


@mutant
def no_budget_holds_a_lead() -> AbstractContextManager[Any]:
    return patch.object(History, "_firsts_of_days", lambda self, number: set())


@mutant
def a_lead_without_data_is_enriched() -> AbstractContextManager[Any]:
    return patch.object(query, "ENRICHED", (*query.ENRICHED, "no_data"))


@mutant
def a_workspace_has_one_destination() -> AbstractContextManager[Any]:
    def without(
        workspace: str,
        destination: str,
        at_ms: int,
    ) -> Iterator[tuple[str, int, int, str]]:
        return slots_of(workspace, "", at_ms)

    return patch.object(history, "slots_of", without)


@mutant
def dead_letters_never_fall() -> AbstractContextManager[Any]:
    return patch.object(AccountWriter, "_judge_of", lambda self, records, restated: None)


@mutant
def later_records_solve_nothing() -> AbstractContextManager[Any]:
    judge = AccountWriter._judge

    def alone(self: AccountWriter, letters: dict[int, Letter]) -> None:
        with patch.object(self, "_load", lambda where, *values: _load(self, where, *values)):
            judge(self, letters)

    def _load(self: AccountWriter, where: str, *values: Any) -> dict[int, KeptRecord]:
        return {} if where.startswith("letter") else AccountWriter._load(self, where, *values)

    return patch.object(AccountWriter, "_judge", alone)


@mutant
def a_lead_that_is_published_again_leaves_its_dead_letter_open() -> AbstractContextManager[Any]:
    return patch.object(account, "is_same_lead", lambda kept, champion: False)


@mutant
def a_given_up_lead_is_solved() -> AbstractContextManager[Any]:
    return _judged_as("given_up", "solved")


@mutant
def what_comes_back_is_open() -> AbstractContextManager[Any]:
    return _judged_as("coming_back", "open")


def _judged_as(true: str, false: str) -> AbstractContextManager[Any]:
    return patch.object(
        account,
        "state_of",
        lambda *a, **b: false if (state := state_of(*a, **b)) == true else state,
    )


@mutant
def parked_leads_come_back() -> AbstractContextManager[Any]:
    return patch.object(
        account,
        "state_of",
        lambda seq, returns, *a, **b: state_of(seq, True, *a, **b),
    )


@mutant
def rejected_rows_belong_to_no_import() -> AbstractContextManager[Any]:
    numbers_of = Imports.numbers_of

    def readable(
        self: Imports,
        events: Iterable[tuple[int, BookEvent]],
        known: Iterable[int],
    ) -> dict[int, int]:
        return numbers_of(
            self,
            [(n, event) for n, event in events if event.status != "rejected_invalid"],
            known,
        )

    return patch.object(Imports, "numbers_of", readable)


@mutant
def records_of_an_import_count_by_the_whole_lead() -> AbstractContextManager[Any]:
    shares = AccountWriter._shares

    def whole(self: AccountWriter, kept: KeptRecord) -> Iterator[Any]:
        return shares(
            self,
            msgspec.structs.replace(kept, of_import=kept.counts and kept.imported > 0),
        )

    return patch.object(AccountWriter, "_shares", whole)


@mutant
def what_an_operator_orders_is_no_double_spend() -> AbstractContextManager[Any]:
    """In the metric alone."""
    return patch.object(metrics, "RESENDS", {RESEND})


@mutant
def what_an_earlier_send_cost_is_forgotten() -> AbstractContextManager[Any]:
    """A lead that was sent again has the cost that its callback reports, and no other."""
    return patch.object(
        compare,
        "open_costs",
        lambda row: open_costs(msgspec.structs.replace(row, unsettled=())),
    )


@mutant
def what_a_given_up_lead_cost_is_known() -> AbstractContextManager[Any]:
    return patch.object(
        compare,
        "open_costs",
        lambda row: () if row.state == "suppressed" else open_costs(row),
    )


@mutant
def an_empty_column_has_a_value() -> AbstractContextManager[Any]:
    return patch.object(
        account,
        "columns_of",
        lambda answer: [(name, True) for name, _ in columns_of(answer)],
    )


@mutant
def an_answer_without_a_value_costs_nothing() -> AbstractContextManager[Any]:
    """The price of a value has only the credits of the answers that have one."""
    yields = AccountWriter._yields

    def priced(kept: KeptRecord) -> Iterator[Any]:
        for row, (answered, filled, credits_) in yields(kept):
            yield row, (answered, filled, credits_ if filled else 0)

    return patch.object(AccountWriter, "_yields", staticmethod(priced))


@mutant
def a_forced_lead_is_no_further_answer() -> AbstractContextManager[Any]:
    yields = AccountWriter._yields
    return patch.object(
        AccountWriter,
        "_yields",
        staticmethod(lambda kept: yields(kept) if kept.counts else iter(())),
    )
