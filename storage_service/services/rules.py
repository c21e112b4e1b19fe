"""Rules: who may look at them and change them, why they say what they say, and what others would say instead.

What is decided on is where a rule lies, ``system/access/rules/web``, whichever edition it is in, and for all of them at
once the container and every rule that it touches. A change takes credentials that reach everything, or the right
``access``. Who asks about himself needs no right, and is answered by the rules that speak of him alone: nothing that he
is told depends on any other. About others, about everybody, or by all rules he is answered who may read all rules.

What is on record is told to who may read that, ``system/audit/decisions``; of his own requests, to everybody.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from strongroom.models import access, names
from strongroom.models.access import EVERYBODY, Kind, PrincipalRecord, Right, Rule
from strongroom.models.errors import InvalidName
from strongroom.storage_service.access import explain, rule_document
from strongroom.storage_service.access.apikeys import ApiKeyRecord, principal_of
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.directory import Snapshot, record_of
from strongroom.storage_service.access.explain import Explanation, Question, Reach, Remedy, Trial, Who
from strongroom.storage_service.access.paths import WholeReach
from strongroom.storage_service.access.rule_document import Difference, InvalidDocument
from strongroom.storage_service.access.rulebook import RuleBook, Written, names_of, tag_of, tag_of_all
from strongroom.storage_service.access.rules import Rules, rights_of
from strongroom.storage_service.access.ruling import Ruling
from strongroom.storage_service.audit.decisions import OWN_SECONDS, Decisions, Line, Reading
from strongroom.storage_service.errors import Changed, Invalid, NotFound
from strongroom.storage_service.services.door import MANY, Act, Caller, Door
from strongroom.storage_service.turns import Queue
from strongroom.storage_service.turns import Rule as TurnRule
from strongroom.storage_service.wire import REQUEST_ID

T = TypeVar("T")

MAX_FLIPS: Final = 1000  # of each kind, that one trial tells
LONGEST: Final = timedelta(days=366)  # that a trial goes back

_WORDS: Final[Mapping[str, Action]] = {**{str(action): action for action in Action}, "read": Action.GET}
_SEEN: Final[Mapping[str, str]] = {"Reach": "credentials", "Ruling": "rules"}


_READING: Final = TurnRule(queue=16, patience=8.0, longest=math.inf, grace=math.inf)


class KnownRule(NamedTuple):
    """A rule and what it is known by; None where it is damaged."""

    name: str
    rule: Rule | None
    tag: str


class RulePage(NamedTuple):
    """Some rules, by name, and whether there are more."""

    rules: list[KnownRule]
    more: bool


class Document(NamedTuple):
    """All rules as one text, and what they are known by together."""

    text: str
    tag: str


class Compared(NamedTuple):
    """What a document would change in the rules that are known by *tag*."""

    difference: Difference
    tag: str


@dataclass(frozen=True, slots=True)
class Explained:
    """Why somebody may do something, or may not.

    Attributes:
        principal: who.
        groups: that he is a member of.
        address: that he is taken to come from.
        rights: that it needs.
        name: to what.
        allowed: whether he may.
        deciders: each of those who decide, in their order, and what it says.
        rules: what the rules say, and why.
        whole: it is by all rules; else by those alone that speak of him.
    """

    principal: str
    groups: tuple[str, ...]
    address: str | None
    rights: tuple[Right, ...]
    name: str
    allowed: bool
    deciders: tuple[tuple[str, bool | None], ...]
    rules: Explanation
    whole: bool


class Case(NamedTuple):
    """A decision that is on record, and why it would be so now, or would not."""

    line: Line
    now: Explained | None  # None: whoever it was is nobody any more


class Tried(NamedTuple):
    """What a document would change in the decisions on record; *complete*: all were read that were asked for."""

    trial: Trial
    complete: bool


class RuleService:
    """All that can be done with rules.

    Every method raises Denied and AuditUnavailable before anything is done; Locked where it takes keys to tell and
    there are none; and Unavailable, with the fate of what was to be written.
    """

    def __init__(
        self,
        door: Door,
        book: RuleBook,
        ruling: Ruling,
        decisions: Decisions,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take the parts."""
        self._door = door
        self._whole = door.beside(WholeReach())
        self._book = book
        self._ruling = ruling
        self._decisions = decisions
        self._now = now
        self._reading = Queue(_READING)

    async def expect(self, caller: Caller, action: Action, name: str = "") -> None:
        """Refuse *caller* what would be refused anyway, before a body is read; no *name*: to all rules.

        Raises:
            Denied, AuditUnavailable
        """
        await (self._door if action is Action.GET else self._whole).expect(caller, action, [_place(name)])

    # One by one

    async def page(self, caller: Caller, after: str, limit: int) -> RulePage:
        """Return the rules behind *after* whose names the caller may list."""

        async def read() -> RulePage:
            known = await self._book.current()
            found: list[KnownRule] = []
            for number, name in enumerate(each for each in names_of(known) if each > after):
                if number % MANY == MANY - 1:
                    await asyncio.sleep(0)
                if self._door.allows(caller.principal, Action.LIST, names.RULES + name):
                    if len(found) == limit:
                        return RulePage(found, more=True)
                    found.append(_known(known, name))
            return RulePage(found, more=False)

        return await self._door.read(caller, Action.LIST, [names.RULES], read)

    async def get(self, caller: Caller, name: str) -> KnownRule:
        """Return one rule.

        Raises:
            NotFound: there is none of that name.
        """

        async def read() -> KnownRule:
            known = await self._book.current()
            if known.rule_name(name) not in known.records:
                raise NotFound("there is no such rule")
            return _known(known, name)

        return await self._door.read(caller, Action.GET, [_place(name)], read)

    async def put(self, caller: Caller, name: str, rule: Rule, expected: str | None = None) -> Written:
        """Make a rule, or put it in the place of the one of its name, if that is *expected* (`RuleBook.put`).

        Raises:
            Invalid: the name or the rule cannot be so; or there are as many as there may be.
            Exists, Changed: what was expected is not so.
            InUse: no administrator could change the rules any more.
        """
        await self._whole.permit(caller, Action.PUT, [_place(name)])
        return await self._book.put(name, rule, caller.principal.id, expected)

    async def remove(self, caller: Caller, name: str, expected: str | None = None) -> None:
        """Remove a rule, if it is the one that is *expected*.

        Raises:
            NotFound: there is none of that name.
            Changed: it is another by now.
            InUse: no administrator could change the rules any more.
        """
        await self._whole.permit(caller, Action.DELETE, [_place(name)])
        await self._book.remove(name, expected)

    # All at once

    async def export(self, caller: Caller) -> Document:
        """Return all rules as one document.

        Raises:
            Undecipherable, Internal: one of them is damaged.
        """
        known = await self._permit_all(caller)
        for name in names_of(known):
            known.record(known.rule_name(name))
        return Document(await asyncio.to_thread(rule_document.write, known.rules), tag_of_all(known))

    async def diff(self, caller: Caller, text: str) -> Compared:
        """Return what turns the rules into those of a document.

        Raises:
            Invalid: it is no document of rules.
        """
        known = await self._permit_all(caller)
        rules = await _read(text)
        return Compared(await asyncio.to_thread(rule_document.difference, known.rules, rules), tag_of_all(known))

    async def replace_all(self, caller: Caller, text: str, expected: str | None = None) -> Compared:
        """Put the rules of a document in the place of all that there are, and return what that changed.

        Args:
            caller: who asks; he has to have the right to each rule that becomes another.
            text: the document.
            expected: what the rules have to be known by now (`Compared.tag`).

        Raises:
            Invalid: it is no document of rules.
            Changed: the rules are not those that were expected, or somebody else changed them meanwhile.
            InUse: no administrator could change the rules any more.
        """
        await self._whole.expect(caller, Action.PUT, [names.RULES])
        rules = await _read(text)
        known = await self._book.current()
        made = await asyncio.to_thread(rule_document.difference, known.rules, rules)
        damaged = set(names_of(known)) - known.rules.keys()
        touched = sorted({*made.added, *made.removed, *made.changed, *damaged})
        places = [names.RULES, *(names.RULES + name for name in touched)]
        for some in _parts(places):
            await self._whole.expect(caller, Action.PUT, some)
            await asyncio.sleep(0)
        if expected is not None and tag_of_all(known) != expected:
            raise Changed("the rules are others by now")
        for some in _parts(places):
            await self._whole.permit_each(caller, [Act(Action.PUT, place) for place in some])
            await asyncio.sleep(0)
        if touched:
            await self._book.replace_all(rules, caller.principal.id, known)
        return Compared(made, tag_of_all(await self._book.current()))

    # Why

    async def explain(
        self, caller: Caller, word: str, name: str, principal: str | None = None, address: str | None = None
    ) -> Explained:
        """Return why *principal*, or the caller, may do to *name* what *word* says, or may not.

        Args:
            caller: who asks.
            word: an action, ``get``, or a right, ``lock``.
            name: to what.
            principal: ``user:ann``; None: the caller himself.
            address: from where on the network; None: over the socket, or of himself, from where he asks.

        Raises:
            Invalid: there is no such action or right, or that is no name.
            NotFound: there is no such principal.
        """
        action, rights = _asked(word, name)
        who, known, whole = await self._about(caller, principal, address)
        question = Question(who, rights, name, self._now())
        return self._explained(known, question, action, whole=whole)

    async def who_can(self, caller: Caller, word: str, name: str) -> list[Who]:
        """Return who can do to *name* what *word* says: users, services, and API keys by their own reach.

        Raises:
            Invalid: there is no such action or right, or that is no name.
        """
        action, rights = _asked(word, name)
        known = await self._permit_all(caller)
        rules, now = self._ruling.rules, self._now()
        found: list[Who] = []
        for number, who in enumerate(_principals(known)):
            if number % MANY == MANY - 1:
                await asyncio.sleep(0)
            if not who.ruled:
                if self._door.allows(who, action, name):
                    found.append(Who(who.id, (), (), ()))
                continue
            each = [explain.who_can(rules, right, name, [who], now) for right in rights]
            if all(each) and self._others_allow(who, action, name):
                said = [one[0] for one in each]
                found.append(
                    Who(
                        who.id,
                        tuple(sorted({rule for one in said for rule in one.allows})),
                        _narrowest([one.networks for one in said]),
                        tuple(sorted({network for one in said for network in one.barred})),
                    )
                )
        return found

    async def what_can(self, caller: Caller, principal: str | None = None) -> tuple[Principal, Reach]:
        """Return what *principal*, or the caller, can do by rules; an API key has its own reach beside.

        Raises:
            NotFound: there is no such principal.
        """
        who, known, _ = await self._about(caller, principal, None)
        return who, explain.what_can(_speaking_of(known.rules, who), who, self._now())

    # What is on record

    async def try_rules(self, caller: Caller, text: str, since: timedelta) -> Tried:
        """Return what a document would change in the decisions that are on record *since* then.

        Raises:
            Invalid: it is no document of rules, or since too long ago.
            Busy: others took too long.
        """
        if not timedelta() < since <= LONGEST:
            raise Invalid(f"a trial goes back {LONGEST.days} days at most", (("since", "is too long"),))
        await self._permit_all(caller)
        await self._door.permit(caller, Action.GET, [names.DECISIONS])
        proposed = await asyncio.to_thread(Rules, await _read(text))
        reading = Reading()
        recorded = self._decisions.since(self._now() - since, reading)
        trial = await self._in_turn(caller, lambda: explain.try_rules(recorded, proposed, MAX_FLIPS))
        return Tried(trial, reading.complete)

    async def cases(self, caller: Caller, request: str) -> list[Case]:
        """Return what was decided in the *request* of that id, and why: the caller's own, or anybody's who may read it.

        Raises:
            NotFound: nothing is on record of it that the caller may see; or it is too far back for who sees his own.
            Busy: others took too long.
        """
        if REQUEST_ID.fullmatch(request) is None:
            raise Invalid("that is not the id of a request", (("request", "is not an id"),))
        known = await self._book.current()
        whole = self._may_see_all(caller, known) and self._door.allows(caller.principal, Action.GET, names.DECISIONS)
        if whole:
            await self._door.permit(caller, Action.GET, [names.DECISIONS])
        else:
            await self._door.note(caller, Action.GET, names.DECISIONS)
        reading = Reading() if whole else Reading(seconds=OWN_SECONDS)
        found = await self._in_turn(caller, lambda: self._decisions.of_request(request, reading))
        seen = [line for line in found if whole or line.principal == caller.principal.id]
        if not seen:
            raise NotFound("nothing is on record of a request of that id that you may see")
        return [Case(line, self._as_now(known, line, whole=whole)) for line in seen]

    def _as_now(self, known: Snapshot, line: Line, *, whole: bool) -> Explained | None:
        who = _principal(known, line.principal, line.from_)
        if who is None or line.decided is None or line.action not in _WORDS:
            return None
        rights = tuple(Right(right) for right in line.decided.rights if right in set(Right))
        question = Question(who, rights, line.name, self._now())
        action = _WORDS[line.action]
        if action is Action.PUT and len(rights) == 1:  # the log says put of all three
            action = {Right.CREATE: Action.CREATE, Right.MODIFY: Action.MODIFY}.get(rights[0], action)
        return self._explained(known, question, action, whole=whole)

    async def _in_turn(self, caller: Caller, read: Callable[[], T]) -> T:
        """Return what *read* returns, of the log, which is read for one at a time, also for who has gone meanwhile.

        Raises:
            Busy: the log is being read for the caller, and again; or others took too long.
        """
        turn = await self._reading.begin(caller.holder)
        work = asyncio.ensure_future(asyncio.to_thread(read))
        work.add_done_callback(lambda _: turn.end())
        return await asyncio.shield(work)

    # Who may

    async def _permit_all(self, caller: Caller) -> Snapshot:
        """Let *caller* read all rules, and return them; one that he may not read is a no to all."""
        await self._door.expect(caller, Action.GET, [names.RULES])
        known = await self._book.current()
        for some in _parts([names.RULES + name for name in names_of(known)]):
            await self._door.expect(caller, Action.GET, some)
            await asyncio.sleep(0)
        await self._door.permit(caller, Action.GET, [names.RULES])
        return known

    def _may_see_all(self, caller: Caller, known: Snapshot) -> bool:
        return all(
            self._door.allows(caller.principal, Action.GET, names.RULES + name) for name in ["", *names_of(known)]
        )

    async def _about(
        self, caller: Caller, principal: str | None, address: str | None
    ) -> tuple[Principal, Snapshot, bool]:
        """Return whom is asked about, and whether *caller* may be told by all rules.

        Raises:
            NotFound: there is no such principal.
        """
        address = None if address is None else _address(address)
        if principal in (None, caller.principal.id):
            known = await self._book.current()
            whole = self._may_see_all(caller, known)
            await self._door.note(caller, Action.GET, names.RULES)
            who = caller.principal
            return (who if address is None else who.at(address)), known, whole
        known = await self._permit_all(caller)
        found = _principal(known, str(principal), address)
        if found is None:
            raise NotFound("there is no such principal")
        return found, known, True

    def _explained(self, known: Snapshot, question: Question, action: Action, *, whole: bool) -> Explained:
        who = question.asker
        assert isinstance(who, Principal)  # noqa: S101
        groups = sorted(name.removeprefix(names.GROUPS) for name in known.records if name.startswith(names.GROUPS))
        if who.exempt:
            said = explain.explain(Rules({}), question, ())
        elif whole:
            said = explain.explain(self._ruling.rules, question, groups)
        else:
            said = explain.explain(_speaking_of(known.rules, who), question, ())
        opinions: list[tuple[str, bool | None]] = []
        for kind, opinion in self._door.opinions(who, action, question.name):
            if kind == "Ruling" and not who.exempt and known.damaged is None:
                by_rules = said.verdict.allowed  # of the rights that were asked about
                opinions.append(("rules", by_rules if who.ruled or by_rules is False else None))
            else:
                opinions.append((_SEEN.get(kind, kind), opinion))
        others = [opinion for kind, opinion in opinions if kind != "rules"]
        says = [opinion for _, opinion in opinions]
        allowed = False not in says and True in says
        return Explained(
            who.id,
            tuple(sorted(who.groups)),
            who.address,
            question.rights,
            question.name,
            allowed,
            tuple(opinions),
            replace(said, remedy=None if allowed else _remedy(said.remedy, others, ruled=who.ruled)),
            whole,
        )

    def _others_allow(self, who: Principal, action: Action, name: str) -> bool:
        """Whether none of those beside the rules denies it."""
        return all(opinion is not False for kind, opinion in self._door.opinions(who, action, name) if kind != "Ruling")


def _known(known: Snapshot, name: str) -> KnownRule:
    rule = known.rules.get(name)
    return KnownRule(name, rule, "" if rule is None else tag_of(rule))


def _speaking_of(rules: Mapping[str, Rule], who: Principal) -> Rules:
    """Return those of *rules* alone that speak of *who*."""
    known_as = {EVERYBODY, who.id, *(f"group:{group}" for group in who.groups)}
    return Rules({name: rule for name, rule in rules.items() if not known_as.isdisjoint(rule.subjects)})


def _remedy(remedy: Remedy | None, others: Sequence[bool | None], *, ruled: bool) -> Remedy | None:
    """Return what of *remedy* would allow, where those beside the rules say *others*.

    What one of them denies no rule allows; nor does one add to the reach of who is not *ruled*.
    """
    if False in others or not (ruled or True in others):
        return Remedy({}, (), possible=False)
    if remedy is None or ruled:
        return remedy
    return Remedy(remedy.denies, (), possible=True)


def _principals(known: Snapshot) -> list[Principal]:
    """Return all who can come in: users and services that are not shut out, and API keys."""
    found = []
    for name, record in sorted(known.records.items()):
        called = known.taken.get(name.rpartition("/")[2].casefold(), "")
        if isinstance(record, (PrincipalRecord, ApiKeyRecord)) and record_of(called) == name:
            who = None if isinstance(record, PrincipalRecord) and record.disabled else _principal(known, called, None)
            if who is not None:
                found.append(who)
    return found


def _principal(known: Snapshot, called: str, address: str | None) -> Principal | None:
    """Return who is called so, as he would be known; None: nobody is."""
    kind, _, name = called.partition(":")
    record = known.records.get(record_of(called) or "")
    if isinstance(record, ApiKeyRecord):
        return principal_of(known, name, record).at(address)
    if isinstance(record, PrincipalRecord) and kind in set(Kind):
        return Principal(called, groups=known.groups.get(called, frozenset()), ruled=True, address=address)
    return None


def _asked(word: str, name: str) -> tuple[Action, tuple[Right, ...]]:
    """Return the action and the rights that *word* stands for where it is done to *name*.

    Raises:
        Invalid: it stands for none, or that is no name.
    """
    try:
        names.check(name)
    except InvalidName as error:
        raise Invalid(str(error), (("name", "is not a name"),)) from None
    if word in _WORDS:
        return _WORDS[word], rights_of(_WORDS[word].value, name)
    if word in set(Right):
        return Action.PUT, (Right(word),)
    words = ", ".join(dict.fromkeys([*Action, *Right]))
    raise Invalid(f"an action or a right is one of {words}", (("action", "is not one"),))


def _address(text: str) -> str:
    with contextlib.suppress(InvalidName):
        if "/" not in text:
            return access.check_network(text)
    raise Invalid("that is not an address of IPv4 or IPv6", (("address", "is not one"),))


def _place(name: str) -> str:
    """Return what is decided on for the rule *name*, or for all."""
    try:
        return names.check(names.RULES + access.check_name(name)) if name else names.RULES
    except InvalidName as error:
        raise Invalid(f"a rule cannot be called so: {error}", (("name", "is not a name"),)) from None


def _parts(places: Sequence[str]) -> list[Sequence[str]]:
    return [places[first : first + MANY] for first in range(0, len(places), MANY)]


def _narrowest(networks: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return from where it can be done for all rights: nothing stands for everywhere."""
    said = [set(each) for each in networks if each]
    if not said:
        return ()
    return tuple(sorted(set.intersection(*said) or set.union(*said)))


async def _read(text: str) -> dict[str, Rule]:
    """Return the rules of a document.

    Raises:
        Invalid: it is not one; with all that is wrong, by line and rule.
    """
    faults: tuple[tuple[str, str], ...]
    try:
        return await asyncio.to_thread(rule_document.read, text)
    except InvalidDocument as error:
        faults = tuple((_where(fault.line, fault.rule), fault.reason) for fault in error.faults)
    raise Invalid("the document is not one of rules", faults)  # after the handler: what was caught may hold the text


def _where(line: int | None, rule: str | None) -> str:
    said = [f"line {line}"] * (line is not None) + [f"rule {rule}"] * (rule is not None)
    return f"{', '.join(said)}:" if said else "document:"
