"""Models in, models out: the handler keeps records of some models on one backend, as bytes under their names.

    Host        hosts/10.0.0.7            its full form in JSON
    HostCreds   secrets/hosts/10.0.0.7    the same JSON in base64: the value of the simple message that Custodia's
                                          octet-stream PUT would store, so that /secrets serves what is saved here

One class serves both kinds; a handler is told which of the two it keeps, and the bootstrap gives the one for secrets
a backend that encrypts. The caller was allowed to ask: nothing here decides.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from strongroom.models import Model, SecretModel, names, strict_json
from strongroom.models.base import DOCUMENT
from strongroom.models.errors import Fault, InvalidName, ValidationError
from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_PAGE,
    PRESENT,
    Backend,
    Change,
    Check,
    Conflict,
    Delete,
    Entry,
    Put,
    Vacant,
    not_applied,
)
from strongroom.storage_service.errors import (
    Changed,
    Exists,
    Fate,
    Invalid,
    Malformed,
    ServiceError,
    TooLarge,
)
from strongroom.storage_service.turns import Turns
from strongroom.storage_service.wire import MAX_SECRET

M = TypeVar("M", bound=Model)
C = TypeVar("C", Put, Delete)
T = TypeVar("T")

_SHORT: Final = 16 * 1024  # bytes of a record that hold no more than is read in an instant, whatever they say
ATTEMPTS: Final = 8  # at one batch, while others make and remove its containers


class BadRecord(Malformed):
    """What is stored under a name is no valid record of its model.

    The text names the record, its faulty fields and the reasons, and repeats nothing of what is stored.
    """

    def __init__(self, name: str, model: str, faults: Sequence[Fault]) -> None:
        super().__init__(f"{name} holds no valid {model}: " + "; ".join(f"{field} {why}" for field, why in faults))
        self.name = name
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Stored(Generic[M]):
    """A record and the revision that wrote it."""

    record: M
    revision: int


@dataclass(frozen=True, slots=True)
class RecordPage(Generic[M]):
    """Records in the order of their keys; *more* says that the listing goes on after the last of them."""

    records: tuple[Stored[M], ...]
    more: bool


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Keys in their order; *more* says that the listing goes on after the last of them."""

    keys: tuple[str, ...]
    more: bool


class Handler:
    """Keeps records of plain models, or of secret ones, on one backend.

    Every method raises `Unavailable` when the store cannot answer, and `Locked` or `Undecipherable` where an
    encrypting backend does. A model of the other kind is a mistake of the program: TypeError, before anything is done.
    """

    def __init__(self, backend: Backend, *, secret: bool) -> None:
        """Take the backend; with *secret* it must be one that encrypts, which the bootstrap sees to."""
        self._backend = backend
        self._secret = secret

    # Many

    async def save_many(
        self, records: Sequence[M], expected: Sequence[int | None] | None = None
    ) -> Sequence[Stored[M]]:
        """Write *records*, and return them with their revisions.

        All are valid, or none is written. As many as the backend takes are written at once or not at all (of secrets
        one fewer for each model among them, for its container); more go in successive batches, and what came before
        a batch that fails stays.

        Args:
            records: of any models that this handler keeps, none of them twice.
            expected: for each record the revision it must be at, `ABSENT`, `PRESENT`, or None: whatever is there.

        Raises:
            Invalid: with every fault of every record.
            TooLarge: a record is over `wire.MAX_SECRET` bytes of JSON, or a batch over what the store takes at once.
            Exists: a record that was to be absent is there.
            Changed: a record is not at the expected revision.
        """
        for record in records:
            self._check_kind(type(record))
        _check_valid(records)
        writes = [
            Put(record.record_name, self._encode(record), revision)
            for record, revision in zip(records, _aligned(expected, records), strict=True)
        ]
        _check_distinct(writes)
        revisions = await _in_batches(writes, self._fitting, self._write)
        return [Stored(record, revision) for record, revision in zip(records, revisions, strict=True)]

    async def get_many(
        self, model: type[M], keys: Sequence[str], limit: int | None = None
    ) -> Sequence[Stored[M] | None]:
        """Return for each of *keys* its record, or None where there is none; up to `MAX_PAGE` are as of one moment.

        Raises:
            Invalid: a key is not one.
            TooLarge: as stored, of each `MAX_PAGE` they are more than *limit* bytes together; none was read.
            BadRecord: the stored record is invalid.
        """
        wanted = self._names(model, keys)
        found = await self._read(model, wanted, limit)
        return [found.get(name) for name in wanted]

    async def delete_many(
        self, model: type[Model], keys: Sequence[str], expected: Sequence[int | None] | None = None
    ) -> Sequence[bool]:
        """Remove records, valid or not, and return for each of *keys* whether it was there.

        Batches are as in `save_many`.

        Args:
            model: what the records are.
            keys: none of them twice.
            expected: for each key the revision it must be at, `PRESENT`, or None: whatever is there.

        Raises:
            Invalid: a key is not one.
            Changed: a record is not at the expected revision.
        """
        guards = _aligned(expected, keys)
        if ABSENT in guards:
            raise Invalid("a record to delete cannot be expected to be absent")
        removals = [Delete(name, guard) for name, guard in zip(self._names(model, keys), guards, strict=True)]
        _check_distinct(removals)
        return await _in_batches(removals, lambda _: self._backend.max_batch, self._remove)

    # All

    async def list(
        self, model: type[M], after: str | None = None, limit: int = MAX_PAGE, size: int | None = None
    ) -> RecordPage[M]:
        """Return a page of the records of *model*, in the byte order of their keys.

        Each record is as it was when its page was read; what comes or goes meanwhile may be missed.

        Args:
            model: what the records are.
            after: the key after which the page begins.
            limit: records in the page, 1 to `MAX_PAGE`.
            size: bytes that they may have together as stored; there are fewer of them in the page then.

        Raises:
            Invalid: *after* is no key, or *limit* out of bounds.
            BadRecord: the stored record is invalid.
            TooLarge: not even the first is within *size*.
        """
        position = self._position(model, after, limit)
        found: list[Stored[M]] = []
        while True:
            page = await self._backend.list(model.prefix(), position, limit - len(found))
            records = _records_among(page.names, model)
            fitting, read = await self._read_some(model, records, size)
            found += read.values()
            if fitting < len(records):
                return RecordPage(tuple(found), more=True)
            if not page.more or len(found) == limit:
                return RecordPage(tuple(found), page.more)
            if size is not None and found:
                return RecordPage(tuple(found), more=True)  # of what comes now, nobody has looked how much it is
            position = page.names[-1]

    async def keys(self, model: type[Model], after: str | None = None, limit: int = MAX_PAGE) -> KeyPage:
        """Return a page of the keys of the records of *model*, valid or not; arguments are those of `list`.

        Raises:
            Invalid: *after* is no key, or *limit* out of bounds.
        """
        position = self._position(model, after, limit)
        prefix = model.prefix()
        found: list[str] = []
        while True:
            page = await self._backend.list(prefix, position, limit - len(found))
            found += [name.removeprefix(prefix) for name in _records_among(page.names, model)]
            if not page.more or len(found) == limit:
                return KeyPage(tuple(found), page.more)
            position = page.names[-1]

    def _position(self, model: type[Model], after: str | None, limit: int) -> str | None:
        """Return the name after which a page begins, None for the first."""
        if not 0 < limit <= MAX_PAGE:
            raise Invalid(f"a page is 1 to {MAX_PAGE} records")
        self._check_kind(model)
        return None if after is None else self._names(model, [after])[0]

    # Bytes

    def _check_kind(self, model: type[Model]) -> None:
        if issubclass(model, SecretModel) is not self._secret:
            raise TypeError(f"{model.__name__} is not what this handler keeps")

    def _names(self, model: type[Model], keys: Sequence[str]) -> Sequence[str]:
        self._check_kind(model)
        try:
            return [model.name_of(key) for key in keys]
        except InvalidName as error:
            raise Invalid("a primary key is not valid", ((model.primary_key, str(error)),)) from None

    def _encode(self, record: Model) -> bytes:
        text = record.to_json()
        if len(text) > MAX_SECRET:
            raise TooLarge("a record is over its limit")
        return base64.b64encode(text) if self._secret else text

    def _decode(self, model: type[M], name: str, entry: Entry) -> Stored[M]:
        try:
            text = base64.b64decode(entry.value, validate=True) if self._secret else entry.value
            record = model.from_json(text)
        except binascii.Error:
            raise BadRecord(name, model.__name__, [Fault(DOCUMENT, "is not base64")]) from None
        except ValidationError as error:
            raise BadRecord(name, model.__name__, error.faults) from None
        if record.record_name != name:
            raise BadRecord(name, model.__name__, [Fault(model.primary_key, "is not the one in its name")])
        return Stored(record, entry.revision)

    def _is_short(self, stored: bytes) -> bool:
        """Whether an event loop may read a record of this itself; what is in base64, tells by its length alone."""
        return len(stored) <= _SHORT or (not self._secret and strict_json.short(stored))

    async def _read(self, model: type[M], wanted: Sequence[str], limit: int | None = None) -> Mapping[str, Stored[M]]:
        found: dict[str, Stored[M]] = {}
        distinct = list(dict.fromkeys(wanted))
        turns = Turns()
        for start in range(0, len(distinct), MAX_PAGE):
            page = distinct[start : start + MAX_PAGE]
            entries = await self._backend.get_many(page, limit=limit)
            for name in page:
                if name in entries:
                    entry = entries[name]
                    if self._is_short(entry.value):
                        found[name] = self._decode(model, name, entry)
                    else:  # others get their turn meanwhile
                        found[name] = await asyncio.to_thread(self._decode, model, name, entry)
                    await turns.take()
        return found

    async def _read_some(
        self, model: type[M], wanted: Sequence[str], limit: int | None
    ) -> tuple[int, Mapping[str, Stored[M]]]:
        """Return how many of *wanted*, from the first on, have *limit* bytes together, half as many at worst, and them.

        Raises:
            TooLarge: not even the first has.
        """
        some = len(wanted)
        while True:
            try:
                return some, await self._read(model, wanted[:some], limit)
            except TooLarge:
                if some < 2:
                    raise
                some //= 2

    def _containers(self, writes: Sequence[Put]) -> Sequence[str]:
        """Return the containers that must be there when *writes* are: secrets have them, plain records do not."""
        return sorted({names.container_of(write.name) for write in writes}) if self._secret else []

    def _fitting(self, writes: Sequence[Put]) -> int:
        """Return how many of *writes* the backend takes at once, with room for the containers of them all."""
        return self._backend.max_batch - len(self._containers(writes))

    async def _write(self, writes: Sequence[Put]) -> Sequence[int]:
        """Write one batch, and with it those of its containers that do not exist; return the revision of each."""
        containers = self._containers(writes)
        missing: set[str] = set()
        for _ in range(ATTEMPTS):
            markers = [
                Put(container, b"", ABSENT) if container in missing else Check(container, PRESENT)
                for container in containers
            ]
            try:
                revision = await self._backend.commit([*writes, *markers])
            except Conflict as conflict:
                failed = _names_of(conflict.failed)
            else:
                return [revision] * len(writes)
            _refuse(writes, failed)
            # A container that was not there is to be made; one that was to be made is there: another made it.
            missing ^= failed & set(containers)
        raise not_applied("others keep making and removing the containers of this batch")

    async def _remove(self, removals: Sequence[Delete]) -> Sequence[bool]:
        """Remove one batch, and say for each whether it was there: its guard tells, without reading a value."""
        left = {removal.name: PRESENT if removal.expected is None else removal.expected for removal in removals}
        for _ in range(ATTEMPTS):
            try:
                if left:
                    await self._backend.commit([Delete(name, expected) for name, expected in left.items()])
            except Conflict as conflict:
                failed = _names_of(conflict.failed)
            else:
                return [removal.name in left for removal in removals]
            _refuse([removal for removal in removals if removal.expected is not None], failed)
            left = {name: expected for name, expected in left.items() if name not in failed}
        raise not_applied("others keep removing the records of this batch")


def _records_among(listed: Sequence[str], model: type[Model]) -> Sequence[str]:
    """Return which of *listed* are records: the container itself, and containers in it, are among the names."""
    prefix = model.prefix()
    return [name for name in listed if names.container_of(name) == prefix and not names.is_container(name)]


def _names_of(changes: Sequence[Change]) -> set[str]:
    return {change.name for change in changes if not isinstance(change, Vacant)}


def _aligned(expected: Sequence[int | None] | None, to: Sequence[object]) -> Sequence[int | None]:
    if expected is None:
        return [None] * len(to)
    if len(expected) != len(to):
        raise Invalid("there must be one expected revision for each record")
    return expected


def _check_valid(records: Sequence[Model]) -> None:
    faults = [
        (fault.field if len(records) == 1 else f"[{index}].{fault.field}", fault.reason)
        for index, record in enumerate(records)
        for fault in record.faults()
    ]
    if faults:
        raise Invalid("a record is not valid, so none is saved", tuple(faults))


def _check_distinct(changes: Sequence[Put] | Sequence[Delete]) -> None:
    if len({change.name for change in changes}) != len(changes):
        raise Invalid("a record appears twice in one request")


def _refuse(guarded: Sequence[Put] | Sequence[Delete], failed: set[str]) -> None:
    for change in guarded:
        if change.name in failed:
            if change.expected == ABSENT:
                raise Exists("the record exists already")
            raise Changed("a record is not at the expected revision")


async def _in_batches(
    changes: Sequence[C],
    fitting: Callable[[Sequence[C]], int],
    act: Callable[[Sequence[C]], Awaitable[Sequence[T]]],
) -> Sequence[T]:
    """Return what *act* answers for each of *changes*, batch by batch.

    Args:
        changes: what is to be done, in order.
        fitting: tells, before each batch, how many of those that are left it takes; one goes in any case.
        act: does one batch.

    Raises:
        ServiceError: of *act*; it says how many of the changes are *applied*, and its fate speaks of them all.
    """
    answers: list[T] = []
    while left := changes[len(answers) :]:
        batch = left[: max(1, fitting(left))]
        try:
            answers += await act(batch)
        except ServiceError as error:
            error.applied = len(answers)
            if answers or (error.fate is Fate.APPLIED and len(batch) < len(changes)):
                error.fate = Fate.UNKNOWN
            raise
    return answers
