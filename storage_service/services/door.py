"""The one door: every act is decided, recorded, and only then done.

What cannot be recorded is not done, and nothing is answered before its record is on disk: a read may run while its
record is being written, a write begins after. The audit line says what was decided. Of what was allowed and came to
nothing a second line says so (`Door.end`), ``failed`` or ``unknown``, with the reason, which no caller is told in full.
Refusals are counted (`strangers`), whoever is refused; what was allowed has a line for each act.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeVar

from strongroom.models import names
from strongroom.storage_service.access.base import Action, Decider, Principal
from strongroom.storage_service.access.engines.panel import Heard, Panel, Question
from strongroom.storage_service.access.paths import decide, opinion
from strongroom.storage_service.access.rules import rights_of
from strongroom.storage_service.access.ruling import Ruling
from strongroom.storage_service.audit.log import AuditLog, AuditRecord, Measure
from strongroom.storage_service.errors import (
    AuditUnavailable,
    Denied,
    Fate,
    Internal,
    Invalid,
    ServiceError,
    TooLarge,
    Unavailable,
    Undecipherable,
    Unusable,
)
from strongroom.storage_service.strangers import Strangers, bounded
from strongroom.storage_service.wire import MAX_CLAIMED, Refusal
from strongroom.storage_service.wire.http1 import Peer

T = TypeVar("T")

Decision = Literal["denied", "refused", "failed"]

MOST_ASKED: Final = 5000  # names that engines are asked about in one request
MANY: Final = 100  # names, which take about a millisecond to decide on, and as long to write down


class Act(NamedTuple):
    """Something that is to be done to a name."""

    action: Action
    name: str
    about: str = ""  # what of the record, in words for the audit log


@dataclass(slots=True, eq=False)
class Caller:
    """Who asks, in which request, and through whom."""

    principal: Principal
    request_id: str
    peer: Peer | None = None
    on_behalf_of: str | None = None  # said by the proxy
    address: str | None = None  # on the network, where the proxy told it
    through_proxy: bool = False
    allowed: "tuple[Act, ...]" = field(
        default=(), repr=False
    )  # what this request was allowed and is not known to have done
    ended: bool = False  # it is recorded that it came to nothing, and why
    asked: int = 0  # names that engines were asked about in this request
    trace: str | None = None  # the id of the trace that the request is part of

    @property
    def holder(self) -> str:
        """Who is counted where everybody may hold only so much: each for whom the proxy acts by himself."""
        if self.on_behalf_of is None:
            return self.principal.id
        return f"{self.principal.id} for {self.on_behalf_of}"

    @property
    def subject(self) -> str | None:
        """Who engines are asked about; None: nobody, of the service's own key, by which a wrong policy is mended.

        Of the proxy's key it is whom the proxy acts for, and under a kind of his own: no user of the service is that.
        """
        if not self.principal.exempt:
            return self.principal.id
        return None if self.on_behalf_of is None else f"proxied:{self.on_behalf_of.rpartition(':')[2]}"

    @contextmanager
    def doing(self, acts: Sequence[Act]) -> Iterator[None]:
        """Do *acts* inside; a later error does not concern those that are already done."""
        done = len(acts)
        try:
            yield
        except ServiceError as error:
            done = error.applied
            raise
        except BaseException:
            done = 0
            raise
        finally:
            finished = set(acts[:done])
            self.allowed = tuple(act for act in self.allowed if act not in finished)


class Door:
    """Decides and records; what it lets through may be done."""

    def __init__(
        self,
        deciders: Sequence[Decider],
        audit: AuditLog,
        refusals: Strangers | None = None,
        engines: Panel | None = None,
    ) -> None:
        """Take who decides, where it is recorded, what counts refusals, if another door counts with it, and engines.

        Those are asked what the deciders do not deny.
        """
        self._engines = engines
        self._deciders = tuple(deciders)
        self._ruling = next((each for each in self._deciders if isinstance(each, Ruling)), None)
        self._audit = audit
        self._refusals = refusals or Strangers(self._record_refusals, audit.has_room)

    async def check_audit(self) -> None:
        """Return if acts can be recorded.

        Raises:
            AuditUnavailable: they cannot.
        """
        await self._audit.check()

    def measure_audit(self) -> Measure:
        """Return how the audit log is."""
        return self._audit.measure()

    def beside(self, decider: Decider) -> "Door":
        """Return the same door for acts on which *decider* has to agree, too."""
        return Door((decider, *self._deciders), self._audit, self._refusals, self._engines)

    def only(self, decider: Decider) -> "Door":
        """Return the same door for acts on which *decider* alone decides, without rules and engines."""
        return Door((decider,), self._audit, self._refusals)

    async def close(self) -> None:
        """Write down who was counted and not told yet."""
        await self._refusals.close()

    async def permit(self, caller: Caller, action: Action, wanted: Sequence[str], about: str = "") -> None:
        """Let *caller* do *action* to all of *wanted*, or to none; *about* says what of them.

        Raises:
            Denied: one of them is out of reach; those that are were recorded.
            AuditUnavailable: it cannot be recorded.
        """
        if not wanted:
            await self.note(caller, action, "")
        else:
            await self.permit_each(caller, [Act(action, name, about) for name in wanted])

    async def permit_each(self, caller: Caller, acts: Sequence[Act]) -> None:
        """Let *caller* do all of *acts*, or none of them; as `permit`."""
        heard = None if self._engines is None else await self._hear(self._engines, caller, acts)
        await self._refuse_denied(caller, acts, heard)
        await self._audit.append(*self._permitted(caller, acts, heard))
        caller.allowed += tuple(acts)

    async def _refuse_denied(self, caller: Caller, acts: Sequence[Act], heard: Mapping[Act, Heard] | None) -> None:
        if heard is None:
            denied = [act for act in acts if not decide(self._deciders, caller.principal, act.action, act.name)]
        else:
            denied = [act for act in acts if not heard[act].allowed]
        if denied:
            await self._deny(caller, denied, heard=heard)
            raise Denied("outside what these credentials reach")

    async def _hear(self, engines: Panel, caller: Caller, acts: Sequence[Act]) -> Mapping[Act, Heard] | None:
        """Return what deciders and engines say of each of *acts*; None where no engine is asked about *caller*.

        Raises:
            TooLarge: it is more than they are asked in a request.
        """
        opinions = {act: opinion(self._deciders, caller.principal, act.action, act.name) for act in acts}
        return await self._hear_beside(engines, caller, opinions)

    async def _hear_beside(
        self, engines: Panel, caller: Caller, opinions: Mapping[Act, bool | None]
    ) -> Mapping[Act, Heard] | None:
        """Return what is said of acts of which the deciders have these *opinions*; as `_hear`."""
        if caller.subject is None:
            return None
        heard = {act: Heard(said is True, {}) for act, said in opinions.items()}
        wanted = [act for act, said in opinions.items() if act.name and engines.asked(said)]
        caller.asked += len(wanted)
        if caller.asked > MOST_ASKED:
            raise TooLarge(f"engines are asked about at most {MOST_ASKED} names a request: list in pages")
        questions = [Question(rights_of(act.action.value, act.name), act.name, opinions[act]) for act in wanted]
        return heard | dict(zip(wanted, await engines.ask(caller.subject, questions), strict=True))

    def own_container(self, principal: Principal) -> str | None:
        """Return the container that a decider gives *principal* for its own, where one does."""
        for decider in self._deciders:
            if (own := decider.own_container(principal)) is not None:
                return own
        return None

    async def tops(self, caller: Caller, action: Action, below: str) -> list[str]:
        """Return where what *caller* may do *action* to begins: *below* itself, or containers in it, sorted.

        None of them lies in another. Where the container *below* stands for the caller's own, that one is meant.

        Raises:
            TooLarge: engines would be asked too much.
        """
        found = await self._tops(caller, action, below)
        if self._engines is None:
            return found
        if not found and self._engines.may_allow:
            found = [below]
        return await self.able(caller, action, found)

    async def _tops(self, caller: Caller, action: Action, below: str) -> list[str]:
        own = self.own_container(caller.principal)
        named = {top for decider in self._deciders for top in decider.tops(caller.principal)}
        if caller.principal.ruled and any(below.startswith(top) for top in named):
            return [below]  # of which it is shown what it may see
        if (own is None or names.container_of(own) != below) and self._reaches(caller, action, below):
            return [below]
        found: list[str] = []
        for number, top in enumerate(sorted(named), 1):
            if number % MANY == 0:  # of a key with thousands of paths: others get their turn
                await asyncio.sleep(0)
            inside = top.startswith(below) and top != below
            if inside and not (found and top.startswith(found[-1])) and self._reaches(caller, action, top):
                found.append(top)
        return found

    def _reaches(self, caller: Caller, action: Action, name: str) -> bool:
        """Whether the deciders let *caller* do it."""
        return decide(self._deciders, caller.principal, action, name)

    async def able(self, caller: Caller, action: Action, wanted: Iterable[str]) -> list[str]:
        """Return those of *wanted* to which `permit` would let *caller* do *action*, in their order.

        Raises:
            TooLarge: engines would be asked too much.
        """
        if self._engines is not None:
            acts = [Act(action, name) for name in wanted]
            heard = await self._hear(self._engines, caller, acts)
            if heard is not None:
                return [act.name for act in acts if heard[act].allowed]
            wanted = [act.name for act in acts]
        return [name for name in wanted if self._reaches(caller, action, name)]

    async def deny(self, caller: Caller, action: Action, name: str, reason: str) -> None:
        """Record that an act is refused that `permit` might allow.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._deny(caller, [Act(action, name)], reason)

    async def _deny(
        self, caller: Caller, acts: Sequence[Act], reason: str = "", heard: Mapping[Act, Heard] | None = None
    ) -> None:
        caller.ended = True
        decided = [self._decided(caller, act, heard) for act in acts]
        await self.turn_away(
            *[
                _refusal(caller, act.action.word, act.name, "denied", reason, decided=inputs, about=act.about)
                for act, inputs in zip(acts, decided, strict=True)
            ]
        )

    async def visible(self, caller: Caller, wanted: Sequence[str]) -> Sequence[str]:
        """Return those of *wanted*, names that lie in what *caller* may list, that it may see there, in their order.

        Whoever brings a reach of his own sees all that rules do not deny him: that he may list the container, says so.

        Raises:
            TooLarge: engines would be asked too much.
        """
        seen = self._seen(caller, wanted)
        return seen if self._engines is None else await self._also(self._engines, caller, Action.LIST, wanted, seen)

    async def readable(self, caller: Caller, wanted: Sequence[str]) -> Sequence[str]:
        """Return those that are `visible`, and may be read: where a listing shows what is in them."""
        seen = await self.visible(caller, wanted)
        may = seen
        if caller.principal.ruled:
            may = [name for name in seen if decide(self._deciders, caller.principal, Action.GET, name)]
        return may if self._engines is None else await self._also(self._engines, caller, Action.GET, seen, may)

    def _seen(self, caller: Caller, wanted: Sequence[str]) -> Sequence[str]:
        """Return those of *wanted* that the deciders let *caller* see in a listing."""
        if self._ruling is None:
            return wanted
        seen = self._ruling.visible(caller.principal, wanted)
        if not caller.principal.ruled or len(self._deciders) == 1:
            return seen
        return [name for name in seen if decide(self._deciders, caller.principal, Action.LIST, name)]

    async def _also(
        self, engines: Panel, caller: Caller, action: Action, wanted: Sequence[str], allowed: Sequence[str]
    ) -> Sequence[str]:
        """Return those of *wanted* to which *caller* may do *action* by engines, too; deciders allow it to *allowed*.

        Of the others those are asked about whom rules alone let do anything, and not who brings a reach of his own.
        """
        if caller.subject is None:
            return allowed
        may = set(allowed)
        opinions: dict[Act, bool | None] = {}
        for name in wanted:
            if name in may:
                opinions[Act(action, name)] = True
            elif caller.principal.ruled and engines.may_allow:
                opinions[Act(action, name)] = opinion(self._deciders, caller.principal, action, name)
        heard = await self._hear_beside(engines, caller, opinions) or {}
        return [name for name in wanted if (said := heard.get(Act(action, name))) is not None and said.allowed]

    def _permitted(
        self, caller: Caller, acts: Sequence[Act], heard: Mapping[Act, Heard] | None = None
    ) -> list[AuditRecord]:
        return [_record(caller, act, "allowed", None, decided=self._decided(caller, act, heard)) for act in acts]

    def _decided(self, caller: Caller, act: Act, heard: Mapping[Act, Heard] | None = None) -> dict[str, object] | None:
        """Return what rules decided by, what all others said together, and engines; None where none had a say."""
        inputs = None if self._ruling is None else self._ruling.inputs(caller.principal, act.action, act.name)
        if inputs is not None:
            others = [
                decider.decide(caller.principal, act.action, act.name)
                for decider in self._deciders
                if decider is not self._ruling
            ]
            inputs["others"] = _together(others, ruled=caller.principal.ruled)
        if heard is None or act not in heard or not heard[act].said:
            return inputs
        return {**(inputs or {}), "engines": {name: said.value for name, said in sorted(heard[act].said.items())}}

    def opinions(self, principal: Principal, action: Action, name: str) -> list[tuple[str, bool | None]]:
        """Return each decider's kind, and what it says, in their order."""
        return [(type(each).__name__, each.decide(principal, action, name)) for each in self._deciders]

    def allows(self, principal: Principal, action: Action, name: str) -> bool:
        """Whether it would let *principal* do it."""
        return decide(self._deciders, principal, action, name)

    async def expect(self, caller: Caller, action: Action, wanted: Sequence[str]) -> None:
        """Refuse, and record that, what `permit` would refuse; nothing is recorded of what is still to be permitted.

        A put that may become either, to make or to change, is refused where it may become neither.

        Raises:
            Denied, AuditUnavailable: as `permit`.
        """
        either = (Action.CREATE, Action.MODIFY) if action is Action.PUT else (action,)
        denied = [name for name in wanted if not any(self._reaches(caller, each, name) for each in either)]
        if denied and self._engines is not None:
            able = {name for each in either for name in await self.able(caller, each, denied)}
            denied = [name for name in denied if name not in able]
        if denied:
            await self.permit(caller, action, denied)

    async def expect_some(self, caller: Caller, action: Action, below: str) -> None:
        """Refuse, and record that, who may not do *action* to any name that begins with *below*; "": to any at all.

        Raises:
            Denied, AuditUnavailable: as `permit`.
        """
        deciders = self._deciders
        if self._engines is not None and self._engines.may_allow:  # what no rule allows, one of them may
            deciders = tuple(each for each in deciders if each is not self._ruling)
        if any(decider.rules_out(caller.principal, action, below) for decider in deciders):
            await self._deny(caller, [Act(action, below)])
            raise Denied("outside what these credentials reach")

    async def read(self, caller: Caller, action: Action, wanted: Sequence[str], read: Callable[[], Awaitable[T]]) -> T:
        """Return what *read* returns, if *caller* may have all of *wanted*; it runs while that is being recorded.

        Raises:
            Denied, AuditUnavailable: as `permit`.
            Undecipherable: of *read*; that, too, was recorded.
        """
        acts = [Act(action, name) for name in wanted]
        heard = None
        if self._engines is not None:
            heard = await self._hear(self._engines, caller, acts)
            await self._refuse_denied(caller, acts, heard)
        elif any(not decide(self._deciders, caller.principal, action, name) for name in wanted):
            await self.permit_each(caller, acts)  # says no, and records it
        if len(acts) > MANY:
            await asyncio.sleep(0)
        recorded = self._audit.append(*self._permitted(caller, acts or [Act(action, "")], heard))
        caller.allowed += tuple(acts)
        try:
            return await read()
        except Undecipherable as error:
            await self.failed(caller, action, error.name, error.reason)
            raise
        finally:
            await recorded

    async def failed(self, caller: Caller, action: Action, name: str, reason: str) -> None:
        """Record that an act that was allowed did not succeed, and why.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._audit.append(*_records(caller, [Act(action, name)], "failed", reason))
        caller.ended = True

    async def note(self, caller: Caller, action: Action, name: str, about: str = "") -> None:
        """Record an act that nobody who is known is refused.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._audit.append(*_records(caller, [Act(action, name, about)], "allowed"))

    async def end(self, caller: Caller, error: ServiceError, method: str, path: str, *, expected: bool = True) -> None:
        """Record that a request came to nothing, unless it has been recorded.

        What it was allowed failed; where nobody can tell what became of a write, that is said. Where nothing was
        decided on yet, the request itself is refused.

        Args:
            caller: whose request it is.
            error: what it is answered with.
            method: of the request.
            path: as it was read; as it was sent, where it cannot be.
            expected: it is an error of ours; of others nobody can tell how far a write had come.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        if caller.ended or isinstance(error, AuditUnavailable):
            return
        caller.ended = True
        reason = f"{error.code}: {error.recorded}"
        if caller.allowed:
            acts = list(dict.fromkeys(caller.allowed))
            unknown = not expected and any(act.action.word in ("put", "delete") for act in acts)
            await self._audit.append(*_records(caller, acts, "unknown" if unknown else _outcome(error), reason))
            return
        decision: Decision = (
            "denied" if isinstance(error, Denied) else "failed" if isinstance(error, Internal | Unusable) else "refused"
        )
        await self.turn_away(_refusal(caller, method, path, decision, reason))

    async def turn_away(self, *refusals: Refusal) -> None:
        """Record that somebody was turned away, with the others of a second.

        Raises:
            AuditUnavailable: it cannot be recorded.
        """
        await self._refusals.turn_away(*refusals)

    async def _record_refusals(self, refusals: Sequence[Refusal]) -> None:
        await self._audit.append(*map(_record_of, refusals))


def _together(opinions: Sequence[bool | None], *, ruled: bool) -> bool | None:
    """Return what *opinions* of those beside rules are together.

    Where none of them allows it is a no to who is not *ruled*: what rules allow adds nothing to his reach.
    """
    if False in opinions:
        return False
    if True in opinions:
        return True
    return None if ruled else False


def check_distinct(wanted: Sequence[object]) -> None:
    """Refuse to answer one name more than once.

    Raises:
        Invalid: one stands twice.
    """
    if len(set(wanted)) < len(wanted):
        raise Invalid("a name appears twice")


def _outcome(error: ServiceError) -> str:
    """Return what an act that was allowed came to."""
    if isinstance(error, Denied):
        return "denied"
    if isinstance(error, Unavailable):
        return {Fate.UNKNOWN: "unknown", Fate.APPLIED: "allowed", Fate.NOT_APPLIED: "failed"}[error.fate]
    return "failed"


def _records(caller: Caller, acts: Sequence[Act], decision: str, reason: str | None = None) -> list[AuditRecord]:
    return [_record(caller, act, decision, reason) for act in acts]


def _record(
    caller: Caller, act: Act, decision: str, reason: str | None, *, decided: dict[str, object] | None = None
) -> AuditRecord:
    return AuditRecord(
        caller.request_id,
        caller.principal.id,
        act.action.word,
        act.name,
        decision,
        reason,
        caller.on_behalf_of,
        None if caller.peer is None else caller.peer._asdict(),
        caller.address,
        decided=decided,
        about=act.about or None,
        trace=caller.trace,
    )


def _refusal(
    caller: Caller,
    action: str,
    name: str,
    decision: Decision,
    reason: str,
    *,
    decided: dict[str, object] | None = None,
    about: str = "",
) -> Refusal:
    return Refusal(
        request=caller.request_id,
        action=action,
        name=bounded(name),
        reason=reason,
        decision=decision,
        principal=caller.principal.id,
        on_behalf_of=caller.on_behalf_of,
        address=caller.address,
        peer=None if caller.peer is None else caller.peer._asdict(),
        decided=decided,
        about=about or None,
        trace=caller.trace,
    )


def _record_of(refusal: Refusal) -> AuditRecord:
    return AuditRecord(
        refusal.request,
        bounded(refusal.principal),
        bounded(refusal.action),
        bounded(refusal.name),
        refusal.decision,
        bounded(refusal.reason) or None,
        refusal.on_behalf_of,
        refusal.peer,
        None if refusal.address is None else bounded(refusal.address),
        [bounded(each) for each in refusal.claimed[:MAX_CLAIMED]],
        refusal.count,
        refusal.decided,
        None if refusal.about is None else bounded(refusal.about),
        refusal.trace,
    )
