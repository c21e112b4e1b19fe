"""The rules in the store: changed one by one, or all at once by a document that is applied whole or not at all.

A document becomes an edition of its own, ``system/access/rules/<edition>/…``, which is written beside the one in force,
in as many commits as that takes. One commit of the epoch puts it in force, if the rules are still those that it was
made from. What is left of the edition before, and of imports that were broken off, is removed then: what is removed was
there before that commit, and whoever is still at work on such an edition finds that the rules are others now.

Nobody shuts out all administrators: who may mend the rules is looked at in the commit that changes them.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from strongroom.models import names
from strongroom.models.access import InvalidAccess, Rule, check_name, check_rule, told
from strongroom.models.errors import InvalidName
from strongroom.storage_service.access.directory import Directory, Snapshot
from strongroom.storage_service.access.principals import Principals
from strongroom.storage_service.access.rule_document import MAX_RULES, canonical
from strongroom.storage_service.access.way_in import END, askers_of, can_mend
from strongroom.storage_service.backends.base import ABSENT, Backend, Change, Delete, Put, pages
from strongroom.storage_service.errors import Changed, Exists, InUse, Invalid, NotFound, ServiceError

ANY: Final = "*"  # as what is expected of a rule: that it is there
_BATCH: Final = 512 * 1024  # bytes of rules in one commit

log = logging.getLogger(__name__)


class Written(NamedTuple):
    """A rule as it was put: its tag, and whether there was none of its name."""

    tag: str
    created: bool


class RuleBook:
    """The rules of a store."""

    def __init__(
        self,
        directory: Directory,
        store: Backend,
        sealed: Backend,
        principals: Principals,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Take what knows the records, the store and the encrypting backend round it, and what names editions."""
        self._directory = directory
        self._store = store
        self._sealed = sealed
        self._principals = principals
        self._now = now
        self._random = random

    async def current(self) -> Snapshot:
        """Return all records of access as they are."""
        return await self._directory.current()

    async def put(self, name: str, rule: Rule, by: str, expected: str | None = None) -> Written:
        """Make a rule, or put it in the place of the one of its name.

        Args:
            name: what it is called.
            rule: what it says.
            by: who makes it.
            expected: the tag of the rule that it is to replace; `ANY`: there is one; "": there is none.

        Raises:
            Invalid: the name or the rule cannot be so; or there are as many as there may be.
            Exists, Changed: what was expected is not so.
            InUse: no administrator could change the rules any more.
        """
        _check(name, rule)
        record = msgspec.structs.replace(canonical(rule), created=told(self._now()), created_by=by)
        written = Written(tag_of(record), created=True)

        def make(known: Snapshot) -> list[Change]:
            nonlocal written
            _check_expected(known, name, expected)
            created = known.rule_name(name) not in known.records
            if created and len(known.rules) >= MAX_RULES:
                raise Invalid(f"there are at most {MAX_RULES} rules")
            self._check_left(known, {**known.rules, name: record})
            written = Written(tag_of(record), created)
            return [Put(known.rule_name(name), msgspec.json.encode(record))]

        await self._directory.change(make)
        return written

    async def remove(self, name: str, expected: str | None = None) -> None:
        """Remove a rule; one that is damaged, too.

        Raises:
            NotFound: there is none of that name.
            Changed: it is not the one that was expected.
            InUse: no administrator could change the rules any more.
        """

        def make(known: Snapshot) -> list[Change]:
            if known.rule_name(name) not in known.records:
                raise NotFound("there is no such rule")
            _check_expected(known, name, expected)
            self._check_left(known, {each: rule for each, rule in known.rules.items() if each != name})
            return [Delete(known.rule_name(name))]

        await self._directory.change(make)

    async def replace_all(self, rules: Mapping[str, Rule], by: str, known: Snapshot) -> None:
        """Put *rules* in the place of all that there are in *known*; until that is done, those hold.

        Raises:
            Changed: the rules are not those of *known* any more; nothing was done.
            InUse: no administrator could change the rules any more; nothing was done.
            Unavailable: the store does not answer; with the fate of the whole.
        """
        self._check_left(known, rules)  # before anything is written
        edition = self._random()
        left = [name async for page in pages(self._store.list, names.RULES) for name in page]
        now = told(self._now())
        records = {name: _record(known.rules.get(name), rule, now, by) for name, rule in rules.items()}
        before = _records_of(known)

        def make(current: Snapshot) -> list[Change]:
            if current.epoch.edition != known.epoch.edition or _records_of(current) != before:
                raise Changed("somebody else changed the rules meanwhile; nothing was done")
            self._check_left(current, rules)
            return []

        await self._write(edition, records)
        try:
            await self._directory.change(make, edition=edition)
        except (Changed, InUse):
            await self._sweep([f"{names.RULES}{edition}/{name}" for name in records])
            raise
        await self._sweep(left)

    async def _write(self, edition: str, records: Mapping[str, Rule]) -> None:
        batch: list[Change] = []
        size = 0
        for name, record in records.items():
            put = Put(f"{names.RULES}{edition}/{name}", msgspec.json.encode(record), ABSENT)
            if batch and (len(batch) >= self._sealed.max_batch or size + len(put.value) > _BATCH):
                await self._sealed.commit(batch)
                batch, size = [], 0
            batch.append(put)
            size += len(put.value)
        if batch:
            await self._sealed.commit(batch)

    async def _sweep(self, left: Iterable[str]) -> None:
        """Remove rules that are not in force; where that fails, the next import does."""
        rest = list(left)
        try:
            while rest:
                most = self._sealed.max_batch
                await self._sealed.commit([Delete(name) for name in rest[:most]])
                rest = rest[most:]
        except ServiceError as error:
            log.warning("%d rules of another edition are left, until the next import: %s", len(rest), error)

    # The last way in

    def _check_left(self, known: Snapshot, rules: Mapping[str, Rule]) -> None:
        """Refuse *rules* under which no administrator can change rules who can now, or when all that expires has.

        Raises:
            InUse: they are so.
        """
        if known.damaged is not None:
            return  # nobody is let do anything by rules: they are being mended by the service's own key
        askers = askers_of(known, self._principals.administrators(known))
        for moment in (self._now(), END):
            if can_mend(known.rules, askers, moment) and not can_mend(rules, askers, moment):
                raise InUse("no administrator could change the rules any more: let another rule allow it first")


# What they are known by


def tag_of(rule: Rule) -> str:
    """Return what a rule is known by until it is put again."""
    return hashlib.sha256(msgspec.json.encode(rule)).hexdigest()[:32]


def tag_of_all(known: Snapshot) -> str:
    """Return what all rules together are known by until one of them is another."""
    told_of = hashlib.sha256()
    for name, rule in sorted(known.rules.items()):
        told_of.update(f"{name}\n{tag_of(rule)}\n".encode())
    return told_of.hexdigest()[:32]


def names_of(known: Snapshot) -> list[str]:
    """Return the names of all rules, of those that are damaged, too, sorted."""
    prefix = known.rule_name("")
    return sorted(name.removeprefix(prefix) for name in known.records if name.startswith(prefix))


def _records_of(known: Snapshot) -> dict[str, object]:
    return {name: record for name, record in known.records.items() if name.startswith(names.RULES)}


def _record(before: Rule | None, rule: Rule, now: str, by: str) -> Rule:
    """Return the record of *rule*; one that says what it said stays as it was made."""
    if before is not None and canonical(before) == canonical(rule):
        return before
    return msgspec.structs.replace(canonical(rule), created=now, created_by=by)


def _check(name: str, rule: Rule) -> None:
    try:
        check_name(name)
    except InvalidName as error:
        raise Invalid(f"a rule cannot be called so: {error}", (("name", "is not a name"),)) from None
    try:
        check_rule(rule)
    except InvalidAccess as error:
        raise Invalid(f"the rule is invalid: {error}", ((error.field, str(error)),)) from None


def _check_expected(known: Snapshot, name: str, expected: str | None) -> None:
    if expected is None:
        return
    is_there = known.rule_name(name) in known.records
    if not expected and is_there:
        raise Exists("there is a rule of that name")
    if expected and not is_there:
        raise Changed("there is no such rule any more")
    if expected not in ("", ANY) and (name not in known.rules or tag_of(known.rules[name]) != expected):
        raise Changed("the rule is another by now")
