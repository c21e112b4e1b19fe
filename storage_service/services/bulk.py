"""The door for what is encrypted, as it is stored: several values and journals in one commit.

It is for who moves or mends whole stores, and so nothing here knows a model. What is written under
``system/access/apikeys/`` makes keys, which could reach further than the one it was written with: so all of this is for
credentials that reach everything, and for those whom rules let write every rule. Like every act, each is decided and
recorded first, name by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.access.directory import Directory, Snapshot
from strongroom.storage_service.access.paths import WholeReach
from strongroom.storage_service.access.ruling import EVERY_RULE
from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_PAGE,
    PRESENT,
    Backend,
    Change,
    Check,
    Conflict,
    Delete,
    Page,
    Put,
    Vacant,
    check_size,
)
from strongroom.storage_service.errors import Changed, Invalid, NoContainer, NotEmpty, TooLarge, Undecipherable
from strongroom.storage_service.services.door import Act, Caller, Door
from strongroom.storage_service.services.large_answers import LargeAnswers
from strongroom.storage_service.turns import Turn, Turns
from strongroom.storage_service.wire import MAX_BULK_READ, MAX_JOURNAL, fits

_PLACES: Final = (names.SECRETS, names.JOURNAL, names.APIKEYS)


@dataclass(frozen=True, slots=True)
class Text:
    """A stored value, which is text, and the revision that wrote it. The value stays out of the repr."""

    value: str
    revision: int

    def __repr__(self) -> str:
        return f"<Text of {len(self.value)} characters, revision {self.revision}>"


class BulkService:
    """All that can be done to encrypted values as they are stored.

    Every method raises Denied and AuditUnavailable before anything is done, Invalid for names that are not valid or not
    served here, Locked or Uninitialized while there is no key, and Unavailable with its fate.
    """

    def __init__(
        self,
        door: Door,
        sealed: Backend,
        keys: ApiKeys,
        directory: Directory,
        large_answers: LargeAnswers | None = None,
    ) -> None:
        """Take the parts; *sealed* must be an encrypting backend. The door opens to whoever reaches everything."""
        self._sealed = sealed
        self._keys = keys
        self._directory = directory
        self._door = door.beside(WholeReach())
        self._large_answers = large_answers or LargeAnswers()

    async def expect(self, caller: Caller, action: Action) -> None:
        """Refuse, and record that, whoever does not reach everything; before a body is read.

        Raises:
            Denied, AuditUnavailable
        """
        await self._check_whole(caller)
        await self._door.expect_some(caller, action, names.SECRETS)

    async def limit(self, caller: Caller) -> int:
        """Return how many changes one commit takes now; fewer after a keyset was given another generation."""
        await self._check_whole(caller)
        await self._door.permit(caller, Action.GET, [names.JOURNAL])
        return self._sealed.max_batch

    async def read(self, caller: Caller, wanted: Sequence[str]) -> list[Text | None]:
        """Return what is stored under each of *wanted*, as of one moment; if one does not open, none is.

        Raises:
            Invalid: more names than `wire.MAX_BULK_READ`.
            TooLarge: they take more than `wire.MAX_BATCH_STORED` bytes in the store, and nothing was decrypted; or one
                that stands several times would make more than that of the answer.
            Undecipherable: a value does not open, or is not text.
        """
        texts, turn = await self.read_held(caller, wanted)
        if turn is not None:
            turn.end()
        return texts

    async def read_held(self, caller: Caller, wanted: Sequence[str]) -> tuple[list[Text | None], Turn | None]:
        """Return what `read` does, and of a large answer the turn, which its caller ends when it was handed over."""
        if len(wanted) > MAX_BULK_READ:
            raise Invalid(f"at most {MAX_BULK_READ} names are read at once")
        for name in wanted:
            _check_name(name)
        await self._check_whole(caller)

        async def read(limit: int) -> list[Text | None]:
            found = await self._sealed.get_many(wanted, limit=limit) if wanted else {}
            check_size(sum(len(found[name].value) for name in wanted if name in found), limit)
            turns = Turns()
            texts: list[Text | None] = []
            for name in wanted:
                await turns.take()
                entry = found.get(name)
                texts.append(None if entry is None else Text(_text(name, entry.value), entry.revision))
            return texts

        return await self._door.read(caller, Action.GET, wanted, lambda: self._large_answers.made(caller.holder, read))

    async def list(self, caller: Caller, prefix: str, after: str | None, limit: int) -> Page:
        """Return a page of names that begin with *prefix*, containers among them, in byte order.

        Raises:
            Invalid: *limit* is out of bounds.
        """
        _check_prefix(prefix)
        if after is not None:
            _check_grammar(after)
        if not 0 < limit <= MAX_PAGE:
            raise Invalid(f"a page is 1 to {MAX_PAGE} names")
        await self._check_whole(caller)
        return await self._door.read(caller, Action.LIST, [prefix], lambda: self._sealed.list(prefix, after, limit))

    async def commit(self, caller: Caller, wanted: Sequence[Put | Delete | Check]) -> int:
        """Apply what is *wanted* together or not at all, and return the revision that all that was written has.

        A secret is written only into a container that exists or is written with it; a container is removed only if it
        was empty before.

        Raises:
            Invalid: a change is invalid, there are none or too many, or two are of one name.
            TooLarge: a value is over its limit, or the batch over what the store takes at once.
            Changed: something is not at the expected revision.
            NoContainer: a secret would lie in no container.
            NotEmpty: a container is not empty.
            Halted: no value may be encrypted.
        """
        await self._check_whole(caller)
        changes: dict[str, Put | Delete | Check] = {}
        turns = Turns()
        for each in wanted:
            self._check(each)
            changes[each.name] = each
            await turns.take()
        if not wanted or len(changes) < len(wanted):
            raise Invalid("a commit is one or more changes, no two of one name")
        guards = _containers(changes)
        vacant = [Vacant(name) for name, change in changes.items() if _is_removal(change) and names.is_container(name)]
        batch = [*changes.values(), *guards, *vacant]
        if len(batch) > (most := self._sealed.max_batch):
            raise Invalid(f"a commit is at most {most} changes now, with one for each container they lie in")
        await self._door.permit_each(caller, [Act(_ACTIONS[type(change)], name) for name, change in changes.items()])

        def make(known: Snapshot) -> Sequence[Change]:
            for name, change in changes.items():
                if name.startswith(names.APIKEYS) and isinstance(change, Put):
                    _refuse_taken(known, name.removeprefix(names.APIKEYS))
            return batch

        try:
            if any(name.startswith(names.ACCESS) for name in changes):
                return await self._directory.change(make)
            return await self._sealed.commit(batch)
        except Conflict as conflict:
            failed = conflict.failed
        if any(not isinstance(change, Vacant) and change.name in changes for change in failed):
            raise Changed("something is not at the expected revision")
        if any(isinstance(change, Check) for change in failed):
            raise NoContainer("a container that something lies in does not exist")
        raise NotEmpty("a container that is to be removed is not empty")

    async def _check_whole(self, caller: Caller) -> None:
        """Refuse, and record that, whom rules let do less than everything: what is written here could be a whole key.

        Of others the reach decides.

        Raises:
            Denied, AuditUnavailable
        """
        if caller.principal.ruled:
            await self._door.expect(caller, Action.PUT, [EVERY_RULE])

    def _check(self, change: Put | Delete | Check) -> None:
        """Refuse what is no change of something that is served here."""
        name = change.name
        _check_name(name)
        if isinstance(change, Delete) and change.expected == ABSENT:
            raise Invalid("a record to remove cannot be expected to be absent")
        if not isinstance(change, Put):
            return
        if name.startswith(names.APIKEYS):
            self._keys.check(name.removeprefix(names.APIKEYS), change.value)
        elif name.startswith(names.SECRETS):
            _check_secret(name, change.value)
        elif len(change.value) > MAX_JOURNAL:
            raise TooLarge("a row of a journal is over its limit")


_ACTIONS: Final = {Put: Action.PUT, Delete: Action.DELETE, Check: Action.GET}


def _containers(changes: Mapping[str, Change]) -> list[Check]:
    """Return what must hold of the containers that secrets are written into, and that *changes* say nothing of."""
    wanted: dict[str, Check] = {}
    for name, change in changes.items():
        container = names.container_of(name)
        if not isinstance(change, Put) or not name.startswith(names.SECRETS) or container == names.SECRETS:
            continue
        of_container = changes.get(container)
        if of_container is None:
            wanted.setdefault(container, Check(container, PRESENT))
        elif _is_removal(of_container) or (isinstance(of_container, Check) and of_container.expected == ABSENT):
            raise Invalid("nothing can be written into a container that is expected to be absent")
    return list(wanted.values())


def _refuse_taken(known: Snapshot, key_id: str) -> None:
    """Refuse the id of an API key that another has, or that was given once and is nobody's.

    Raises:
        Invalid: so it is.
    """
    folded = key_id.casefold()
    if folded in known.gone:
        raise Invalid("an API key of that id was revoked here, and an id is never used again")
    if known.taken.get(folded, f"apikey:{key_id}") != f"apikey:{key_id}":
        raise Invalid("that id is the name of another here, and names are of one space, in which case plays no part")


def _is_removal(change: Change) -> bool:
    return isinstance(change, Delete)


# What names and values may be. Nothing of them is repeated.


def _check_grammar(name: str) -> None:
    try:
        names.check(name.removeprefix(names.TOMBSTONES) or name)  # a tombstone's has a whole name within
    except InvalidName as error:
        raise Invalid(str(error)) from None


def _check_prefix(name: str) -> None:
    if not name.startswith(_PLACES):
        raise Invalid("what is read and written here lies below " + ", ".join(_PLACES))
    _check_grammar(name)


def _check_name(name: str) -> None:
    _check_prefix(name)
    secret = name.startswith(names.SECRETS)
    if names.is_container(name):
        if not secret or name == names.SECRETS:
            raise Invalid(f"containers lie below {names.SECRETS} alone")
    elif secret and names.container_of(name) == names.SECRETS:
        raise Invalid("a secret must lie in a container")


def _check_secret(name: str, value: bytes) -> None:
    if names.is_container(name):
        if value:
            raise Invalid("a container carries no value")
    elif not value:
        raise Invalid("a secret must not be empty")
    elif not fits(value):
        raise TooLarge("a value is over its limit")


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        pass
    raise Undecipherable(name, "it is not text")  # after the handler: the error that was caught holds the value
