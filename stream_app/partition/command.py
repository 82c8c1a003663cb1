"""What happens to one operator command, from its bytes to its answer, top to bottom.

    bytes -> decode -> answered before? -> expired? -> known workspace in its home partition? ->
    apply -> answer

What a command changes (lane, rows) and its answer on `leads.audit` are one committed step. The
commands of a partition are applied one after the other. When `CommandPipeline.process` returns, the
command is answered and may be acked.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from attrs import define

from stream_app.clock import Clock
from stream_app.domain.cached_results import tombstone
from stream_app.domain.commands import (
    TO_ALL,
    Answered,
    CancelImport,
    CancelLead,
    Command,
    CommandAnswer,
    CommandResult,
    Erase,
    Reload,
    Resolve,
    Suppress,
    answer_to,
    command_row,
    read_arguments,
    read_command,
    refusal,
)
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.parked import (
    Settled,
    given_up,
    resolved_rows,
    rows_of_lead,
    settle_lead,
)
from stream_app.domain.delivery.recorder import CommitStep, event_record
from stream_app.domain.delivery.state_machine import CONCLUDED, Reason, delivery_key, mark_key
from stream_app.domain.delivery.suppression import (
    Suppression,
    erased_row,
    import_row,
    lead_row,
    person_row,
)
from stream_app.domain.delivery.without_row import step_without_row
from stream_app.domain.lane.overrides import Order, obey
from stream_app.domain.lead.identity import person_key, person_of, row_id, unlinked
from stream_app.domain.model.records import ConsumedRecord, Record, RowChanges
from stream_app.domain.model.text import count
from stream_app.domain.plan import Actor, Destination, Plan
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import InFlight
from stream_app.partition.key_locks import KeyLocks
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer
from stream_app.partition.rows import Rows

_json: Final = msgspec.json.Encoder()
_FORBIDS: Final = frozenset({"suppress", "cancel_lead", "cancel_import", "erase"})
_NOTHING: Final = CommandResult("", False)


@define(eq=False, repr=False, kw_only=True)
class CommandPipeline:
    """Applies the commands of one partition."""

    _plan: Plan
    _clock: Clock
    _observer: Observer
    _rows: Rows
    _lanes: Lanes
    _locks: KeyLocks
    _commits: Commits
    _admission: AdmissionQueue
    _reload: Callable[[str], Awaitable[CommandResult]]

    async def process(self, in_flight: InFlight) -> None:
        """Process one command. Returns when everything about it is committed."""
        consumed = in_flight.consumed
        if await self._commits.end_if_concluded(in_flight):
            return
        reloaded = await self._reload_for(consumed)
        # Second look: the bootstrap and the stream may have the same command, and the other one may
        # have concluded it during the reload.
        if reloaded is not _NOTHING and await self._commits.end_if_concluded(in_flight):
            return
        # No await from here to `submit`, so the rows and the lane stay as they are read here.
        now_ms = self._clock.now_ms()
        command = read_command(consumed, now_ms)
        rows: RowChanges = [(mark_key(consumed.record_id), CONCLUDED)]
        if isinstance(command, CommandAnswer):  # The record is no valid command.
            answer = command
            result = _NOTHING
        else:
            result = self._refuse(command, consumed, now_ms) or self._apply(
                command,
                consumed,
                now_ms,
                reloaded,
            )
            rows.extend(result.rows)
            if result.reason != "repeated":
                answered = Answered(now_ms, result.applied)
                rows.append((command_row(command.id), _json.encode(answered)))
            name = command.workspace
            has_lane = name in self._plan.workspaces and self._lanes.is_home(name)
            answer = answer_to(
                command,
                result,
                consumed.partition,
                now_ms,
                under_way=self._admission.posts_in_flight_of(name),
                lane=self._lanes.view(name) if has_lane else None,
            )
        workspace = answer.workspace if answer.lane is not None else ""
        record = Record(self._plan.topics.audit, answer.workspace.encode(), _json.encode(answer))
        # Before the commit, although the rows are not in memory yet: each waiting lead wakes in a
        # later turn of the event loop, after `submit`, and reads them. A lead that the lane admits
        # before the commit would be sent.
        if answer.kind in _FORBIDS:
            self._admission.ask_again()
        step = CommitStep(rows, [record, *result.records], result.events, workspace)
        await self._commits.commit_last(in_flight, step)
        self._observer.answered(answer)
        # After the commit: what the command changed may let the waiting leads go, or end them.
        self._admission.ask_again()

    async def _reload_for(self, consumed: ConsumedRecord) -> CommandResult:
        """Reload the configuration, if the command says so and is not refused.

        This may ask Kafka where lanes are.
        """
        now_ms = self._clock.now_ms()
        command = read_command(consumed, now_ms)
        if not isinstance(command, Command) or command.kind != "reload":
            return _NOTHING
        if self._refuse(command, consumed, now_ms) is not None:
            return _NOTHING
        # After this await, `process` reads and judges the command again, by the rows as they are
        # then.
        return await self._reload(command.id)

    # ------------------------------------------------------------------------------ refuse

    def _refuse(
        self,
        command: Command,
        consumed: ConsumedRecord,
        now_ms: int,
    ) -> CommandResult | None:
        is_answered = self._rows.get(command_row(command.id)) is not None
        refused = refusal(command, consumed, now_ms, is_answered=is_answered)
        if refused is not None or command.kind in TO_ALL:
            return refused
        if command.workspace not in self._plan.workspaces:
            text = (
                "the worker's configuration has no such workspace: add it, then run `stream-app "
                "lanes reload`"
            )
            return CommandResult(text, False, "unknown_workspace")
        home = self._plan.home_of(command.workspace)
        if home != consumed.partition:
            text = f"its workspace lives in partition {home}: publish the command there"
            return CommandResult(text, False, "wrong_partition")
        if not self._locks.is_free(resolved_rows(self._plan, self._rows.get, command)):
            return CommandResult(
                "this lead is under way: submit the command again in a moment",
                False,
                "busy",
            )
        return None

    # ---------------------------------------------------------------------------------------- apply

    def _apply(
        self,
        command: Command,
        consumed: ConsumedRecord,
        now_ms: int,
        reloaded: CommandResult,
    ) -> CommandResult:
        try:
            what = read_arguments(command.kind, command.args)
        except ValueError as error:
            return CommandResult(f"invalid arguments: {error}", False, "bad_arguments")
        until_ms = consumed.timestamp_ms or now_ms
        match what:
            case Reload():
                self._lanes.reconfigured()
                return reloaded
            case Suppress():
                return self._change_suppressions(command, what.people, now_ms)
            case CancelLead():
                cancelled = self._cancel(
                    command,
                    lead_row(command.workspace, what.lead_id),
                    "this lead",
                    until_ms,
                )
                return self._no_longer_parked(command, what.lead_id, "cancelled", cancelled, now_ms)
            case CancelImport():
                return self._cancel(
                    command,
                    import_row(command.workspace, what.import_id),
                    "this import",
                    until_ms,
                )
            case Erase():
                erased = self._erase(command, what, consumed, now_ms)
                return self._no_longer_parked(command, what.lead_id, "erased", erased, now_ms)
            case Resolve():
                return self._resolve(command, what, consumed, now_ms)
        return self._change_lane(command, what, now_ms)

    def _change_lane(self, command: Command, order: Order, now_ms: int) -> CommandResult:
        name = command.workspace
        policy = self._plan.workspaces[name]
        lane = self._lanes[name]
        lifetimes = {
            one: destination.lifetime
            for destination in self._plan.destinations_of(name)
            for one in destination.webhook_ids
        }
        answer = obey(policy, lane, order, Actor(command.who, command.why, now_ms), lifetimes)
        if not answer.done:
            return CommandResult(answer.text, False, "refused")
        self._lanes[name] = answer.lane
        # In the transaction of the answer, so that a reader of the answer can read this state.
        self._lanes.publish(name)
        return CommandResult(answer.text)

    def _change_suppressions(
        self,
        command: Command,
        people: tuple[str, ...],
        now_ms: int,
    ) -> CommandResult:
        rows = [person_row(person) for person in people]
        if command.kind == "unsuppress":
            listed = [row for row in rows if self._rows.get(row) is not None]
            text = f"{count(len(listed), 'person is', 'people are')} off the suppression list"
            return CommandResult(text, rows=[(row, None) for row in listed], people=len(listed))
        new = [row for row in rows if self._rows.get(row) is None]
        value = _json.encode(Suppression("suppressed", now_ms, command.id, command.who))
        text = f"{count(len(new), 'person is', 'people are')} on the suppression list now"
        text += f", {count(len(rows) - len(new), 'was', 'were')} already"
        return CommandResult(text, rows=[(row, value) for row in new], people=len(new))

    def _erase(
        self,
        command: Command,
        erasure: Erase,
        consumed: ConsumedRecord,
        now_ms: int,
    ) -> CommandResult:
        """Erase a lead's results and the aliases of its person.

        The lead's row stays, because it prevents a second purchase and a second event.
        """
        name = command.workspace
        lead_id = row_id(erasure.lead_id)
        until_ms = consumed.timestamp_ms or now_ms
        value = _json.encode(Suppression("erased", until_ms, command.id, command.who))
        rows: RowChanges = [(erased_row(name, lead_id), value)]
        mine = [destination.alias for destination in self._plan.destinations_of(name)]
        destinations = sorted({*mine, *erasure.destinations})
        gone: list[Record] = []
        for alias in destinations:
            own = tuple(person_key(name, alias, person) for person in erasure.people)
            lead = delivery_key(name, alias, lead_id)
            for key in person_of(own, self._rows.get).aliases:
                # An alias that the command does not name may belong to another person, too.
                if (linked := self._rows.get(key)) is not None:
                    rows.append(
                        (key, None if key in own else unlinked(linked, lead, erasure.people)),
                    )
            gone.append(tombstone(self._plan.topics.enriched, name, alias, lead_id, erasure.people))
        text = (
            "erased; delete its row in Clay by hand, in the tables of "
            f"{', '.join(erasure.destinations or mine)}"
        )
        destination = Destination(
            erasure.destinations[0] if len(erasure.destinations) == 1 else "",
            name,
            (),
        )
        envelope = Envelope(origin=consumed.record_id)
        why = Reason(command.id, text)
        step = step_without_row(
            self._plan,
            consumed,
            envelope,
            "erased",
            now_ms,
            why,
            lead_id,
            *gone,
            destination=destination,
        )
        return CommandResult(
            f"{lead_id}: {text}",
            rows=rows,
            records=step.records,
            events=step.events,
        )

    def _no_longer_parked(
        self,
        command: Command,
        lead_id: str,
        reason: str,
        result: CommandResult,
        now_ms: int,
    ) -> CommandResult:
        """Add to a cancellation or erasure that a parked lead is settled by it.

        Such a lead no longer waits for a person to decide.
        """
        name = command.workspace
        settled = list[Settled]()
        for key in rows_of_lead(self._plan, self._rows.get, name, lead_id):
            row = self._rows.delivery(key)
            if row is not None and row.state == "parked" and self._locks.is_free((key,)):
                text = f"it was parked, and an operator has {reason} it"
                settled.append(
                    given_up(self._plan, self._lanes[name], key, row, reason, text, now_ms),
                )
        events = [settlement.event for settlement in settled]
        return msgspec.structs.replace(
            result,
            rows=[*result.rows, *(settlement.row for settlement in settled)],
            records=[*result.records, *(event_record(self._plan, event) for event in events)],
            events=[*result.events, *events],
        )

    def _resolve(
        self,
        command: Command,
        what: Resolve,
        consumed: ConsumedRecord,
        now_ms: int,
    ) -> CommandResult:
        """Settle one lead, as an operator says."""
        lane = self._lanes[command.workspace]
        answer = settle_lead(self._plan, lane, self._rows.get, command, what, consumed, now_ms)
        if isinstance(answer, str):
            return CommandResult(answer, False, "refused")
        self._lanes[command.workspace] = answer.lane
        records = [event_record(self._plan, answer.event)]
        return CommandResult(answer.text, rows=[answer.row], records=records, events=[answer.event])

    def _cancel(self, command: Command, row: bytes, what: str, until_ms: int) -> CommandResult:
        value = _json.encode(Suppression("cancelled", until_ms, command.id, command.who))
        text = f"records of {what} published until now that are not at Clay yet will be suppressed"
        return CommandResult(text, rows=[(row, value)])
