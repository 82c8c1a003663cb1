"""The fallback: results that answer leads without Clay, top to bottom.

    cache_first, before the lane is asked:
        a fresh result of that person -> served_from_cache, and nothing is paid
    hold = "degrade", when the lane holds:
        a fresh result, else a stale one -> served_from_cache,
            also for a person who came before under another id
        the lead's own fields, and those of other leads of its company, provisionally
            -> served_locally, then deferred
    hold = "degrade", when Clay has refused the POST of a hot lead:
        the first of these three, provisionally, once -> still refused, and sent again

A result states its source and age, and where each field comes from. A lead with a provisional
result is sent all the same, and Clay's result then has a higher version. A lead that may be at
Clay, or that is suppressed or forced, is never answered in this way.
"""

from collections.abc import Callable, Collection, Mapping
from functools import reduce
from typing import Final, Literal

import msgspec
from attrs import define

from stream_app.clock import Clock
from stream_app.domain.cached_results import (
    NOTHING_CACHED,
    CacheEntry,
    CacheHit,
    answer,
    company_slot,
    merge,
    person_slot,
    shared,
    shown,
)
from stream_app.domain.delivery.recorder import DeliveryRecorder
from stream_app.domain.delivery.resolve import ResolvedLead
from stream_app.domain.delivery.state_machine import Delivery, Reason, next_version
from stream_app.domain.lead.identity import identifiers
from stream_app.domain.model.messages import FieldOrigin, Result, Scalar
from stream_app.domain.model.records import Record
from stream_app.domain.model.text import count
from stream_app.domain.plan import Destination, Plan
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import InFlight
from stream_app.partition.ports import Cache
from stream_app.partition.rows import Rows

_json: Final = msgspec.json.Encoder()


class FallbackAnswer(msgspec.Struct, frozen=True):
    """A result that is not Clay's."""

    source: Literal["cache", "stale", "local"]
    age_s: int
    fields: dict[str, Scalar]
    provenance: dict[str, FieldOrigin]


@define(eq=False, repr=False, kw_only=True)
class Fallback:
    """Answers leads of one partition without Clay.

    The caller holds the lock of the lead, so its row does not change.
    """

    _plan: Plan
    _clock: Clock
    _rows: Rows
    _commits: Commits
    _would_hold: Callable[[Destination, bool], bool]  # see `AdmissionQueue`
    _cache: Cache | None
    _local_facts: Callable[[Mapping[str, Scalar]], dict[str, tuple[Scalar, str]]]

    async def answer_cached_first(
        self,
        in_flight: InFlight,
        recorder: DeliveryRecorder[ResolvedLead],
    ) -> bool:
        """Serve a fresh result before the lane is asked, where `cache_first` is on.

        Returns:
            True if the lead is concluded.
        """
        if not self._plan.destinations[recorder.resolved.destination.alias].cache_first:
            return False
        if not self._may_answer(recorder):
            return False
        stored, _, _ = await self._look_up(recorder.resolved)
        return await self._answer(in_flight, recorder, stored, ("cache",), "cache_first")

    async def answer_same_person(
        self,
        in_flight: InFlight,
        resolved: ResolvedLead,
        replaced: Delivery | None,
    ) -> bool:
        """Serve a person who came before under another id.

        That is done under `cache_first`, and under `hold = "degrade"` while the lane is held. The
        person's aliases stay with the lead that was bought, so this lead does not change when the
        person is bought again. Its row replaces the concluded row `replaced`.

        Returns:
            True if the lead is concluded. False if nothing answered it, so that it is a duplicate.
        """
        destination = self._plan.destinations[resolved.destination.alias]
        workspace = self._plan.workspaces[destination.workspace]
        degrades = workspace.hold == "degrade" and self._would_hold(destination, resolved.bulk)
        if not (destination.cache_first or degrades):
            return False
        row = resolved.begin(self._clock.now_ms())
        recorder = DeliveryRecorder(self._plan, resolved, row, replaced=replaced)
        recorder.emit()
        if await self.answer_cached_first(in_flight, recorder):
            return True
        if not degrades:
            return False
        stored, _, _ = await self._look_up(resolved)
        return await self._answer(in_flight, recorder, stored, workspace.fallback)

    async def answer_while_held(
        self,
        in_flight: InFlight,
        recorder: DeliveryRecorder[ResolvedLead],
    ) -> list[Record] | None:
        """Serve a lead that its lane holds and that is not to wait.

        Returns:
            None if the lead is concluded. Otherwise the provisional results to publish when it is
            deferred.
        """
        resolved = recorder.resolved
        workspace = self._plan.workspaces[resolved.destination.workspace]
        if workspace.hold != "degrade" or resolved.lead.force:
            return []
        if recorder.row.webhook_id and recorder.row.results:
            return []  # It has a result already, and only Clay can conclude a lead that was sent.
        stored, person, company = await self._look_up(resolved)
        # Second look: an operator may have suppressed or erased the lead while the cache was asked.
        # Then nothing is published here, and the caller has it concluded.
        if self._is_unwanted(resolved):
            return []
        if await self._answer(in_flight, recorder, stored, workspace.fallback):
            return None
        answer = self._locally(recorder, person, company)
        if answer is None or not resolved.destination.callbacks:
            return []
        why = Reason(
            "local",
            "a provisional result, from its own fields and other leads of its company",
        )
        now_ms = self._clock.now_ms()
        version = self._version(recorder)
        recorder.go("served_locally", now_ms, why, results=version, provisional=version)
        return [self._result(recorder, answer, now_ms)]

    async def answer_refused(self, recorder: DeliveryRecorder[ResolvedLead]) -> None:
        """Publish a provisional result of a hot lead that Clay did not take, once.

        Its row stays `refused` and gets the version of that result, in the transaction of the
        result. So the next owner knows after a crash whether the result is missing. A lead without
        callbacks is not answered, because it would never get a better result. Neither is a lead
        that an earlier POST may have brought to Clay.
        """
        resolved = recorder.resolved
        workspace = self._plan.workspaces[resolved.destination.workspace]
        if (
            workspace.hold != "degrade"
            or resolved.bulk
            or resolved.lead.force
            or recorder.row.provisional
            or recorder.row.sends
            or not resolved.destination.callbacks
        ):
            return
        stored, person, company = await self._look_up(resolved)
        # Second look: an operator may have suppressed or erased the lead while the cache was asked.
        if self._is_unwanted(resolved):
            return
        if stored is not None and stored.source in workspace.fallback:
            answer: FallbackAnswer | None = _answer_of(stored)
        else:
            answer = self._locally(recorder, person, company)
        if answer is not None:
            version = self._version(recorder)
            recorder.amend(results=version, provisional=version)
            result = self._result(recorder, answer, self._clock.now_ms())
            await self._commits.submit(recorder.step(result))

    # ------------------------------------------------------------------------------------ internals

    def _result(
        self,
        recorder: DeliveryRecorder[ResolvedLead],
        answer: FallbackAnswer,
        at_ms: int,
    ) -> Record:
        """Return the record of the result, with the version in the row. `at_ms`: now, epoch ms."""
        resolved = recorder.resolved
        row = recorder.row
        workspace = resolved.destination.workspace
        alias = resolved.destination.alias
        result = Result(
            lead_id=resolved.lead_id,
            workspace=workspace,
            destination=alias,
            source=answer.source,
            version=row.results,
            at_ms=at_ms,
            age_s=answer.age_s,
            fields=answer.fields,
            origin=row.origin,
            trace_id=row.trace_id,
            person=resolved.identity,
            company=resolved.company,
            provenance=answer.provenance,
            people=row.people,
        )
        key = f"{workspace}/{alias}/{resolved.lead_id}".encode()
        return Record(self._plan.topics.enriched, key, _json.encode(result))

    def _locally(
        self,
        recorder: DeliveryRecorder[ResolvedLead],
        person: CacheEntry,
        company: CacheEntry,
    ) -> FallbackAnswer | None:
        """Return what the lead and the cache say of its company; None if nothing, or if not wanted.

        A lead that has a result already gets none of this, because that result is better.
        """
        resolved = recorder.resolved
        workspace = self._plan.workspaces[resolved.destination.workspace]
        if "local" not in workspace.fallback or recorder.row.results:
            return None
        now_ms = self._clock.now_ms()
        fields, provenance = shown(
            NOTHING_CACHED,
            shared(self._plan.cache, person, company, now_ms),
        )
        for name, (value, source) in self._local_facts(resolved.lead.fields).items():
            if name not in fields:
                fields[name] = value
                provenance[name] = FieldOrigin(source, now_ms)
        return FallbackAnswer("local", 0, fields, provenance) if fields else None

    def _may_answer(self, recorder: DeliveryRecorder[ResolvedLead]) -> bool:
        """True if the lead may be concluded without Clay.

        A lead that was sent may not, even if it was refused: a callback may still settle it.
        """
        resolved = recorder.resolved
        if resolved.lead.force or recorder.row.webhook_id or self._is_unwanted(resolved):
            return False
        return self._rows.marker(resolved.consumed.record_id, resolved.envelope.origin) is None

    def _is_unwanted(self, resolved: ResolvedLead) -> bool:
        """True if the lead is suppressed or expired. The lead pipeline concludes it then."""
        if (
            resolved.lead.not_after_ms is not None
            and self._clock.now_ms() > resolved.lead.not_after_ms
        ):
            return True
        return self._rows.why_not_sent(resolved) is not None

    async def _look_up(
        self,
        resolved: ResolvedLead,
    ) -> tuple[CacheHit | None, CacheEntry, CacheEntry]:
        """Return what may answer the lead, the entry of the person and the entry of the company."""
        if self._cache is None:
            return None, NOTHING_CACHED, NOTHING_CACHED
        scope = resolved.destination.workspace, resolved.destination.alias
        names = dict.fromkeys([*identifiers(resolved.people), *resolved.also]) or filter(
            None,
            [resolved.identity],
        )
        slots = [person_slot(*scope, name) for name in names]
        if resolved.company:
            slots.append(company_slot(scope[0], resolved.company))
        if not slots:
            return None, NOTHING_CACHED, NOTHING_CACHED
        entries = await self._cache.find(slots)
        company = entries.pop() if resolved.company else NOTHING_CACHED
        person = reduce(merge, entries, NOTHING_CACHED)
        return answer(self._plan.cache, person, company, self._clock.now_ms()), person, company

    async def _answer(
        self,
        in_flight: InFlight,
        recorder: DeliveryRecorder[ResolvedLead],
        stored: CacheHit | None,
        sources: Collection[str],
        reason: str = "",
    ) -> bool:
        """Conclude the lead with a result of one of these sources, if it may still be answered.

        Returns:
            True if the lead is concluded.
        """
        # `_may_answer` is the second look: the lead may have been suppressed or erased, or may have
        # expired, while the cache was asked.
        if stored is None or stored.source not in sources or not self._may_answer(recorder):
            return False
        in_flight.release_next()
        now_ms = self._clock.now_ms()
        version = self._version(recorder)
        text = f"served a result that is {_in_words(stored.age_s)} old; Clay was not asked"
        why = Reason(
            reason or stored.source,
            text,
            saved=recorder.resolved.destination.estimate.credits,
        )
        recorder.go("served_from_cache", now_ms, why, final=True, reservation=None, results=version)
        result = self._result(recorder, _answer_of(stored), recorder.row.at_ms)
        await self._commits.commit_last(in_flight, recorder.step(result))
        return True

    def _version(self, recorder: DeliveryRecorder[ResolvedLead]) -> int:
        destination = recorder.resolved.destination
        place = destination.workspace, destination.alias, recorder.resolved.lead_id
        return next_version(place, recorder.row, self._rows.get)


def _answer_of(stored: CacheHit) -> FallbackAnswer:
    return FallbackAnswer(stored.source, stored.age_s, stored.fields, stored.provenance)


def _in_words(age_s: int) -> str:
    if age_s >= 2 * 86_400:
        return f"{age_s // 86_400} days"
    if age_s >= 7_200:
        return f"{age_s // 3_600} hours"
    return count(age_s // 60, "minute")
